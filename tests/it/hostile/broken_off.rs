//! A peer that never answers holds nothing here, and one that breaks off stops nothing.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tower_outbox::Messenger;
use tower_outbox::amqp10::{Amqp10Source, Amqp10Subscription};
use tower_outbox::amqp091::{Amqp091, Amqp091Settings};
use tower_outbox::source::Source;

use super::amqp10::raw_broker::{RawBroker, frame, transfers};
use crate::support::message;

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_connection_to_a_broker_that_never_answers_is_given_up_as_a_whole() {
    for scheme in ["amqp", "amqps"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut settings = Amqp091Settings::new([format!("{scheme}://{}", listener.local_addr().unwrap())]);
        settings.broker.connection_timeout = Some(Duration::from_millis(200));
        let messenger = Amqp091::new(&settings).unwrap();
        let silent = async {
            let (mut peer, _) = listener.accept().await.unwrap();
            let mut said = Vec::new();
            let _ = timeout(LONG, peer.read_to_end(&mut said)).await.expect("the connection is closed");
            said
        };
        let (sent, said) = tokio::join!(messenger.send(vec![message("a")]), silent);
        assert!(sent.is_err() && !said.is_empty(), "{scheme}");
        messenger.close(LONG).await;
    }
}

/// A delivery that its sender breaks off, after this much of it.
fn aborted(id: u8, begun: &[u8]) -> Vec<u8> {
    let mut parts = Vec::new();
    if !begun.is_empty() {
        // Two parts, of which the second is left out.
        let whole = transfers(id, &[begun, b"rest"].concat(), begun.len());
        let first = u32::from_be_bytes(*whole.first_chunk().unwrap()) as usize;
        parts.extend_from_slice(&whole[..first]);
    }
    let performative =
        [0, 0x53, 0x14, 0xc0, 14, 10, 0x43, 0x52, id, 0xa0, 1, id, 0x43, 0x42, 0x42, 0x40, 0x40, 0x42, 0x41];
    parts.extend(frame(&performative));
    parts
}

#[tokio::test]
async fn deliveries_that_their_senders_break_off_cost_no_credit() {
    let body = |text: &[u8]| [&[0, 0x53, 0x75, 0xa0, text.len() as u8][..], text].concat();
    let mut parts =
        vec![aborted(0, b""), aborted(1, &body(b"half")), aborted(2, &body(b"of a message")[..9])];
    parts.extend((3..20).map(|id| transfers(id, &body(b"good"), 1_000)));
    parts.insert(9, aborted(20, &body(b"half")));
    let broker = RawBroker::start(vec![parts]).await;
    let source = Amqp10Source::new(&broker.settings, &Amqp10Subscription::new("queue://raw.queue")).unwrap();
    for _ in 3..20 {
        let delivery = timeout(LONG, source.receive(1)).await.expect("a message").unwrap().remove(0);
        assert_eq!(&delivery.view().unwrap().message().body()[..], b"good");
        delivery.ack().await.unwrap();
    }
    source.close(LONG).await;
}
