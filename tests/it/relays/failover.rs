//! Processes that are killed and frozen: others go on where they were.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sqlx::AssertSqlSafe;
use tokio::process::Command;
use tokio::time::sleep;
use tower_outbox::Message;

use super::bus::{HOLD, Notes, SENDER};
use super::process::{Process, ProcessHarness, WINDOW, is_process, until_empty};
use crate::crash::random::Random;
use crate::peers::{Brokers, RabbitQueue, unique};
use crate::support::databases::Schema;

/// How many times one is killed or frozen when `RELAY_ROUNDS` does not say.
const ROUNDS: usize = 8;

const LEASE: Duration = Duration::from_millis(900);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs brokers: ./scripts/test"]
async fn two_processes_survive_a_kill_or_freeze() {
    if is_process().await {
        return;
    }
    killed_and_frozen(ProcessHarness::postgres(LEASE).await, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs brokers: ./scripts/test"]
async fn four_processes_survive_a_kill_or_freeze() {
    killed_and_frozen(ProcessHarness::postgres(LEASE).await, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_on_one_file_survive_a_kill_or_freeze() {
    killed_and_frozen(ProcessHarness::sqlite(LEASE).await, 2).await;
}

/// The messages that reach a queue of the real RabbitMQ, and not only those that the processes say they sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs brokers: ./scripts/test"]
async fn two_processes_that_send_to_rabbitmq_lose_nothing_and_keep_the_order_there() {
    let mut place = ProcessHarness::postgres(LEASE).await;
    let (brokers, topics) = (Brokers::running(), unique("relays"));
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &format!("{topics}.#")).await;
    place.topics = Some(topics);
    let faults = kill_and_freeze(&place, 2, ROUNDS / 2).await;
    let sent = Notes::open(&place.folder.path().join("sent"));
    for message in queue.drain().await {
        sent.write(&format!("{} {}", message["body"].as_str().unwrap(), message["headers"][SENDER]));
    }
    judge(place, 2, &faults).await;
}

async fn killed_and_frozen(place: ProcessHarness, count: u64) {
    let faults = kill_and_freeze(&place, count, ROUNDS).await;
    judge(place, count, &faults).await;
}

/// The faults done to the processes.
struct Faults {
    seed: u64,
    rounds: u64,
    killed: u64,
    begun: Instant,
}

/// Kills or freezes one process after the other, and waits until everything has left.
async fn kill_and_freeze(place: &ProcessHarness, count: u64, rounds: usize) -> Faults {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect(name));
    let rounds = number("RELAY_ROUNDS").unwrap_or(rounds as u64);
    let seed = number("RELAY_SEED").unwrap_or_else(Random::any_seed);
    eprintln!("relays: {rounds} rounds; once more: RELAY_SEED={seed}");
    let (mut random, begun) = (Random::new(seed), Instant::now());

    let store = place.store().await;
    let mut processes = Vec::new();
    for number in 0..count {
        processes.push(Process::start(place, number, "appends").await);
    }
    let mut killed = 0;
    for round in 0..rounds {
        sleep(Duration::from_millis(random.in_range(0..1_000))).await;
        let victim = random.in_range(0..count) as usize;
        if random.percent(50) {
            killed += 1;
            processes.swap_remove(victim).kill().await;
            // Sometimes the next comes before its lease has run out.
            sleep(LEASE.mul_f64(random.in_range(0..200) as f64 / 100.0)).await;
            processes.push(Process::start(place, count + round, "appends").await);
        } else {
            processes[victim].freeze().await;
            // Mostly past its lease.
            sleep(LEASE.mul_f64(random.in_range(50..300) as f64 / 100.0)).await;
            processes[victim].thaw().await;
        }
    }
    for process in &mut processes {
        process.stop_storing().await;
    }
    until_empty(&store).await;
    for process in processes {
        process.end().await;
    }
    Faults { seed, rounds, killed, begun }
}

/// Nothing is lost or out of order, and twice only what was out when something was done to a process.
async fn judge(place: ProcessHarness, count: u64, faults: &Faults) {
    let Faults { seed, rounds, killed, begun } = faults;
    let (verdict, senders) = place.verdict();
    eprintln!("relays: {rounds} rounds, {killed} killed, {:.0} s: {verdict}", begun.elapsed().as_secs_f64());
    if !verdict.is_good() || verdict.duplicated > rounds * count * WINDOW as u64 {
        let schema = place.schema.map(|schema| schema.settings.schema);
        panic!(
            "seed {seed}: {verdict}\n{}kept in {} {schema:?}",
            verdict.examples(),
            place.folder.keep().display()
        );
    }
    // There was something to lose, and every process sent.
    assert!(verdict.messages > 20 * rounds, "{verdict}");
    if place.schema.is_some() {
        assert!(senders.len() as u64 >= count, "{senders:?}");
    }
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs brokers: ./scripts/test"]
async fn messages_of_a_killed_process_are_taken_over_after_its_timeout() {
    passes_on(ProcessHarness::postgres(Duration::from_secs(3)).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_a_killed_process_is_taken_over_after_its_timeout() {
    passes_on(ProcessHarness::sqlite(Duration::from_secs(3)).await).await;
}

/// The part of a killed process, and of one that ends in order.
async fn passes_on(place: ProcessHarness) {
    let lease = place.lease;
    let store = place.store().await;
    for (number, is_killed) in [(0, true), (10, false)] {
        let first = Process::start(&place, number, "nothing").await;
        // Something of every bucket: it holds them all.
        let some = || (0..200).map(|n| Message::new("a", format!("0 {n} 0")).unwrap()).collect();
        store.append(some()).await.unwrap();
        until_empty(&store).await;
        let second = Process::start(&place, number + 1, "nothing").await;
        place.until_shared_by(2).await;
        let begun = Instant::now();
        if is_killed {
            first.kill().await;
        } else {
            first.end().await;
        }
        let ended = begun.elapsed();
        store.append(some()).await.unwrap();
        until_empty(&store).await;
        let took = begun.elapsed();
        eprintln!(
            "relays: killed {is_killed}, lease {lease:?}: all left after {took:?}, the end took {ended:?}"
        );
        if is_killed {
            assert!(took > lease / 2 && took < lease + lease / 3, "{took:?}");
        } else {
            assert!(took < ended + lease / 3, "{took:?}");
        }
        second.end().await;
    }
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_process_that_thaws_past_its_lease_confirms_nothing() {
    thaws(ProcessHarness::postgres(LEASE).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_thaws_past_its_lease_confirms_nothing_in_a_file() {
    thaws(ProcessHarness::sqlite(LEASE).await).await;
}

async fn thaws(place: ProcessHarness) {
    let store = place.store().await;
    let first = Process::start(&place, 1, "nothing").await;
    store.append(vec![Message::new(HOLD, "0 0 0").unwrap().with_key("a")]).await.unwrap();
    place.until_held_by(1).await;
    first.freeze().await;
    let second = Process::start(&place, 2, "nothing").await;
    place.until_held_by(2).await;
    first.thaw().await;
    place.release(1);
    // It ends when it has said that the message was confirmed.
    first.end().await;
    assert_eq!(place.arrived(), [[0, 0, 0, 1]]);
    assert_eq!(store.counts().await.unwrap().pending, 1);
    place.release(2);
    until_empty(&store).await;
    assert_eq!(place.arrived(), [[0, 0, 0, 1], [0, 0, 0, 2]]);
    second.end().await;
    place.end().await;
}

/// The app dies, connections die, and the server dies with a killed process of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs brokers: ./scripts/test"]
async fn rows_and_events_agree_when_app_and_database_are_killed() {
    // A server that nobody shares.
    Brokers::running().get("POSTGRES_PID");
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect(name));
    let rounds = number("RELAY_ROUNDS").map_or(ROUNDS, |rounds| rounds as usize);
    let seed = number("RELAY_SEED").unwrap_or_else(Random::any_seed);
    eprintln!("relays: {rounds} rounds; once more: RELAY_SEED={seed}");
    let (mut random, begun) = (Random::new(seed), Instant::now());

    let place = ProcessHarness::postgres(LEASE).await;
    let schema = place.schema.as_ref().unwrap();
    schema.run("CREATE TABLE {schema}.rows (process bigint, n bigint, PRIMARY KEY (process, n))").await;
    let store = place.store().await;
    let mut processes = Vec::new();
    for number in 0..2 {
        processes.push(Process::start(&place, number, "requests").await);
    }
    let mut faults = [0; 3];
    for round in 0..rounds as u64 {
        sleep(Duration::from_millis(random.in_range(0..800))).await;
        let fault = random.in_range(0..3) as usize;
        faults[fault] += 1;
        match fault {
            0 => {
                processes.swap_remove(random.in_range(0..2) as usize).kill().await;
                processes.push(Process::start(&place, 2 + round, "requests").await);
            }
            1 => drop(backends(schema, random.in_range(1..12), "pg_terminate_backend(pid)::int").await),
            _ => {
                for pid in backends(schema, 1, "pid").await {
                    let kill = Command::new("kill").args(["-9", &pid.to_string()]).status();
                    assert!(kill.await.unwrap().success());
                }
            }
        }
    }
    for process in &mut processes {
        process.stop_storing().await;
    }
    until_empty(&store).await;
    for process in processes {
        process.end().await;
    }
    let (verdict, _) = place.verdict();
    let seconds = begun.elapsed().as_secs_f64();
    eprintln!(
        "relays: {rounds} rounds, app, connection, server killed {faults:?} times, {seconds:.0} s: {verdict}"
    );
    let sql = AssertSqlSafe(format!("SELECT process, n FROM {}.rows", schema.settings.schema));
    let rows: Vec<(i64, i64)> = sqlx::query_as(sql).fetch_all(&schema.pool).await.unwrap();
    let rows: BTreeSet<_> = rows.into_iter().map(|(process, n)| (process as u64, n as u64)).collect();
    let events: BTreeSet<_> = place.arrived().iter().map(|line| (line[0], line[1])).collect();
    if !verdict.is_good() || rows != events {
        panic!(
            "seed {seed}: {verdict}\n{}rows without events {:?}, events without rows {:?}; kept in {}",
            verdict.examples(),
            &rows - &events,
            &events - &rows,
            place.folder.keep().display()
        );
    }
    assert!(verdict.messages > 20 * rounds as u64 && verdict.refused > 0, "{verdict}");
    place.end().await;
}

/// This of so many other connections; none when there is no answer.
async fn backends(schema: &Schema, count: u64, what: &'static str) -> Vec<i32> {
    let sql = format!(
        "SELECT {what} FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
         ORDER BY random() LIMIT {count}"
    );
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&schema.pool).await.unwrap_or_default()
}
