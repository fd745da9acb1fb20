//! The memory that the layer and a message hold while a request is in flight, and their allocations.
//!
//!     cargo bench -p tower-outbox-benches --bench memory
//!
//! It runs itself once for each variant. Held: 10,000 requests are in a handler that waits, each with one message of
//! 300 bytes enqueued; counted are bytes asked of the allocator, and resident memory. Without the layer a handler
//! that takes the method of the request waits. Allocated: what one request through `Router::oneshot` asks for, from beginning to end.

mod support;

use std::alloc::System;
use std::process::Command;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::Method;
use axum::routing::get;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use support::{Event, Variant};
use tokio::sync::{Barrier, Semaphore};
use tower::ServiceExt;
use tower_outbox::{Message, MessageQueue};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const IN_FLIGHT: usize = 10_000;
const REQUESTS: usize = 1_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.first().map(String::as_str) {
        Some("held") => held(arguments.get(1).map_or("", String::as_str)),
        Some("allocated") => allocated(),
        _ => compare(),
    }
}

fn compare() {
    println!("held by {IN_FLIGHT} requests in flight, bytes a request");
    let [without, layer, bytes, json] = ["without", "layer", "bytes", "json"].map(|app| {
        let figures = run(&["held", app]);
        let figures: Vec<f64> =
            figures.split_whitespace().map(|figure| figure.parse().expect("a number")).collect();
        [figures[0], figures[1]]
    });
    for (name, [asked, resident]) in [
        ("without the layer", without),
        ("the layer, nothing enqueued", layer),
        ("the layer, a message of 300 bytes that are shared", bytes),
        ("the layer, a message of 300 bytes serialised", json),
    ] {
        println!(
            "  {name:<50} {asked:>6.0} asked ({:>+5.0}), {resident:>6.0} resident ({:>+5.0})",
            asked - without[0],
            resident - without[1]
        );
    }
    print!("{}", run(&["allocated"]));
}

fn run(arguments: &[&str]) -> String {
    let output =
        Command::new(std::env::current_exe().expect("this file has a name")).args(arguments).output();
    let output = output.expect("it can be run again");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints text")
}

/// Prints what each request in flight holds: bytes asked of the allocator, and bytes resident.
#[tokio::main(flavor = "current_thread")]
async fn held(app: &str) {
    let event = Arc::new(Event::new());
    let bytes = event.bytes();
    let arrived = Arc::new(Barrier::new(IN_FLIGHT + 1));
    let leave = Arc::new(Semaphore::new(0));
    let wait = {
        let (arrived, leave) = (Arc::clone(&arrived), Arc::clone(&leave));
        async move || {
            arrived.wait().await;
            drop(leave.acquire().await);
            "Hello, World!"
        }
    };
    let router: Router = if app == "without" {
        Router::new().route("/", get(async move |_: Method| wait().await))
    } else {
        let message = match app {
            "layer" => None,
            "bytes" => Some(false),
            "json" => Some(true),
            _ => panic!("no such app"),
        };
        let handler = async move |queue: MessageQueue| {
            if let Some(serialise) = message {
                let message = if serialise { event.message() } else { shared_message(&bytes) };
                queue.enqueue(message).expect("the queue is open");
            }
            wait().await
        };
        Router::new().route("/", get(handler)).layer(support::messaging())
    };
    let router = router.with_state(());

    let mut tasks = Vec::with_capacity(IN_FLIGHT);
    let resident = resident_bytes();
    let region = Region::new(ALLOCATOR);
    for _ in 0..IN_FLIGHT {
        tasks.push(tokio::spawn(router.clone().oneshot(support::request::<Body>())));
    }
    arrived.wait().await;
    let change = region.change();
    let asked = change.bytes_allocated as f64 - change.bytes_deallocated as f64;
    let resident = resident_bytes() - resident;
    println!("{} {}", asked / IN_FLIGHT as f64, resident / IN_FLIGHT as f64);
    leave.add_permits(IN_FLIGHT);
    for task in tasks {
        task.await.expect("it does not panic").expect("it is infallible");
    }
}

fn shared_message(bytes: &Bytes) -> Message {
    Message::new("bench.event", bytes.clone()).expect("the topic is one")
}

fn resident_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has a size");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("it is a number") * 1024.0
}

fn allocated() {
    println!("allocated by a request, from beginning to end");
    for variant in Variant::ALL {
        let router = support::router(variant);
        drop(support::one_shot(&router, support::request()));
        let requests: Vec<_> = (0..REQUESTS).map(|_| support::request()).collect();
        let region = Region::new(ALLOCATOR);
        for request in requests {
            drop(support::one_shot(&router, request));
        }
        let change = region.change();
        println!(
            "  {variant:<10} {:>5.1} times, {:>6.0} bytes",
            change.allocations as f64 / REQUESTS as f64,
            change.bytes_allocated as f64 / REQUESTS as f64
        );
    }
}
