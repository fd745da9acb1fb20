//! The cost of signing beside the library's own signature.
//!
//!     cargo bench -p tower-outbox-benches --bench signing
//!
//! In turns: `aws-lc-rs` signs bytes as long as those that are signed for a message, and `Signing` sends a message of 300 bytes to a
//! messenger that drops it. Both formats and both kinds of keys. Each figure is the median over all rounds with its middle half;
//! ratios are taken within a round.

mod support;

use std::hint::black_box;
use std::time::Instant;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, RSA_PSS_SHA256, RsaKeyPair};
use support::Spread;
use tower_outbox::dummy::Dummy;
use tower_outbox::signing::{KeyKind, SignatureFormat, Signer, Signing, SigningKey, SigningSettings};
use tower_outbox::{Message, Messenger};

const ROUNDS: usize = 41;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let message = Message::new("user.created", vec![b'7'; 300]).expect("a topic").with_key("user-7");
    println!("signing a message of 300 bytes");
    for (kind, format, count, target) in [
        (KeyKind::Ed25519, SignatureFormat::Dsse, 500, " "),
        (KeyKind::Rsa, SignatureFormat::Dsse, 40, "   target <= 1.15"),
        (KeyKind::Rsa, SignatureFormat::Mqfactory, 40, "   target <= 1.15"),
    ] {
        let key = SigningKey::generate(kind).expect("a key");
        let der = der(&key.to_pem().expect("PEM"));
        let settings = SigningSettings::default().with_origin("host-1").with_format(format);
        let signing = Signing::new(Dummy::new(), Signer::with_key(key, &settings).expect("settings"));
        // The length of the description of this message, and of its JSON in base64.
        let bytes = vec![b'7'; if format == SignatureFormat::Dsse { 460 } else { 680 }];
        let rounds: Vec<[f64; 2]> = (0..ROUNDS)
            .map(|_| {
                let raw = raw(kind, &der, &bytes, count);
                let batch = vec![message.clone(); count];
                let begun = Instant::now();
                runtime.block_on(signing.send(batch)).expect("it is dropped");
                [raw, begun.elapsed().as_secs_f64() * 1e6 / count as f64]
            })
            .collect();
        let figure = |index: usize| Spread::of(rounds.iter().map(|round| round[index]).collect());
        let ratio = Spread::of(rounds.iter().map(|round| round[1] / round[0]).collect());
        println!(
            "  {format:?} {kind}: the library {:.1} µs, Signing {:.1} µs, ratio {ratio:.3}{target}",
            figure(0),
            figure(1)
        );
    }
}

/// Microseconds that one signature of the library takes.
fn raw(kind: KeyKind, der: &[u8], bytes: &[u8], count: usize) -> f64 {
    let sign: Box<dyn Fn()> = match kind {
        KeyKind::Ed25519 => {
            let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).expect("a key");
            Box::new(move || {
                black_box(key.sign(black_box(bytes)));
            })
        }
        _ => {
            let key = RsaKeyPair::from_pkcs8(der).expect("a key");
            Box::new(move || {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PSS_SHA256, &SystemRandom::new(), black_box(bytes), &mut signature)
                    .expect("it signs");
                black_box(signature);
            })
        }
    };
    let begun = Instant::now();
    (0..count).for_each(|_| sign());
    begun.elapsed().as_secs_f64() * 1e6 / count as f64
}

/// The bytes in a PEM block.
fn der(pem: &str) -> Vec<u8> {
    use base64::Engine;
    let lines = pem.lines().filter(|line| !line.starts_with("-----"));
    base64::prelude::BASE64_STANDARD.decode(lines.collect::<String>()).expect("base64")
}
