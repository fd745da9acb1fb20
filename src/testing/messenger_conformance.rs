//! The checks that every messenger passes, against its real broker.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use tower_outbox::testing::Recording;
//! use tower_outbox::testing::messenger_conformance::{self, MessengerCapabilities, Received};
//!
//! let messenger = Recording::new();
//! let (sent, mut taken) = (messenger.listen(), 0);
//! let inbox = async |count| {
//!     sent.flushed().await;
//!     let messages = &sent.messages()[taken..taken + count];
//!     taken += count;
//!     messages.iter().map(Received::from).collect()
//! };
//! let capabilities = MessengerCapabilities::default().with_arrival(true).with_headers(true);
//! messenger_conformance::all(Arc::new(messenger), "user.created", capabilities, inbox).await;
//! # });
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::message::{Message, Scalar};
use crate::messenger::{Health, Messenger};
use crate::testing::support::fuse::fuse;

/// The abilities of a messenger beyond the contract; none by default.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct MessengerCapabilities {
    /// The test can see what arrives.
    pub arrival: bool,
    /// Bodies may be any bytes, not only JSON objects.
    pub any_body: bool,
    /// Headers arrive beside the body.
    pub headers: bool,
    /// Sends fail as transient after `close`.
    pub closes: bool,
}

impl MessengerCapabilities {
    /// Sets whether the test can see what arrives.
    #[must_use]
    pub fn with_arrival(self, arrival: bool) -> Self {
        Self { arrival, ..self }
    }

    /// Sets whether bodies may be any bytes.
    #[must_use]
    pub fn with_any_body(self, any_body: bool) -> Self {
        Self { any_body, ..self }
    }

    /// Sets whether headers arrive beside the body.
    #[must_use]
    pub fn with_headers(self, headers: bool) -> Self {
        Self { headers, ..self }
    }

    /// Sets whether sends fail as transient after `close`.
    #[must_use]
    pub fn with_closes(self, closes: bool) -> Self {
        Self { closes, ..self }
    }
}

/// A message as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    /// The body.
    pub body: Vec<u8>,
    /// The headers of the app; others are ignored.
    pub headers: BTreeMap<String, Scalar>,
}

impl From<&Message> for Received {
    fn from(message: &Message) -> Self {
        let headers = message.headers().map(|(name, value)| (name.to_owned(), value.clone()));
        Self { body: message.body().to_vec(), headers: headers.collect() }
    }
}

/// The number that the check put into a body.
fn seq(received: &Received) -> u64 {
    serde_json::from_slice::<Value>(&received.body).unwrap()["seq"].as_u64().unwrap()
}

/// Sends through the messenger and compares what arrives.
///
/// `inbox` returns the next `count` messages that arrived, in order, and waits for them; it should panic when they do not
/// come. It is called only with the capability `arrival`. The check closes the messenger at its end.
///
/// # Panics
/// If the messenger breaks the contract.
pub async fn all(
    messenger: Arc<dyn Messenger>,
    topic: &str,
    capabilities: MessengerCapabilities,
    mut inbox: impl AsyncFnMut(usize) -> Vec<Received>,
) {
    let message = |seq: u64| Message::json(topic.to_owned(), &json!({"seq": seq})).unwrap();

    messenger.send(Vec::new()).await.expect("an empty batch is sent");
    assert_eq!(messenger.health().await, Health::Up);

    messenger.send((0..300).map(message).collect()).await.expect("a batch is sent");
    if capabilities.arrival {
        let seqs: Vec<_> = inbox(300).await.iter().map(seq).collect();
        assert_eq!(seqs, (0..300).collect::<Vec<_>>(), "order within a batch");
    }

    let sends: Vec<_> = (0..50)
        .map(|n| {
            let (messenger, batch) = (Arc::clone(&messenger), vec![message(2 * n), message(2 * n + 1)]);
            tokio::spawn(async move { messenger.send(batch).await })
        })
        .collect();
    for send in sends {
        send.await.unwrap().expect("concurrent batches are sent");
    }
    if capabilities.arrival {
        let seqs: Vec<_> = inbox(100).await.iter().map(seq).collect();
        for pair in 0..50 {
            let at = |seq| seqs.iter().position(|found| *found == seq).unwrap();
            assert!(at(2 * pair) < at(2 * pair + 1), "order within each of the batches");
        }
    }

    let mut sent = Message::json(topic.to_owned(), &json!({"seq": 0, "text": "größe ☃ 🦀\n\"\\"})).unwrap();
    for (name, value) in [("text", "größe"), ("empty", "")] {
        sent.set_header(name, value);
    }
    sent.set_header("number", -7);
    sent.set_header("yes", true);
    let large = Message::json(topic.to_owned(), &json!({"seq": 1, "text": "ü".repeat(1 << 19)})).unwrap();
    messenger.check(&sent).unwrap();
    messenger.send(vec![sent.clone(), large.clone()]).await.expect("unicode and 1 MiB are sent");
    if capabilities.arrival {
        let received = inbox(2).await;
        assert!(received[0].body == *sent.body(), "unicode");
        assert!(received[1].body == *large.body(), "1 MiB");
        if capabilities.headers {
            for (name, value) in sent.headers() {
                assert_eq!(received[0].headers.get(name), Some(value), "header {name}");
            }
        }
    }
    if capabilities.any_body {
        let bodies: [&[u8]; 3] = [b"", b"\x00\xff\xfe", b"plain"];
        let batch = bodies.map(|body| Message::new(topic.to_owned(), body.to_vec()).unwrap());
        messenger.send(batch.to_vec()).await.expect("any bytes are sent");
        if capabilities.arrival {
            assert_eq!(
                inbox(3).await.iter().map(|received| received.body.clone()).collect::<Vec<_>>(),
                bodies
            );
        }
    }

    // A dropped send leaves its messages all sent, in order and once, or not at all; the messenger stays of use.
    const DROPPED: u64 = 6;
    for round in 0..DROPPED {
        let batch = (0..10).map(|seq| message(round * 100 + seq)).collect();
        let _ = fuse(usize::try_from(round).unwrap(), messenger.send(batch)).await;
        messenger.send(vec![message(round * 100 + 99)]).await.expect("a send after a dropped one");
    }
    if capabilities.arrival {
        let mut seqs: Vec<u64> = Vec::new();
        let of_round = |seqs: &[u64], round| -> Vec<u64> {
            seqs.iter().filter(|seq| *seq / 100 == round && *seq % 100 != 99).map(|seq| seq % 100).collect()
        };
        // Batches that were handed over are sent to the end, in parallel with later ones.
        let ended = |seqs: &[u64]| {
            let after = seqs.iter().filter(|seq| *seq % 100 == 99).count() as u64;
            after == DROPPED && (0..DROPPED).all(|round| matches!(of_round(seqs, round).len(), 0 | 10))
        };
        while !ended(&seqs) {
            seqs.extend(inbox(1).await.iter().map(seq));
        }
        for round in 0..DROPPED {
            let found = of_round(&seqs, round);
            assert!(
                found.is_empty() || found == (0..10).collect::<Vec<_>>(),
                "dropped after {round} polls: {found:?}"
            );
        }
    }

    messenger.close(Duration::from_secs(5)).await;
    if capabilities.closes {
        let unsent = messenger.send(vec![message(0)]).await.expect_err("closed");
        assert!(unsent.iter().all(|(_, failure)| failure.is_transient()));
    }
}
