//! The one suite every store passes, on each of this crate's.

mod instances;
mod model;
mod space;

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use tower_outbox::store::{
    EmbeddedStoreSettings, Limits, PostgresStore, SqlStoreSettings, SqliteStore, Store,
};
use tower_outbox::testing::store_conformance::{
    StoreCapabilities, StoreHarness, appending, limits, listing, messages, operating, order, reopening,
    settling, waiting,
};

use crate::support::databases::{self, Schema};
use crate::support::stores::{open, until};

/// The harness of a store, and what only some of this crate's stores have.
struct Harness {
    harness: StoreHarness,
    /// A store that keeps everything in files of about this many bytes in this folder, and frees the space of settled
    /// messages.
    files: Option<(PathBuf, u64)>,
}

impl Deref for Harness {
    type Target = StoreHarness;

    fn deref(&self) -> &StoreHarness {
        &self.harness
    }
}

impl From<Harness> for StoreHarness {
    fn from(harness: Harness) -> Self {
        harness.harness
    }
}

fn embedded_with(change: fn(EmbeddedStoreSettings) -> EmbeddedStoreSettings) -> Harness {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let path = folder.path().join("outbox");
    let files = Some((path.clone(), change(EmbeddedStoreSettings::new(&path)).segment_bytes));
    let capabilities = StoreCapabilities::default().with_drops_oldest(true);
    let harness = StoreHarness::new(capabilities, move |limits: Limits| {
        let settings = change(EmbeddedStoreSettings::new(folder.path().join("outbox"))).with_limits(limits);
        async move { Ok(Arc::new(open(&settings).await?) as Arc<dyn Store>) }
    });
    Harness { harness, files }
}

/// Waits until nothing is under way any more, as a process that has ended has nothing under way.
async fn ended<D: sqlx::Database>(pool: &sqlx::Pool<D>) {
    until("nothing is under way", async || pool.num_idle() as u32 == pool.size()).await;
}

async fn sqlite() -> Harness {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let pool = databases::sqlite(folder.path()).await;
    let harness = StoreHarness::new(StoreCapabilities::default(), move |limits: Limits| {
        let (pool, settings) = (pool.clone(), SqlStoreSettings::default().with_limits(limits));
        let folder = Arc::clone(&folder);
        async move {
            ended(&pool).await;
            SqliteStore::migrate(&pool, &settings).await?;
            drop(folder);
            Ok(Arc::new(SqliteStore::open(pool, &settings).await?) as Arc<dyn Store>)
        }
    });
    Harness { harness, files: None }
}

async fn postgres() -> Harness {
    let Schema { pool, settings } = Schema::new().await;
    let harness = StoreHarness::new(StoreCapabilities::default(), move |limits: Limits| {
        let (pool, settings) = (pool.clone(), settings.clone().with_limits(limits));
        async move {
            ended(&pool).await;
            PostgresStore::migrate(&pool, &settings).await?;
            Ok(Arc::new(PostgresStore::open(pool, &settings).await?) as Arc<dyn Store>)
        }
    });
    Harness { harness, files: None }
}

/// Each behaviour as a test of a store.
macro_rules! suite {
    ($($module:ident: $($behaviour:ident)*;)*) => {
        mod embedded {
            fn harness() -> super::Harness {
                super::embedded_with(|settings| settings)
            }

            $(mod $module { $(
                #[tokio::test]
                async fn $behaviour() {
                    crate::stores::$module::$behaviour(super::harness().into()).await;
                }
            )* })*
        }

        /// Files so small that everything goes over their ends.
        mod embedded_in_tiny_files {
            fn harness() -> super::Harness {
                super::embedded_with(|settings| settings.with_segment_bytes(4_096))
            }

            $(mod $module { $(
                #[tokio::test]
                async fn $behaviour() {
                    crate::stores::$module::$behaviour(super::harness().into()).await;
                }
            )* })*
        }

        mod sqlite {
            $(mod $module { $(
                #[tokio::test]
                async fn $behaviour() {
                    crate::stores::$module::$behaviour(crate::stores::sqlite().await.into()).await;
                }
            )* })*
        }

        mod postgres {
            $(mod $module { $(
                #[tokio::test]
                #[ignore = "needs brokers: ./scripts/test"]
                async fn $behaviour() {
                    crate::stores::$module::$behaviour(crate::stores::postgres().await.into()).await;
                }
            )* })*
        }
    };
}

suite! {
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
    space:
        space_is_given_back
        stragglers_do_not_keep_what_is_around_them
        a_large_backlog_survives_a_reopen;
    model:
        random_operations_agree_with_a_model
        random_operations_on_a_full_store_agree_with_a_model;
}
