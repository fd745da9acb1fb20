//! The cost of the layer to a request, in time.
//!
//!     cargo bench -p tower-outbox-benches --bench layer
//!
//! Five services answer the same request in turns of some thousands: nothing before the handler, tower-http's
//! `AddExtensionLayer`, `MessagingLayer` with nothing enqueued, with one message of 300 bytes that are there
//! already, and with one message serialised from a value. Requests are made outside of the time. One thread, no
//! runtime: nothing in them waits. Each figure is the median over all rounds with its middle half; ratios are taken
//! within a round.

mod support;

use std::hint::black_box;
use std::time::Instant;

use support::{Spread, Variant};
use tower::Layer;

const ROUNDS: usize = 301;
const REQUESTS: usize = 1_000;

fn main() {
    let routers = Variant::ALL.map(support::router);
    let hello: Vec<_> = rounds(&routers.each_ref().map(|router| {
        move || {
            let requests: Vec<_> = (0..REQUESTS).map(|_| support::request()).collect();
            let begun = Instant::now();
            for request in requests {
                black_box(support::one_shot(router, request));
            }
            nanoseconds(begun)
        }
    }));
    println!("axum: Router::oneshot, hello");
    for (index, variant) in Variant::ALL.into_iter().enumerate() {
        let time = Spread::of(hello.iter().map(|round| round[index]).collect());
        println!("  {variant:<10} {time:.0} ns");
    }
    let added = |index: usize, over: &dyn Fn(&[f64]) -> f64| {
        Spread::of(hello.iter().map(|round| (round[index] - round[0]) / over(round)).collect())
    };
    let extension = |round: &[f64]| round[1] - round[0];
    let bare = |round: &[f64]| round[0];
    println!("  added, nothing enqueued: messaging / extension   {}", added(2, &extension));
    println!("  added, nothing enqueued: messaging / hello       {}", added(2, &bare));
    println!("  added, one message of bytes / hello              {}", added(3, &bare));
    println!("  added, one message serialised / hello            {}   target <= 0.60", added(4, &bare));
    println!("  added, an extension and serialising / hello      {}", added(5, &bare));

    let mut bare = support::plain();
    let mut extension = support::extension().layer(support::plain());
    let mut messaging = support::messaging().layer(support::plain());
    let plain: Vec<_> = (0..ROUNDS)
        .map(|_| [plain_time(&mut bare), plain_time(&mut extension), plain_time(&mut messaging)])
        .collect();
    println!("tower: a plain service_fn, nothing enqueued");
    for (index, variant) in Variant::ALL.into_iter().take(3).enumerate() {
        let time = Spread::of(plain.iter().map(|round| round[index]).collect());
        println!("  {variant:<10} {time:.0} ns");
    }
    let ratio = plain.iter().map(|round| (round[2] - round[0]) / (round[1] - round[0]));
    println!("  added: messaging / extension                     {}", Spread::of(ratio.collect()));
}

/// The times of each round; every round begins with another one, so that none is always first.
fn rounds<F: Fn() -> f64>(variants: &[F]) -> Vec<Vec<f64>> {
    let round = |first: usize| {
        let mut times = vec![0.0; variants.len()];
        for index in (first..first + variants.len()).map(|index| index % variants.len()) {
            times[index] = variants[index]();
        }
        times
    };
    (0..ROUNDS).map(round).collect()
}

fn plain_time<S, B>(service: &mut S) -> f64
where
    S: tower::Service<http::Request<()>, Response = http::Response<B>, Error = std::convert::Infallible>,
{
    let requests: Vec<_> = (0..REQUESTS).map(|_| support::request()).collect();
    let begun = Instant::now();
    for request in requests {
        black_box(support::call_plain(service, request));
    }
    nanoseconds(begun)
}

fn nanoseconds(begun: Instant) -> f64 {
    begun.elapsed().as_nanos() as f64 / REQUESTS as f64
}
