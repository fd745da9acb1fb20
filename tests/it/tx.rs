//! The transaction of a request: rows and events, both or neither.
//!
//! One suite, on both databases.

mod counting;
mod dropping;
mod ending;
mod handled;
mod idempotency;
mod persisting;
mod place;
mod relayed;
mod sharing;
mod writers;

/// Each behaviour as a test on each database.
macro_rules! suite {
    ($($module:ident: $($behaviour:ident)*;)*) => {
        mod sqlite {
            $(mod $module { $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    crate::tx::$module::$behaviour(crate::tx::place::Lite::new().await).await;
                }
            )* })*
        }

        mod postgres {
            $(mod $module { $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                #[ignore = "needs brokers: ./scripts/test"]
                async fn $behaviour() {
                    crate::tx::$module::$behaviour(crate::tx::place::Pg::new().await).await;
                }
            )* })*
        }
    };
}

suite! {
    ending:
        a_success_commits_both_before_its_head_goes_out
        a_success_without_messages_commits_its_rows
        any_other_response_leaves_neither
        the_one_rule_of_the_layer_decides
        an_error_of_the_service_leaves_neither
        a_panic_leaves_neither_caught_or_not
        a_timeout_outside_leaves_neither
        a_client_gone_before_the_handler_is_done_leaves_neither
        a_request_dropped_where_there_is_no_runtime_leaves_neither
        a_commit_that_fails_leaves_neither_and_answers_500
        what_leaves_always_leaves_when_the_commit_fails
        what_leaves_always_leaves_when_the_request_fails
        a_transaction_held_by_a_task_is_an_error_that_says_so
        a_transaction_held_by_a_streaming_body_is_an_error_that_says_so
        a_statement_that_failed_and_was_ignored_leaves_neither
        a_transaction_ended_by_hand_is_500_and_its_event_is_not_sent
        a_transaction_ended_by_hand_is_500_without_events_too
        an_event_that_cannot_be_stored_takes_its_row_along
        ends_are_counted_and_logged;
    relayed:
        rows_and_sent_events_agree_whatever_happened
        what_is_committed_is_sent_at_once
        what_is_persisted_is_sent_when_the_response_is_there;
    dropping:
        a_request_dropped_anywhere_leaves_both_or_neither
        a_request_that_fails_dropped_anywhere_leaves_neither
        a_persist_dropped_anywhere_leaves_both_or_neither;
    sharing:
        a_middleware_and_the_handler_have_the_same_transaction
        two_at_once_are_an_error_that_says_the_cure
        without_the_layer_is_an_error_that_says_the_cure
        another_messenger_or_database_is_an_error_that_says_the_cure
        nested_layers_have_one_transaction
        an_inner_call_that_failed_leaves_neither_row_nor_event
        a_retry_between_two_layers_commits_the_call_that_succeeds
        an_inner_call_that_failed_takes_along_who_shares_its_transaction
        decorators_and_handles_keep_the_transaction
        no_connection_in_time_is_503
        a_savepoint_is_part_of_it
        after_the_response_there_is_none;
    persisting:
        what_is_persisted_leaves_with_the_transaction_of_the_app
        a_bus_persists_outside_a_request
        a_commit_long_after_persist_is_sent_at_once
        what_is_persisted_goes_with_a_rollback
        persist_works_in_the_transaction_of_the_request
        what_leaves_always_is_not_persisted
        without_a_transaction_it_is_an_error_and_the_messages_stay
        without_an_outbox_in_this_database_it_is_an_error_and_the_messages_stay
        after_the_response_it_is_an_error
        in_a_transaction_that_is_over_it_is_an_error_and_nothing_is_stored
        messages_that_cannot_be_stored_are_in_the_queue_again
        what_is_persisted_takes_room;
    handled:
        a_retention_shorter_than_the_retries_is_warned_about
        a_message_that_comes_again_is_handled_once
        a_message_whose_handler_failed_is_handled_again
        of_two_deliveries_at_once_one_is_handled
        what_was_enqueued_before_does_not_leave_again
        the_same_id_from_elsewhere_is_another_message
        what_is_older_than_the_retention_is_forgotten;
    idempotency:
        a_request_sent_again_makes_the_same_ids_and_stores_them_once
        another_key_path_or_method_makes_other_ids
        an_id_of_the_handler_stays
        what_is_appended_or_persisted_is_stored_once_too
        a_try_that_ended_its_transaction_by_hand_does_not_count
        a_try_that_failed_does_not_count
        keys_that_are_none_are_400
        without_the_setting_the_header_means_nothing;
}

/// Only SQLite has this.
mod sqlite_alone {
    macro_rules! tests {
        ($($module:ident: $behaviour:ident)*) => { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                crate::tx::$module::$behaviour(crate::tx::place::Lite::new().await).await;
            }
        )* };
    }

    tests! {
        writers: writers_of_all_kinds_at_once_wait_for_their_turns
        writers: a_writer_blocks_others_no_longer_than_the_acquire_timeout
    }
}

/// Only Postgres has this.
mod postgres_alone {
    mod killed {
        macro_rules! tests {
            ($($behaviour:ident)*) => { $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                #[ignore = "needs brokers: ./scripts/test"]
                async fn $behaviour() {
                    crate::tx::killed::$behaviour(crate::tx::place::Pg::new().await).await;
                }
            )* };
        }

        tests! {
            a_connection_killed_before_the_commit_leaves_neither_and_answers_503
            a_connection_killed_during_the_commit_leaves_neither_and_answers_503
            a_client_gone_while_it_is_committed_has_both
            no_more_commits_hang_than_there_are_connections
            a_serialization_failure_is_503
            a_request_dropped_while_its_transaction_begins_leaves_no_connection_in_one
        }

        #[test]
        #[ignore = "needs brokers: ./scripts/test"]
        fn a_commit_that_is_not_answered_is_503_and_not_waited_for() {
            crate::tx::killed::a_commit_that_is_not_answered_is_503_and_not_waited_for();
        }

        #[test]
        #[ignore = "needs brokers: ./scripts/test"]
        fn a_runtime_that_ends_while_it_is_committed_is_said() {
            crate::tx::killed::a_runtime_that_ends_while_it_is_committed_is_said();
        }
    }
}

mod killed;
