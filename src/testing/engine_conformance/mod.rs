//! The checks that every engine of channels passes.
//!
//! [`all`] runs every check; each is a function of its own too, which takes an [`EngineHarness`] with an engine without channels.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use tower_outbox::channels::embedded::{EmbeddedEngine, EmbeddedEngineSettings};
//! use tower_outbox::testing::engine_conformance::{self, EngineHarness};
//!
//! let folder = tempfile::tempdir().unwrap();
//! let engine = EmbeddedEngine::open(EmbeddedEngineSettings::new(folder.path().join("channels"))).await.unwrap();
//! let harness = EngineHarness::new(Arc::new(engine)).with_kept(folder);
//! engine_conformance::queues::messages_come_in_the_order_they_were_sent(harness).await;
//! # });
//! ```

#[allow(missing_docs, reason = "the name of a check describes it")]
pub mod administration;
mod harness;
#[allow(missing_docs, reason = "the name of a check describes it")]
pub mod live;
#[allow(missing_docs, reason = "the name of a check describes it")]
pub mod queues;
#[allow(missing_docs, reason = "the name of a check describes it")]
pub mod settling;
#[allow(missing_docs, reason = "the name of a check describes it")]
pub mod streams;

pub use self::harness::EngineHarness;

/// Runs every check, one after the other, each with a new harness.
///
/// # Panics
/// If the engine breaks the contract.
pub async fn all(new: impl AsyncFn() -> EngineHarness) {
    queues::messages_come_in_the_order_they_were_sent(new().await).await;
    queues::a_batch_has_a_result_for_each_message(new().await).await;
    queues::all_that_a_message_carries_arrives(new().await).await;
    queues::a_receive_waits_for_the_first_message(new().await).await;
    queues::a_receive_until_full_waits_the_whole_time(new().await).await;
    queues::one_message_goes_to_one_of_two_consumers(new().await).await;
    queues::an_expired_message_is_dropped_and_counted(new().await).await;
    queues::a_delayed_message_comes_when_it_is_due(new().await).await;
    queues::a_peek_takes_nothing(new().await).await;
    queues::a_purge_counts_and_leaves_what_is_held(new().await).await;
    queues::a_dropped_receive_loses_nothing(new().await).await;
    queues::messages_acked_by_a_dropped_receive_come_back(new().await).await;
    settling::an_acknowledged_message_is_gone(new().await).await;
    settling::a_released_message_is_back_at_its_place(new().await).await;
    settling::a_rejected_message_goes_to_the_tail(new().await).await;
    settling::a_long_list_goes_to_the_tail_in_its_order(new().await).await;
    settling::a_rejected_message_can_be_delayed(new().await).await;
    settling::visibility_that_runs_out_rejects(new().await).await;
    settling::visibility_can_be_extended(new().await).await;
    settling::received_too_often_goes_to_the_dead_letter_queue(new().await).await;
    settling::without_a_dead_letter_queue_it_is_discarded(new().await).await;
    settling::a_requeued_message_begins_anew(new().await).await;
    settling::a_message_that_moves_back_and_forth_is_not_lost(new().await).await;
    settling::a_replaced_message_goes_with_the_ack(new().await).await;
    settling::a_list_is_settled_up_to_what_is_not_held(new().await).await;
    settling::a_receipt_settles_its_own_messages_only(new().await).await;
    settling::of_two_settlements_at_once_one_counts(new().await).await;
    settling::an_open_receipt_swallows_no_new_message(new().await).await;
    settling::a_closed_receipt_is_unknown(new().await).await;
    streams::sequences_begin_at_one_and_have_no_gaps(new().await).await;
    streams::each_start_begins_at_its_message(new().await).await;
    streams::a_durable_name_continues_where_it_was(new().await).await;
    streams::a_durable_name_in_use_is_refused(new().await).await;
    streams::a_group_gets_one_copy(new().await).await;
    streams::a_released_message_comes_again(new().await).await;
    streams::what_a_lost_member_had_goes_to_the_others(new().await).await;
    streams::a_slow_subscriber_loses_nothing(new().await).await;
    streams::retention_deletes_the_oldest(new().await).await;
    live::events_go_to_every_subscriber_there_is(new().await).await;
    live::wildcards_match_words(new().await).await;
    live::a_group_of_subscribers_gets_one_event(new().await).await;
    live::a_slow_subscriber_loses_events_alone(new().await).await;
    live::events_that_wait_have_a_bounded_size(new().await).await;
    live::a_request_gets_its_answer(new().await).await;
    live::the_first_answer_wins(new().await).await;
    live::nobody_to_answer_is_known_at_once(new().await).await;
    live::no_answer_in_time_is_an_error(new().await).await;
    live::commands_and_queries_are_separate(new().await).await;
    administration::channels_are_listed_with_what_they_hold(new().await).await;
    administration::a_deleted_channel_begins_anew(new().await).await;
    administration::a_full_queue_refuses(new().await).await;
    administration::a_closed_engine_says_so(new().await).await;
}
