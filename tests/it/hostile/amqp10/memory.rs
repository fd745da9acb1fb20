//! How much memory a message takes that comes again.

use tower_outbox::amqp10::{Amqp10Source, Amqp10Subscription};

use super::raw_broker::{RawBroker, transfers};
use super::{LONG, data, next, pair, section};
use crate::faults::{again, part};
use crate::support::memory::{MIB, memory, reset};

const SIZE: u64 = 40 * MIB;

#[tokio::test]
async fn a_large_header_of_bytes_takes_little_more_memory_when_its_message_comes_again() {
    const TEST: &str = "hostile::amqp10::memory::a_large_header_of_bytes_takes_little_more_memory_when_its_message_comes_again";
    if part().is_none() {
        let output = again(TEST, "alone").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let bytes = [&[0xb0][..], &(SIZE as u32).to_be_bytes(), &vec![200; SIZE as usize]].concat();
    let large = [section(0x74, &pair(b"\xa1\x01k", &bytes)), data(b"x")].concat();
    let parts = vec![transfers(0, &data(b"x"), 1_000), transfers(1, &large, 200_000)];
    drop((bytes, large));
    let broker = RawBroker::start(vec![parts]).await;
    let source = Amqp10Source::new(&broker.settings, &Amqp10Subscription::new("queue://raw.queue")).unwrap();
    let before = reset();
    // With one that failed before it, it may be that one.
    for _ in 0..2 {
        next(&source).await.retry(LONG, "an outage").await.unwrap();
    }
    let most = memory("VmHWM:").saturating_sub(before);
    assert!(most < 5 * SIZE, "{} MiB for one of {}", most / MIB, SIZE / MIB);
}
