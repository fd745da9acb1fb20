//! The cost of the durable outbox to a request, and the rate at which a relay sends stored messages.
//!
//!     scripts/brokers up && cargo bench -p tower-outbox-benches --bench outbox
//!     cargo bench -p tower-outbox-benches --bench outbox -- http              what needs no broker alone; relay, latency: the other parts
//!     cargo bench -p tower-outbox-benches --bench outbox -- --quick           a short run
//!
//! | part | what | against |
//! |---|---|---|
//! | http | requests/s of an axum app over loopback, each with one event of 300 bytes, `EmbeddedStore` before `Dummy` | the same app with `Dummy`; with a bare loop of write and fdatasync, which sends nothing |
//! | relay | confirmed messages/s of a relay with a backlog to RabbitMQ, `Amqp091` | lapin alone as in the bench `amqp091`: `raw`, `turns` |
//! | latency | from `Ok` of `append` to the broker's confirm, one message of 300 bytes, 1 and 16 at a time | a direct send through `Amqp091` |
//!
//! Server and clients, relay and raw sender live in this process. Turns alternate; each ratio is taken within one round.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use support::broker::{Broker, Rates, Turn, app};
use support::group_commit::{GroupCommit, bare};
use support::latency::{amqp091, message};
use support::load::Load;
use support::raw::{Raw, Until, encode};
use support::relay::relay;
use support::{Event, Spread, asked, disk, processor_time, quick};
use tower_outbox::dummy::Dummy;
use tower_outbox::outbox::{Outbox, OutboxHandle, RelaySettings};
use tower_outbox::store::{EmbeddedStore, EmbeddedStoreSettings};
use tower_outbox::{Message, Messenger, Unsent, async_trait};

const CONNECTIONS: [usize; 2] = [64, 256];
const HTTP: [&str; 3] = ["durable", "dummy", "bare"];
const HTTP_TARGETS: [&str; 3] = ["", "target >= 0.7", ""];
const HTTP_ROUNDS: usize = 21;
const HTTP_TURN: Duration = Duration::from_millis(500);

const WHO: [&str; 3] = ["relay", "raw", "turns"];
const TARGETS: [&str; 3] = ["", "target >= 0.85", ""];
const ROUNDS: usize = 7;
const BACKLOG: u64 = 60_000;

const LATENCY_ROUNDS: usize = 21;

#[tokio::main(worker_threads = 2)]
async fn main() {
    if asked("http") {
        http().await;
    }
    if asked("relay") {
        backlog().await;
    }
    if asked("latency") {
        latency().await;
    }
}

async fn open(folder: &Path) -> EmbeddedStore {
    let store = EmbeddedStore::open(&EmbeddedStoreSettings::new(folder.join("outbox"))).await;
    store.expect("it can be created")
}

async fn http() {
    let rounds = if quick() { 3 } else { HTTP_ROUNDS };
    for connections in CONNECTIONS {
        let folder = disk::folder("outbox");
        println!("HTTP, {connections} connections kept, one event of 300 bytes a request, {rounds} rounds");
        println!("  an fdatasync of this disk  {:.0} µs", disk::fdatasync(folder.path(), 300));
        let (outbox, relay) =
            Outbox::new(Dummy::new(), Arc::new(open(folder.path()).await), RelaySettings::default());
        let handle = outbox.handle();
        let relay = tokio::spawn(relay.into_future());
        let bare = Bare(bare(folder.path(), Arc::default()));
        let mut loads = [
            Load::new(app(outbox, "bench.http"), Method::POST, connections).await,
            Load::new(app(Dummy::new(), "bench.http"), Method::POST, connections).await,
            Load::new(app(bare, "bench.http"), Method::POST, connections).await,
        ];
        for load in &mut loads {
            load.turn(HTTP_TURN).await;
            drained(&handle).await;
        }
        let (mut rates, mut seconds, mut left) = ([const { Vec::new() }; 3], [0.0; 3], Vec::new());
        for round in 0..rounds {
            for who in (0..3).map(|turn| (turn + round) % 3) {
                let before = processor_time();
                rates[who].push(loads[who].turn(HTTP_TURN).await);
                if who == 0 {
                    left.push(drained(&handle).await as f64);
                }
                seconds[who] += processor_time() - before;
            }
        }
        relay.abort();
        for ((who, rates), seconds) in HTTP.into_iter().zip(&rates).zip(seconds) {
            let requests = rates.iter().sum::<f64>() * HTTP_TURN.as_secs_f64();
            println!(
                "  {who:<8} {:.0} requests/s, {:.1} µs of processor time each",
                Spread::of(rates.clone()),
                seconds / requests * 1e6
            );
        }
        for ((rival, rates_of_rival), target) in HTTP.into_iter().zip(&rates).zip(HTTP_TARGETS).skip(1) {
            let ratios = rates[0].iter().zip(rates_of_rival).map(|(durable, rival)| durable / rival);
            println!("  durable / {rival:<6} {:.2}   {target}", Spread::of(ratios.collect()));
        }
        println!("  still stored after a turn  {:.0}", Spread::of(left));
    }
}

/// Stores, and sends nothing.
struct Bare(GroupCommit);

#[async_trait]
impl Messenger for Bare {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        for message in batch {
            self.0.append(message.body().clone()).await;
        }
        Ok(())
    }
}

/// Waits until nothing is stored, and gives how much it was.
async fn drained(handle: &OutboxHandle) -> u64 {
    let pending = async || handle.status().await.expect("it can be read").counts.pending;
    let before = pending().await;
    while pending().await > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    before
}

async fn backlog() {
    let (rounds, messages) = if quick() { (2, BACKLOG / 6) } else { (ROUNDS, BACKLOG) };
    let broker = Broker::find("bench.outbox");
    let amqp091 = Arc::new(amqp091(&broker));
    let raw = Raw::open(&broker, encode).await;
    let folder = disk::folder("outbox");
    let store = Arc::new(open(folder.path()).await);

    println!(
        "a backlog of {messages} persistent messages of 300 bytes to RabbitMQ, AMQP 0-9-1, {rounds} rounds"
    );
    let stored = async || {
        let handle = OutboxHandle::stopped(store.clone());
        let event = Event::new().bytes();
        for _ in 0..messages / 500 {
            let message = || message(&broker, &event);
            handle.append((0..500).map(|_| message()).collect()).await.expect("there is room");
        }
        let relayed = messages / 500 * 500;
        let (seconds, left) = relay(Arc::clone(&amqp091), store.clone(), relayed, relayed).await;
        assert_eq!(left.pending, 0);
        (relayed, seconds[0])
    };
    let warm_up: Turn = stored().await;
    broker.check_and_empty(warm_up, 0);
    broker.check_and_empty(raw.turn(false, Until::Confirmed(messages)).await, 0);
    let mut rates = Rates::new(WHO);
    for round in 0..rounds {
        for who in rates.order(round) {
            let turn = match WHO[who] {
                "relay" => stored().await,
                "raw" => raw.turn(false, Until::Confirmed(messages)).await,
                _ => raw.turn(true, Until::Confirmed(messages)).await,
            };
            broker.check_and_empty(turn, 0);
            rates.push(who, turn);
        }
    }
    rates.print(TARGETS);
    raw.close().await;
    amqp091.close(Duration::from_secs(5)).await;
}

async fn latency() {
    let rounds = if quick() { 3 } else { LATENCY_ROUNDS };
    let broker = Broker::find("bench.latency");
    let folder = disk::folder("outbox");
    support::latency::latency(&broker, Arc::new(open(folder.path()).await), rounds).await;
}
