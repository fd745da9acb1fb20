//! The checks that every transport of requests passes: a [`Requester`](crate::reply::Requester), and the
//! [`Source`](crate::source::Source) of its other side.
//!
//! [`all`] runs every check; each is a function of its own too, which takes a [`RequesterHarness`] for a transport without responders.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use tower_outbox::testing::Memory;
//! use tower_outbox::testing::requester_conformance::{self, RequesterHarness};
//!
//! let harness = || {
//!     let bus = Memory::new();
//!     RequesterHarness::new(Arc::new(bus.clone()), move || Arc::new(bus.clone())).with_redelivery()
//! };
//! requester_conformance::answering::a_reply_has_status_headers_and_body(harness()).await;
//! # if false {
//! requester_conformance::all(async || harness()).await;
//! # }
//! # });
//! ```

#[allow(missing_docs, reason = "the name of a check describes it")]
pub mod answering;
mod harness;
#[allow(missing_docs, reason = "the name of a check describes it")]
pub mod waiting;

pub use self::harness::RequesterHarness;

/// Runs every check, one after the other, each with a new harness.
///
/// # Panics
/// If the transport breaks the contract.
pub async fn all(new_harness: impl AsyncFn() -> RequesterHarness) {
    answering::a_reply_has_status_headers_and_body(new_harness().await).await;
    answering::method_query_and_headers_travel(new_harness().await).await;
    answering::an_error_status_is_an_answer(new_harness().await).await;
    answering::a_large_body_travels_both_ways(new_harness().await).await;
    answering::a_panicking_responder_is_500(new_harness().await).await;
    answering::a_thousand_calls_pair_right(new_harness().await).await;
    answering::two_responders_share_the_load(new_harness().await).await;
    waiting::no_reply_in_time_is_504(new_harness().await).await;
    waiting::no_responder_is_503(new_harness().await).await;
    waiting::a_killed_responder_is_no_reply(new_harness().await).await;
    waiting::another_responder_answers_for_a_killed_one(new_harness().await).await;
    waiting::a_caller_that_goes_away_harms_no_other(new_harness().await).await;
    waiting::an_expired_request_is_not_handled(new_harness().await).await;
}
