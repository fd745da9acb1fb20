//! The wire of mqfactory, with Python as the peer.

use std::io::Write;
use std::process::{Command, Stdio};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tower_outbox::fuzzing::mqfactory_payload;

use crate::peers::Brokers;

const VALUES: usize = 5_000;

/// A JSON value with everything that Python writes in its own way.
fn value(random: &mut StdRng, depth: usize) -> String {
    match random.random_range(0..if depth > 4 { 6 } else { 8 }) {
        0 => ["null", "true", "false", "-0", "-0.0", "0e5"][random.random_range(0..6)].to_owned(),
        1 => random.random::<i64>().to_string(),
        2 => format!("{}{:0>40}", random.random_range(1..9), random.random::<u128>()),
        // Any bits, and numbers near the places at which the form changes.
        3 => match f64::from_bits(random.random()) {
            float if float.is_finite() => format!("{float:e}"),
            _ => "1e15".to_owned(),
        },
        4 => format!("{}e{}", random.random_range(1..100_000_000_i64), random.random_range(-14..14)),
        5 => string(random),
        6 => {
            let items: Vec<_> = (0..random.random_range(0..4)).map(|_| value(random, depth + 1)).collect();
            format!("[{}]", items.join(" ,"))
        }
        _ => {
            let fields: Vec<_> = (0..random.random_range(0..5))
                .map(|_| format!("{}:{}", string(random), value(random, depth + 1)))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
    }
}

fn string(random: &mut StdRng) -> String {
    let text: String = (0..random.random_range(0..6))
        .map(|_| match random.random_range(0..4) {
            0 => char::from(random.random_range(0..=0x7f_u8)),
            1 => char::from(random.random_range(b'a'..=b'c')),
            2 => char::from_u32(random.random_range(0x80..0xd800)).unwrap(),
            _ => char::from_u32(random.random_range(0xe000..0x11_0000)).unwrap(),
        })
        .collect();
    serde_json::to_string(&text).unwrap()
}

#[test]
#[ignore = "needs brokers: ./scripts/test"]
fn json_is_written_as_python_writes_it() {
    let mut random = StdRng::seed_from_u64(7);
    let values: Vec<_> = (0..VALUES).map(|_| value(&mut random, 0)).collect();
    let mut python = Command::new(Brokers::running().get("PYTHON"))
        .args([
            "-c",
            "import json, sys\nfor line in sys.stdin: print(json.dumps(json.loads(line), sort_keys=True))",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = python.stdin.take().unwrap();
    let lines = values.join("\n");
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()).unwrap());
    let output = python.wait_with_output().unwrap();
    writer.join().unwrap();
    let expected = String::from_utf8(output.stdout).unwrap();
    assert_eq!(expected.lines().count(), VALUES);
    for (json, expected) in values.iter().zip(expected.lines()) {
        assert_eq!(mqfactory_payload(json), expected, "{json}");
    }
}
