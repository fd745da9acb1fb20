//! Transactions that commit late.

use std::time::{Duration, Instant};

use tower_outbox::Message;
use tower_outbox::store::Store;

use super::process::{Process, ProcessHarness, until_empty};

fn keyed(n: u64, part: u64) -> Message {
    Message::new("a", format!("0 {n} {part}")).unwrap().with_key(n.to_string())
}

fn unkeyed(n: u64) -> Message {
    Message::new("a", format!("1 {n} 0")).unwrap()
}

/// Stores messages with positions that are lower than those of the next, in a transaction that is still open.
async fn store_late(
    place: &ProcessHarness,
    store: &dyn Store,
    messages: Vec<Message>,
) -> sqlx::Transaction<'static, sqlx::Postgres> {
    store.append(messages).await.unwrap();
    let schema = place.schema.as_ref().unwrap();
    let mut transaction = schema.pool.begin().await.unwrap();
    schema.tables().move_messages_into(&mut transaction).await;
    transaction
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_late_commit_keeps_the_order_of_its_keys() {
    for later in [1, 3_000] {
        let place = ProcessHarness::postgres(Duration::from_secs(15)).await;
        let store = place.store().await;
        let late = store_late(&place, &*store, vec![keyed(7, 0), unkeyed(0), keyed(7, 1)]).await;
        let processes =
            [Process::start(&place, 1, "nothing").await, Process::start(&place, 2, "nothing").await];
        place.until_shared_by(2).await;
        store.append((1..=later).map(unkeyed).collect()).await.unwrap();
        until_empty(&store).await;
        assert_eq!(place.arrived().len() as u64, later);

        let begun = Instant::now();
        late.commit().await.unwrap();
        // It must not overtake those of its key that are not known yet.
        store.append(vec![keyed(7, 2)]).await.unwrap();
        until_empty(&store).await;
        eprintln!("relays: {later} positions late, left after {:?}", begun.elapsed());
        let arrived = place.arrived();
        assert_eq!(arrived.len() as u64, later + 4);
        let of_key = arrived.iter().filter(|line| line[0] == 0).map(|line| line[2]);
        assert_eq!(of_key.collect::<Vec<_>>(), [0, 1, 2]);
        for process in processes {
            process.end().await;
        }
        place.end().await;
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn messages_of_a_process_without_relay_are_sent_at_once() {
    let place = ProcessHarness::postgres(Duration::from_secs(15)).await;
    let store = place.store().await;
    let processes = [Process::start(&place, 1, "nothing").await, Process::start(&place, 2, "nothing").await];
    place.until_shared_by(2).await;
    let mut took = Vec::new();
    for n in 0..50 {
        let begun = Instant::now();
        store.append(vec![keyed(n, 0), unkeyed(n)]).await.unwrap();
        until_empty(&store).await;
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    eprintln!("relays: half left within {:?}, all within {:?}", took[25], took[49]);
    // A message that is only looked for leaves two seconds later.
    assert!(took[25] < Duration::from_secs(1), "{took:?}");
    assert_eq!(place.arrived().len(), 100);
    for process in processes {
        process.end().await;
    }
    place.end().await;
}
