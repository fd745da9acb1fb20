//! The configuration that all requests of a layer share.

use std::fmt;
use std::sync::Arc;

use http::{request, response};

use super::flight::{Flight, FlightLimits};
use super::on_send_failure::OnSendFailure;
use crate::message::Message;
use crate::messenger::{Admission, Stage, Unsent};
use crate::queue::QueueConfig;
use crate::store::admission::Admitted;

type Enrich = dyn Fn(&request::Parts, &response::Parts, &mut Message) + Send + Sync;

#[derive(Clone)]
pub(super) struct LayerConfig {
    pub(super) queue: Arc<QueueConfig>,
    pub(super) admission: Option<Admission>,
    /// How far messages are when the messenger has accepted them.
    pub(super) stage: Stage,
    pub(super) backend: Option<Arc<str>>,
    pub(super) flight: Flight,
    pub(super) flight_limits: FlightLimits,
    pub(super) on_send_failure: OnSendFailure,
    pub(super) success: fn(&response::Parts) -> bool,
    pub(super) idempotency_key: bool,
    pub(super) enrich: Option<Arc<Enrich>>,
    pub(super) on_unsent: Option<Arc<dyn Fn(Unsent) + Send + Sync>>,
}

/// The messenger cannot accept messages now.
pub(super) struct Full;

impl LayerConfig {
    /// Admits a request, with capacity for one message where capacity is reserved.
    #[inline]
    pub(super) fn admit(&self) -> Result<Option<Admitted>, Full> {
        if self.flight.is_full(self.flight_limits) {
            return Err(Full);
        }
        match &self.admission {
            None => Ok(None),
            Some(gate) => gate.enter().map(Some).ok_or(Full),
        }
    }
}

impl fmt::Debug for LayerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerConfig")
            .field("max_messages", &self.queue.max_messages)
            .field("max_bytes", &self.queue.max_bytes)
            .field("on_send_failure", &self.on_send_failure)
            .finish_non_exhaustive()
    }
}

const GRPC_STATUS: http::HeaderName = http::HeaderName::from_static("grpc-status");

/// The default rule of [`MessagingLayer::with_success`](super::MessagingLayer::with_success).
pub(crate) fn is_success(response: &response::Parts) -> bool {
    response.status.is_success() && response.headers.get(GRPC_STATUS).is_none_or(|status| status == "0")
}
