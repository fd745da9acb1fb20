//! The cost of the layer to a server: requests a second over loopback, with the layer and without.
//!
//!     cargo bench -p tower-outbox-benches --bench http
//!
//! Two axum servers that say hello and their client live in one process. The client keeps 16 connections to each,
//! one request in flight on each, and asks now one server, now the other, for a tenth of a second at a time. Each
//! ratio is taken within one pair of neighbouring turns, in alternating order.

mod support;

use std::time::Duration;

use axum::http::Method;
use support::load::Load;
use support::{Spread, Variant};

const CONNECTIONS: usize = 16;
const PAIRS: usize = 101;
const TURN: Duration = Duration::from_millis(100);

#[tokio::main(worker_threads = 2)]
async fn main() {
    let mut hello = Load::new(support::router(Variant::Bare), Method::GET, CONNECTIONS).await;
    for (variant, target) in
        [(Variant::Extension, ""), (Variant::Messaging, "target >= 0.98"), (Variant::Message, "")]
    {
        let mut layered = Load::new(support::router(variant), Method::GET, CONNECTIONS).await;
        hello.turn(TURN).await;
        layered.turn(TURN).await;
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for pair in 0..PAIRS {
            if pair % 2 == 0 {
                without.push(hello.turn(TURN).await);
                with.push(layered.turn(TURN).await);
            } else {
                with.push(layered.turn(TURN).await);
                without.push(hello.turn(TURN).await);
            }
        }
        let ratios = with.iter().zip(&without).map(|(with, without)| with / without).collect();
        println!("hello, {CONNECTIONS} connections kept, {PAIRS} pairs of turns");
        println!("  bare       {:.0} requests/s", Spread::of(without));
        println!("  {variant:<10} {:.0} requests/s", Spread::of(with));
        println!("  {variant} / bare   {:.3}   {target}", Spread::of(ratios));
    }
}
