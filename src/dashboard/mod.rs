//! Pages for operators: what is stuck, why, and the means to mend it.
//!
//! [`Bus::dashboard`](crate::Bus::dashboard) makes them. They are plain HTML pages that work without JavaScript, below whatever path the
//! app nests them. They look and act through the same JSON API as [`Bus::admin`](crate::Bus::admin) serves.
//!
//! | page | content |
//! |---|---|
//! | `overview` | what waits and what is dead, rates over the last hour, the broker, the relay |
//! | `messages` | stored messages, filtered by the query of the URL; requeue or drop some, or all that match |
//! | `message` | one message: body, headers, failed attempts, why it is still stored |
//! | `dead-letters` | dead letters, grouped by reason and topic |
//! | `topics` | what is sent and stored by topic: rates, depth, failures |
//! | `channels` | the channels of the backend `channels`: depth, consumers, limits, last sequence |
//! | `routing` | the router of the backend `routing`: links, queues, drops |
//! | `consumers` | the consumers of this process, with pause and resume |
//! | `audit` | who did what when: an [`Operator`](crate::admin::Operator) in the extensions of a request says who |
//!
//! Bodies are shown to whoever may open the pages, and they act: **put the app's authentication before them**. A request that changes
//! something is refused unless the browser says that it comes from the dashboard itself (`Sec-Fetch-Site`, or `Origin`).

mod act;
mod api;
mod assets;
mod audit;
mod body;
mod broker;
mod broker_act;
mod channels;
mod consumers;
mod dead_letters;
mod done;
mod drops;
mod edit;
mod error;
mod events;
mod fields;
mod filter;
mod json;
mod layout;
mod message;
mod messages;
mod overview;
mod plot;
mod rate;
mod routes;
mod routing;
mod same_origin;
mod text;
mod topics;
mod undo;

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse;
use axum::routing::Route;
use tower_layer::Layer;
use tower_service::Service;

use self::api::Api;
#[cfg(feature = "cli")]
pub(crate) use self::api::{Answering, Local};
use crate::bus::Bus;
#[cfg(feature = "cli")]
use crate::settings::TraceUrl;

/// Pages for operators, before it is decided who may open them.
///
/// It becomes a router by [`guarded_by`](Self::guarded_by) or [`without_guard`](Self::without_guard), so that nobody serves it to everyone by
/// oversight.
#[must_use = "it serves nothing before it is a router"]
pub struct Dashboard {
    api: Api,
}

impl Bus {
    /// Pages for operators: see [`dashboard`](crate::dashboard). The app nests them at a path of its choice.
    ///
    /// ```
    /// use axum::Router;
    /// use axum::extract::Request;
    /// use axum::http::{StatusCode, header::AUTHORIZATION};
    /// use axum::middleware::{Next, from_fn};
    /// use axum::response::Response;
    /// # use tower_outbox::{Bus, Settings};
    ///
    /// async fn operators(request: Request, next: Next) -> Result<Response, StatusCode> {
    ///     let who = request.headers().get(AUTHORIZATION).ok_or(StatusCode::UNAUTHORIZED)?;
    ///     // Check it in the way of the service.
    ///     # let _ = who;
    ///     Ok(next.run(request).await)
    /// }
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// # let bus = Bus::start(&Settings::default()).await.unwrap();
    /// let app: Router = Router::new()
    ///     // .. the routes of the app ..
    ///     .layer(bus.layer())
    ///     .nest("/ops/outbox", bus.dashboard().guarded_by(from_fn(operators)));
    /// # });
    /// ```
    pub fn dashboard(&self) -> Dashboard {
        Dashboard { api: Api::of(self.admin()).with_trace_url(self.trace_url()) }
    }
}

impl Dashboard {
    /// Pages over something that answers as the admin router does.
    #[cfg(feature = "cli")]
    pub(crate) fn of(answering: std::sync::Arc<dyn Answering>, trace_url: Option<TraceUrl>) -> Self {
        Self { api: Api::answered_by(answering).with_trace_url(trace_url) }
    }

    /// How long a drop can be undone: 30 seconds by default. Messages are dropped after it, and at once if it is zero. A process that ends
    /// before drops nothing.
    pub fn with_undo_window(mut self, window: Duration) -> Self {
        self.api = self.api.with_undo(window);
        self
    }

    /// Returns the pages behind a layer that admits operators only.
    pub fn guarded_by<L>(self, guard: L) -> Router
    where
        L: Layer<Route> + Clone + Send + Sync + 'static,
        L::Service: Service<Request> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request>>::Response: IntoResponse + 'static,
        <L::Service as Service<Request>>::Error: Into<Infallible> + 'static,
        <L::Service as Service<Request>>::Future: Send + 'static,
    {
        self.without_guard().layer(guard)
    }

    /// Returns the pages without a guard: for an app whose own layers, or whose proxy, admit operators only. Everyone else would read and
    /// drop messages.
    pub fn without_guard(self) -> Router {
        routes::router(self.api)
    }
}

impl fmt::Debug for Dashboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dashboard").finish_non_exhaustive()
    }
}
