//! The state of the routes.

use std::sync::{Arc, Mutex};

use axum::response::Response;

use super::destination::Destination;
use super::error::AdminError;
use super::later_drops::LaterDrops;
use super::parts::Parts;
use crate::consumer::ConsumerHandle;
use crate::messenger::Messenger;
use crate::outbox::OutboxHandle;
use crate::settings::DeliveryMode;

/// Consumers by their names.
pub(crate) type ConsumerHandles = Arc<Mutex<Vec<(String, ConsumerHandle)>>>;

pub(super) type Answer = Result<Response, AdminError>;

/// The outbox behind the router.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) delivery: DeliveryMode,
    pub(crate) app: AppState,
    pub(crate) messenger: Arc<dyn Messenger>,
    pub(crate) outbox: Option<OutboxHandle>,
    pub(crate) consumers: ConsumerHandles,
    pub(crate) later: LaterDrops,
    pub(crate) parts: Parts,
    pub(crate) destination: Destination,
}

/// Whether the app of the outbox runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "cli"),
    allow(dead_code, reason = "only the command line opens an outbox of another process")
)]
pub(crate) enum AppState {
    /// It is this process.
    Running,
    /// Its outbox was open to nobody else.
    Stopped,
    /// Nobody asked it.
    Unknown,
}

impl Admin {
    pub(super) fn outbox(&self) -> Result<&OutboxHandle, AdminError> {
        self.outbox.as_ref().ok_or_else(|| AdminError::not_found(self.nothing_stored()))
    }

    pub(super) fn nothing_stored(&self) -> String {
        let delivery = self.delivery;
        format!(
            "DELIVERY is \"{delivery}\": messages are not stored; set DELIVERY = \"durable\" to store them"
        )
    }
}
