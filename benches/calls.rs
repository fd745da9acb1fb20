//! The cost of a request and its reply in one process.
//!
//!     cargo bench -p tower-outbox-benches --bench calls              instructions need valgrind
//!     cargo bench -p tower-outbox-benches --bench calls -- --quick
//!
//! | who | what |
//! |---|---|
//! | memory | `POST /bench/event` with 300 bytes of JSON through a `Client`, `Memory` and a `Consumer` to a `Router` whose handler returns the body, and back |
//! | channels | the same over a channel of an embedded engine |
//! | oneshot | `Router::oneshot` of the same request |
//!
//! One thread, one call after the other; then 64 calls at a time. Turns alternate; each ratio is taken within one round.

mod support;

use std::alloc::System;
use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Request};
use axum::routing::post;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http_body_util::BodyExt;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use support::{Event, Spread, quick};
use tower::ServiceExt;
use tower_outbox::Consumer;
use tower_outbox::channels::calls::{ChannelRequester, RequestSource};
use tower_outbox::channels::embedded::{EmbeddedEngine, EmbeddedEngineSettings};
use tower_outbox::channels::{ChannelName, Requests};
use tower_outbox::client::Client;
use tower_outbox::testing::Memory;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const FEW: u64 = 1_000;
const MANY: u64 = 11_000;
const CALLS: u64 = 50_000;
const WHO: [&str; 3] = ["memory", "channels", "oneshot"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [who, at_a_time, n] = &arguments[..] {
        black_box(calls(who, at_a_time.parse().expect("a number"), n.parse().expect("a number")));
        return;
    }
    for at_a_time in [1, 64] {
        compare(at_a_time);
    }
}

fn compare(at_a_time: u64) {
    println!("a request of 300 bytes and its reply, {at_a_time} at a time");
    let rounds = if quick() { 3 } else { 11 };
    let mut times: [Vec<f64>; 3] = Default::default();
    for round in 0..=rounds {
        for turn in round..round + 3 {
            let seconds = calls(WHO[turn % 3], at_a_time, CALLS).0;
            // The first round warms up.
            if round > 0 {
                times[turn % 3].push(seconds / CALLS as f64 * 1e6);
            }
        }
    }
    let ratios =
        |who: usize| times[who].iter().zip(&times[2]).map(|(one, other)| one / other).collect::<Vec<_>>();
    for (who, name) in WHO.into_iter().enumerate() {
        let per_call = |few: f64, many: f64| (many - few) / (MANY - FEW) as f64;
        let allocations =
            per_call(calls(name, at_a_time, FEW).1 as f64, calls(name, at_a_time, MANY).1 as f64);
        let instructions = per_call(instructions(name, at_a_time, FEW), instructions(name, at_a_time, MANY));
        let (time, ratio) = (Spread::of(times[who].clone()), Spread::of(ratios(who)));
        println!(
            "  {name:<9} {time} µs, {instructions:.0} instructions, {allocations:.1} allocations; time / oneshot {ratio:.2}"
        );
    }
    println!("  target of memory / oneshot: <= 3");
}

/// Makes so many calls; returns the seconds and the allocations.
fn calls(who: &str, at_a_time: u64, n: u64) -> (f64, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("it can be made");
    let router = Router::new().route("/bench/event", post(|body: Bytes| async move { body })).with_state(());
    let body = Event::new().bytes();
    runtime.block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let client = match who {
            "memory" => {
                let memory = Memory::new();
                tokio::spawn(Consumer::new(memory.clone(), router.clone()).into_future());
                Some(Client::new(memory))
            }
            "channels" => {
                let settings = EmbeddedEngineSettings::new(folder.path().join("channels"));
                let engine: Arc<dyn Requests> =
                    Arc::new(EmbeddedEngine::open(settings).await.expect("it opens"));
                let name = ChannelName::new("bench").expect("a name");
                let source = RequestSource::new(Arc::clone(&engine), name.clone());
                let source = source.subscribed().await.expect("it subscribes");
                tokio::spawn(Consumer::new(source, router.clone()).into_future());
                Some(Client::new(ChannelRequester::new(engine, name)))
            }
            _ => None,
        };
        let one = || async {
            let request = request(body.clone());
            let response = match &client {
                Some(client) => client.clone().oneshot(request).await,
                None => router.clone().oneshot(request).await,
            };
            let response = response.expect("it cannot fail");
            assert!(response.status().is_success(), "{}", response.status());
            let body = response.into_body().collect().await.expect("it is whole").to_bytes();
            assert_eq!(body.len(), 300);
        };
        one().await;
        let region = Region::new(ALLOCATOR);
        let begun = Instant::now();
        let mut left = n;
        let mut running = FuturesUnordered::new();
        while left > 0 || !running.is_empty() {
            while left > 0 && (running.len() as u64) < at_a_time {
                running.push(one());
                left -= 1;
            }
            running.next().await;
        }
        (begun.elapsed().as_secs_f64(), region.change().allocations)
    })
}

fn request(body: Bytes) -> Request<Body> {
    let mut request = Request::post("/bench/event").body(Body::from(body)).expect("it is a request");
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    request
}

fn instructions(who: &str, at_a_time: u64, n: u64) -> f64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().expect("this file has a name"))
        .args([who, &at_a_time.to_string(), &n.to_string()])
        .output()
        .expect("valgrind is installed");
    let report = String::from_utf8_lossy(&output.stderr);
    let collected = report.lines().find_map(|line| line.split("Collected :").nth(1));
    collected.and_then(|count| count.trim().parse().ok()).unwrap_or_else(|| panic!("no count in: {report}"))
}
