//! Doubles for the tests of an app, and conformance suites for those who write their own messenger, store or source.
//!
//! - [`Recording`] and [`Memory`] replace a broker in the tests of an app, and [`request`] calls a handler of messages without one.
//! - [`messenger_conformance`], [`store_conformance`], [`source_conformance`] and [`requester_conformance`] (and `engine_conformance` for
//!   channels) check that an implementation of [`Messenger`](crate::messenger::Messenger), [`Store`](crate::store::Store),
//!   [`Source`](crate::source::Source) or [`Requester`](crate::reply::Requester) keeps the contract. This crate runs the same checks on its own. A check panics with the reason when the contract is broken.

use axum_core::body::Body;
use http::Request;

pub use crate::backends::memory::{DeadLetter, Memory};
pub use crate::backends::recording::{Recording, Sent};
use crate::consumer::request as requests;
use crate::source::Delivery;

#[cfg(feature = "channels")]
#[allow(clippy::unwrap_used, reason = "a check that fails panics")]
pub mod engine_conformance;
#[allow(clippy::unwrap_used, reason = "a check that fails panics")]
pub mod messenger_conformance;
#[allow(clippy::unwrap_used, reason = "a check that fails panics")]
pub mod requester_conformance;
#[allow(clippy::unwrap_used, reason = "a check that fails panics")]
pub mod source_conformance;
#[allow(clippy::unwrap_used, reason = "a check that fails panics")]
pub mod store_conformance;
#[doc(hidden)]
#[allow(
    missing_docs,
    clippy::should_implement_trait,
    clippy::unwrap_used,
    reason = "not for users; a check that fails panics"
)]
pub mod support;

/// The request that a [`Consumer`](crate::consumer::Consumer) makes of a delivery, to test a handler without a source.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use axum::{Router, http::StatusCode, routing::post};
/// use tower::ServiceExt;
/// use tower_outbox::testing::request;
/// use tower_outbox::{Delivery, Message};
///
/// async fn send_mail(delivery: Delivery) -> StatusCode {
///     if delivery.attempt() > 3 { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::NO_CONTENT }
/// }
///
/// let handlers: Router = Router::new().route("/user/created", post(send_mail));
/// let message = Message::json("user.created", &serde_json::json!({"name": "Jo"})).unwrap();
/// let first = request(&Delivery::of(message.clone()));
/// assert_eq!(handlers.clone().oneshot(first).await.unwrap().status(), 204);
/// let fourth = request(&Delivery::of(message).with_attempt(4));
/// assert_eq!(handlers.oneshot(fourth).await.unwrap().status(), 422);
/// # });
/// ```
///
/// # Panics
/// When the message cannot be a request, such as with more than 64 KiB of headers: a consumer makes it a dead letter.
#[must_use]
pub fn request(delivery: &Delivery) -> Request<Body> {
    match requests::request(delivery, &requests::source(delivery.source())) {
        Ok(request) => request,
        Err(error) => panic!("the message cannot be a request: {error}"),
    }
}
