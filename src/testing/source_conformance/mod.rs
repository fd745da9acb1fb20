//! The checks that every source passes.
//!
//! [`all`] runs every check; each is a function of its own too, which takes a [`SourceHarness`] for an empty queue.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use tower_outbox::testing::Memory;
//! use tower_outbox::testing::source_conformance::{self, Dead, SourceHarness};
//!
//! let harness = || {
//!     let queue = Memory::new();
//!     let (messenger, source) = (Arc::new(queue.clone()), Arc::new(queue.clone()));
//!     SourceHarness::new(messenger, source, "user.created", move || {
//!         let dead = queue.dead_letters().into_iter().map(|letter| Dead {
//!             id: letter.message.id(),
//!             reasons: letter.failures.iter().map(|failure| failure.reason.to_string()).collect(),
//!         });
//!         std::future::ready(dead.collect())
//!     })
//! };
//! source_conformance::settling::an_acknowledged_message_is_not_delivered_again(harness()).await;
//! # if false {
//! source_conformance::all(async || harness()).await;
//! # }
//! # });
//! ```

mod harness;
#[allow(missing_docs, reason = "the name of a check describes it")]
pub mod settling;

pub use self::harness::{Dead, SourceCapabilities, SourceHarness};
#[doc(hidden)]
pub use self::harness::{id, ids, ids_of};

/// Runs every check, one after the other, each with a new harness.
///
/// # Panics
/// If the source breaks the contract.
pub async fn all(new_harness: impl AsyncFn() -> SourceHarness) {
    settling::sent_messages_are_received_in_order(new_harness().await).await;
    settling::every_field_arrives(new_harness().await).await;
    settling::a_limit_is_kept(new_harness().await).await;
    settling::an_acknowledged_message_is_not_delivered_again(new_harness().await).await;
    settling::a_released_or_dropped_delivery_comes_again_without_an_attempt(new_harness().await).await;
    settling::a_retry_comes_after_its_delay_as_the_next_attempt(new_harness().await).await;
    settling::a_waiting_retry_does_not_delay_others(new_harness().await).await;
    settling::a_rejected_message_is_a_dead_letter_with_its_reasons(new_harness().await).await;
    settling::a_receive_that_is_dropped_loses_nothing(new_harness().await).await;
    settling::a_closed_source_says_so(new_harness().await).await;
}
