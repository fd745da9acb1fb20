//! Request and reply over channels.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use axum::body::{Body, to_bytes};
//! use axum::http::Request;
//! use axum::{Router, routing::post};
//! use tower::ServiceExt;
//! use tower_outbox::Consumer;
//! use tower_outbox::channels::calls::{ChannelRequester, RequestSource};
//! use tower_outbox::channels::embedded::{EmbeddedEngine, EmbeddedEngineSettings};
//! use tower_outbox::channels::{ChannelName, Requests};
//! use tower_outbox::client::Client;
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("channels");
//! let engine: Arc<dyn Requests> = Arc::new(EmbeddedEngine::open(EmbeddedEngineSettings::new(path)).await?);
//! let orders = ChannelName::new("orders")?;
//!
//! let app: Router = Router::new().route("/order/quote", post(|| async { "5 EUR" }));
//! let source = RequestSource::new(Arc::clone(&engine), orders.clone()).subscribed().await?;
//! tokio::spawn(Consumer::new(source, app).into_future());
//!
//! let client = Client::new(ChannelRequester::new(engine, orders));
//! let response = client.oneshot(Request::post("/order/quote").body(Body::empty())?).await?;
//! assert_eq!(to_bytes(response.into_body(), 1_000).await?, "5 EUR");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```

mod requester;
mod settle;
mod source;
mod waiting;
mod wire;

pub use self::requester::ChannelRequester;
pub use self::source::RequestSource;
