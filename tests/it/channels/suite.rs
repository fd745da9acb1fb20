//! Each check of the suite as a test of the embedded engine.

/// Calls a macro with all checks.
macro_rules! every_check {
    ($suite:ident) => {
        $suite! {
            queues:
                messages_come_in_the_order_they_were_sent
                a_batch_has_a_result_for_each_message
                all_that_a_message_carries_arrives
                a_receive_waits_for_the_first_message
                a_receive_until_full_waits_the_whole_time
                one_message_goes_to_one_of_two_consumers
                an_expired_message_is_dropped_and_counted
                a_delayed_message_comes_when_it_is_due
                a_peek_takes_nothing
                a_purge_counts_and_leaves_what_is_held
                messages_acked_by_a_dropped_receive_come_back
                a_dropped_receive_loses_nothing;
            settling:
                an_acknowledged_message_is_gone
                a_released_message_is_back_at_its_place
                a_rejected_message_goes_to_the_tail
                a_long_list_goes_to_the_tail_in_its_order
                a_rejected_message_can_be_delayed
                visibility_that_runs_out_rejects
                visibility_can_be_extended
                received_too_often_goes_to_the_dead_letter_queue
                without_a_dead_letter_queue_it_is_discarded
                a_requeued_message_begins_anew
                a_message_that_moves_back_and_forth_is_not_lost
                a_replaced_message_goes_with_the_ack
                a_list_is_settled_up_to_what_is_not_held
                a_receipt_settles_its_own_messages_only
                of_two_settlements_at_once_one_counts
                an_open_receipt_swallows_no_new_message
                a_closed_receipt_is_unknown;
            streams:
                sequences_begin_at_one_and_have_no_gaps
                each_start_begins_at_its_message
                a_durable_name_continues_where_it_was
                a_durable_name_in_use_is_refused
                a_group_gets_one_copy
                a_released_message_comes_again
                what_a_lost_member_had_goes_to_the_others
                a_slow_subscriber_loses_nothing
                retention_deletes_the_oldest;
            live:
                events_go_to_every_subscriber_there_is
                wildcards_match_words
                a_group_of_subscribers_gets_one_event
                a_slow_subscriber_loses_events_alone
                events_that_wait_have_a_bounded_size
                a_request_gets_its_answer
                the_first_answer_wins
                nobody_to_answer_is_known_at_once
                no_answer_in_time_is_an_error
                commands_and_queries_are_separate;
            administration:
                channels_are_listed_with_what_they_hold
                a_deleted_channel_begins_anew
                a_full_queue_refuses
                a_closed_engine_says_so;
        }
    };
}
pub(super) use every_check;

macro_rules! suite {
    ($($module:ident: $($check:ident)*;)*) => {
        $(mod $module { $(
            #[tokio::test]
            async fn $check() {
                let harness = crate::channels::embedded().await;
                tower_outbox::testing::engine_conformance::$module::$check(harness).await;
            }
        )* })*
    };
}

every_check!(suite);
