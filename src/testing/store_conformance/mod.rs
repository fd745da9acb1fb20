//! The checks that every store passes.
//!
//! [`all`] runs every check; each is a function of its own too, which takes a [`StoreHarness`] for an empty store.
//!
//! ```
//! # #[cfg(feature = "embedded")]
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use tower_outbox::store::{EmbeddedStore, EmbeddedStoreSettings, OpenError, Store};
//! use tower_outbox::testing::store_conformance::{self, StoreCapabilities, StoreHarness};
//!
//! // Each harness has a folder of its own.
//! let harness = || {
//!     let folder = Arc::new(tempfile::tempdir().unwrap());
//!     let capabilities = StoreCapabilities::default().with_drops_oldest(true);
//!     StoreHarness::new(capabilities, move |limits| {
//!         let folder = Arc::clone(&folder);
//!         async move {
//!             let settings = EmbeddedStoreSettings::new(folder.path().join("outbox")).with_limits(limits);
//!             // The store that was dropped before may need a moment to release the folder.
//!             loop {
//!                 match EmbeddedStore::open(&settings).await {
//!                     Err(OpenError::InUse { .. }) => tokio::task::yield_now().await,
//!                     opened => return Ok(Arc::new(opened?) as Arc<dyn Store>),
//!                 }
//!             }
//!         }
//!     })
//! };
//! store_conformance::appending::appended_messages_are_leased_in_order(harness()).await;
//! # if false {
//! store_conformance::all(async || harness()).await;
//! # }
//! # });
//! ```

mod harness;

pub use self::harness::{StoreCapabilities, StoreHarness};

/// Declares the modules of checks, and a function that runs all of them.
macro_rules! checks {
    ($($module:ident: $($check:ident)*;)*) => {
        $(
            #[allow(missing_docs, reason = "the name of a check describes it")]
            pub mod $module;
        )*

        /// Runs every check, one after the other, each with a new harness.
        ///
        /// # Panics
        /// If the store breaks the contract.
        pub async fn all(new_harness: impl AsyncFn() -> StoreHarness) {
            $( $( Box::pin($module::$check(new_harness().await)).await; )* )*
        }
    };
}

checks! {
    appending:
        appended_messages_are_leased_in_order
        batches_follow_each_other
        an_empty_batch_is_stored
        concurrent_batches_are_each_kept_whole_and_in_order
        a_dropped_append_is_stored_as_a_whole_or_not_at_all
        a_limit_of_a_lease_is_kept;
    messages:
        every_field_comes_back_as_it_was
        every_scalar_comes_back_as_it_was
        times_and_durations_at_their_ends_come_back_as_they_were
        empty_and_large_bodies_come_back_as_they_were
        two_messages_of_one_id_are_two_messages;
    order:
        several_of_a_key_are_leased_together_in_order
        the_next_of_a_key_waits_while_one_is_leased
        the_next_of_a_key_waits_for_an_earlier_retry
        a_released_message_waits_for_an_earlier_retry_of_its_key
        a_dead_letter_frees_its_key
        released_messages_of_a_key_come_back_in_order
        other_keys_and_messages_without_one_go_on
        the_same_key_of_another_topic_is_another
        a_key_that_exceeds_the_limit_of_a_lease_waits_for_its_rest
        interleaved_keys_are_all_leased
        many_keys_keep_their_order_whatever_happens;
    settling:
        a_confirmed_message_is_removed
        a_discarded_message_is_removed
        a_released_message_is_due_again_without_an_attempt
        a_retry_is_not_leased_before_its_time
        attempts_and_failures_add_up
        a_dead_letter_is_kept_with_its_reason_and_not_leased
        a_stale_lease_settles_nothing
        a_lease_of_a_message_that_is_gone_settles_nothing
        settlements_of_one_call_may_differ;
    operating:
        a_requeued_dead_letter_comes_with_no_attempts_made
        a_pace_spreads_what_is_requeued
        a_waiting_retry_is_due_at_once_when_requeued
        a_retry_after_a_requeue_waits_its_own_time
        requeue_ignores_messages_that_are_neither_dead_nor_waiting
        dropped_messages_are_gone_for_good
        a_leased_message_is_not_dropped
        dropping_a_waiting_message_frees_its_key
        requeue_and_drop_are_durable
        a_stale_lease_does_not_settle_what_was_requeued;
    reopening:
        appended_messages_are_there_after_a_reopen
        a_backlog_is_read_whole_across_segments
        leased_messages_are_pending_after_a_reopen
        confirmed_messages_are_gone_after_close_and_reopen
        dead_letters_and_retries_survive_a_reopen
        a_lease_from_before_a_reopen_settles_nothing
        order_is_kept_over_a_reopen
        positions_rise_over_a_reopen
        nothing_is_lost_over_many_reopens
        settlements_survive_many_reopens
        a_closed_store_refuses_every_call
        a_lease_that_waits_ends_when_the_store_is_closed;
    listing:
        a_list_has_everything_in_order
        pages_go_through_everything
        each_condition_of_a_filter_holds
        conditions_add_up
        an_entry_says_what_it_waits_for
        counts_are_right_at_each_step
        the_oldest_is_that_of_the_pending_messages;
    limits:
        a_full_store_refuses_and_gives_the_batch_back
        a_batch_that_would_go_over_the_limit_is_refused_as_a_whole
        dead_letters_take_room
        the_limit_of_bytes_is_kept
        admission_is_closed_while_there_is_no_room
        admission_is_known_after_a_reopen
        the_oldest_messages_are_dropped_to_make_room
        leased_and_dead_messages_are_not_dropped_to_make_room
        a_batch_larger_than_the_store_drops_nothing
        the_next_message_says_how_many_were_dropped
        the_count_of_dropped_messages_is_said_until_it_is_confirmed
        the_count_of_dropped_messages_survives_a_reopen
        every_dropped_message_is_counted_once;
    waiting:
        a_lease_waits_for_an_append
        a_lease_waits_for_a_retry
        a_lease_waits_for_a_delay
        a_lease_waits_for_a_key_to_be_freed
        a_lease_waits_for_a_release
        a_lease_waits_for_a_requeue
        a_delay_is_counted_from_the_time_of_the_message
        a_delay_of_another_does_not_hold_up_what_is_due
        a_message_from_the_future_is_due_at_once
        a_dropped_lease_has_leased_nothing
        leases_dropped_beside_appends_lose_nothing
        two_leases_share_what_is_due;
}
