//! Answers for the probes of an orchestrator.

use std::sync::{Arc, Mutex};

use tokio::task::AbortHandle;

use super::running::Bus;
use crate::consumer::ConsumerHandle;
use crate::messenger::{Health, Messenger, Stage};
use crate::util::stop::Stopper;
use crate::util::sync::lock;

/// The parts of a bus that its probes look at.
#[derive(Clone)]
struct Probed {
    messenger: Arc<dyn Messenger>,
    worker: Option<AbortHandle>,
    consumers: Arc<Mutex<Vec<(String, ConsumerHandle)>>>,
    stopper: Stopper,
}

impl Bus {
    /// Whether messages can be sent now, and every running [consumer](Self::consumer) of this bus can receive. It may take up
    /// to two seconds for each broker.
    pub async fn health(&self) -> Health {
        let health = self.messenger.health().await;
        if !health.is_up() {
            return health;
        }
        let consumers = lock(&self.consumers);
        let down = consumers.iter().find_map(|(name, handle)| match handle.health() {
            Health::Up => None,
            Health::Down { reason } => Some(format!("the consumer `{name}`: {reason}")),
        });
        down.map_or(Health::Up, |reason| Health::Down { reason })
    }

    /// Returns the address of traces.
    #[cfg(feature = "dashboard")]
    pub(crate) fn trace_url(&self) -> Option<crate::settings::TraceUrl> {
        self.trace_url.clone()
    }

    /// Whether this process works, for a liveness probe. It is down only when a part stopped for good and a restart helps: the worker of
    /// the delivery (relay or background) has ended, or a [consumer](Self::consumer) was dropped or its source closed, without a shutdown.
    ///
    /// A broker or a database that is down does not count: a restart would not mend it. It asks nothing, and answers at once.
    #[must_use]
    pub fn liveness(&self) -> Health {
        self.probed().liveness()
    }

    /// Whether messages of requests can be accepted, for a readiness probe.
    ///
    /// With `DELIVERY = "direct"` that needs a broker; asking may take two seconds for each. With the other deliveries it needs only room
    /// in the buffer or the store: an instance whose broker is down still accepts messages. During a shutdown it is down.
    pub async fn readiness(&self) -> Health {
        self.probed().readiness().await
    }

    /// A router with the probes: `GET /live` answers with [`liveness`](Self::liveness), `GET /ready` with
    /// [`readiness`](Self::readiness): 200, or 503 and the reason. It needs no layer, and shows no message.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// # use axum::Router;
    /// # use tower_outbox::{Bus, Settings};
    /// let bus = Bus::start(&Settings::default()).await?;
    /// let app: Router = Router::new()
    ///     // .. the routes of the app ..
    ///     .layer(bus.layer())
    ///     .nest("/health", bus.probes());
    /// # Ok::<(), tower_outbox::SettingsError>(())
    /// # }).unwrap();
    /// ```
    #[cfg(any(feature = "admin", feature = "serve"))]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "admin", feature = "serve"))))]
    pub fn probes(&self) -> axum::Router {
        use axum::routing::get;
        let (live, ready) = (self.probed(), self.probed());
        axum::Router::new()
            .route("/live", get(async move || answer(live.liveness())))
            .route("/ready", get(async move || answer(ready.readiness().await)))
    }

    fn probed(&self) -> Probed {
        Probed {
            messenger: Arc::clone(&self.messenger),
            worker: self.worker_ended.clone(),
            consumers: Arc::clone(&self.consumers),
            stopper: self.stopper.clone(),
        }
    }
}

impl Probed {
    fn liveness(&self) -> Health {
        if self.stopper.is_stopped() {
            return Health::Up;
        }
        if self.worker.as_ref().is_some_and(AbortHandle::is_finished) {
            return down("the worker of the delivery has ended: no accepted message is sent any more");
        }
        let consumers = lock(&self.consumers);
        let ended = consumers.iter().find_map(|(name, handle)| Some((name, handle.ended()?)));
        ended.map_or(Health::Up, |(name, reason)| down(format!("the consumer `{name}`: {reason}")))
    }

    async fn readiness(&self) -> Health {
        if self.stopper.is_stopped() {
            return down("the bus shuts down");
        }
        let capabilities = self.messenger.capabilities();
        if capabilities.admission.is_some_and(|admission| !admission.is_open()) {
            return down(
                "requests get 503: the outbox, or the background buffer, is full or cannot be written",
            );
        }
        match capabilities.stage {
            Stage::Confirmed => self.messenger.health().await,
            Stage::Buffered | Stage::Stored => Health::Up,
        }
    }
}

#[cfg(any(feature = "admin", feature = "serve"))]
fn answer(health: Health) -> (http::StatusCode, String) {
    match health {
        Health::Up => (http::StatusCode::OK, "up\n".to_owned()),
        Health::Down { reason } => (http::StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
    }
}

fn down(reason: impl Into<String>) -> Health {
    Health::Down { reason: reason.into() }
}
