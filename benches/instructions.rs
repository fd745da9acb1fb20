//! The cost of the layer to a request, in instructions: the same within one in a hundred, however busy the machine.
//!
//!     cargo bench -p tower-outbox-benches --bench instructions        needs valgrind
//!
//! It runs itself under callgrind, for each variant twice with different numbers of requests; the difference is
//! what one request takes. `instructions PLACE VARIANT N` is such a run, for a profile:
//!
//!     valgrind --tool=callgrind target/release/deps/instructions-... router messaging 20000

mod support;

use std::hint::black_box;
use std::process::Command;

use support::Variant;
use tower::Layer;

const FEW: u64 = 1_000;
const MANY: u64 = 11_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [place, variant, n] => {
            let variant = Variant::ALL.into_iter().find(|known| known.to_string() == variant);
            run(place, variant.expect("a variant"), n.parse().expect("a number"));
        }
        _ => compare(),
    }
}

fn run(place: &str, variant: Variant, n: u64) {
    match (place, variant) {
        ("plain", Variant::Bare) => run_plain(support::plain(), n),
        ("plain", Variant::Extension) => run_plain(support::extension().layer(support::plain()), n),
        ("plain", Variant::Messaging) => run_plain(support::messaging().layer(support::plain()), n),
        ("router" | "hooks", variant) => {
            if place == "hooks" {
                // As an app with OpenTelemetry whose subscriber is off.
                tower_outbox::trace::set_propagation(|_, _| (), |_, _, _| ());
            }
            let router = support::router(variant);
            for _ in 0..n {
                black_box(support::one_shot(&router, support::request()));
            }
        }
        _ => panic!("no such place and variant"),
    }
}

fn run_plain<S, B>(mut service: S, n: u64)
where
    S: tower::Service<http::Request<()>, Response = http::Response<B>, Error = std::convert::Infallible>,
{
    for _ in 0..n {
        black_box(support::call_plain(&mut service, support::request()));
    }
}

fn compare() {
    for (place, variants, what) in [
        ("plain", &Variant::ALL[..3], "tower: a plain service_fn, nothing enqueued"),
        ("router", &Variant::ALL[..], "axum: Router::oneshot, hello"),
    ] {
        println!("{what}");
        let per_request: Vec<_> = variants.iter().map(|variant| instructions(place, *variant)).collect();
        let bare = per_request[0];
        for (variant, instructions) in variants.iter().zip(&per_request) {
            println!(
                "  {variant:<10} {instructions:>7.0} instructions a request, {:>5.0} added",
                instructions - bare
            );
        }
        let ratio = (per_request[2] - bare) / (per_request[1] - bare);
        println!("  added: messaging / extension   {ratio:.2}   target <= 2.00");
        if let Some(message) = per_request.get(4) {
            println!("  added, one message serialised / hello   {:.2}", (message - bare) / bare);
        }
    }
    println!("axum: with set_propagation and no subscriber");
    for variant in [Variant::Messaging, Variant::Bytes, Variant::Message] {
        let ratio = instructions("hooks", variant) / instructions("router", variant);
        println!("  {variant:<10} with / without   {ratio:.3}   target <= 1.10");
    }
}

fn instructions(place: &str, variant: Variant) -> f64 {
    (total(place, variant, MANY) - total(place, variant, FEW)) / (MANY - FEW) as f64
}

fn total(place: &str, variant: Variant, n: u64) -> f64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().expect("this file has a name"))
        .args([place, &variant.to_string(), &n.to_string()])
        .output()
        .expect("valgrind is installed");
    let report = String::from_utf8_lossy(&output.stderr);
    let collected = report.lines().find_map(|line| line.split("Collected :").nth(1));
    collected.and_then(|count| count.trim().parse().ok()).unwrap_or_else(|| panic!("no count in: {report}"))
}
