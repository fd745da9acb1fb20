//! Messages that no well-behaved client publishes: the client library of the engine ends its connection over them, or itself.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::timeout;
use tower_outbox::channels::jetstream::JetstreamEngine;
use tower_outbox::channels::{
    ChannelKind, Engine, Events, Pattern, Queues, Receive, Reply, Request, RequestKind, Requests, Settle,
    Start, Streams, Subscribe, Which,
};

use super::super::{content, name};
use super::Channels;
use crate::nats::raw::publish_raw;

const SOON: Duration = Duration::from_secs(30);
const GOOD: &[u8] = b"NATS/1.0\r\n\r\n";
/// Headers that cannot be read. Over a carriage return the client library panics.
const BAD: [&[u8]; 4] = [
    b"NATS/1.0\r\na: \xff\xfe\r\n\r\n",
    b"NATS/1.0\r\nno colon\r\n\r\n",
    b"NATS/1.0\r\ntower-outbox-content: {\"id\":\"7\"}\r\na: b\rc\r\n\r\n",
    b"NATS/1.0\r\ntower-outbox-content: a\rb\r\n\r\n",
];
/// The last words of subjects that cannot be read.
const ODD: [&[u8]; 2] = ["a\u{a0}b".as_bytes(), b"\xff"];

impl Channels {
    /// An engine to which messages come again soon that were on their way with an unreadable one.
    async fn impatient(&self) -> JetstreamEngine {
        JetstreamEngine::open(self.settings().with_ack_wait(Duration::from_secs(1))).await.unwrap()
    }

    fn below(&self, words: &str, last: &[u8]) -> Vec<u8> {
        [self.prefix.as_bytes(), b".", words.as_bytes(), b".", last].concat()
    }
}

/// The bodies of a queue that come until there are so many.
async fn take(engine: &JetstreamEngine, count: usize) -> BTreeSet<String> {
    let mut bodies = BTreeSet::new();
    let all = async {
        while bodies.len() < count {
            let receive = Receive { max: 1, wait: Duration::from_secs(2), ..Receive::default() };
            let Ok(received) = engine.receive(&name("q"), receive).await else { continue };
            for message in &received.messages {
                let body = String::from_utf8(message.content.body.to_vec()).unwrap();
                assert!(bodies.insert(body), "{:?} comes twice", message.content.body);
                engine.settle(received.receipt, Which::All, Settle::Ack).await.unwrap();
            }
        }
    };
    timeout(SOON, all).await.expect("a message is missing");
    bodies
}

fn texts<const N: usize>(texts: [&str; N]) -> BTreeSet<String> {
    texts.into_iter().map(str::to_owned).collect()
}

async fn is_empty(engine: &JetstreamEngine) {
    let info = engine.info(ChannelKind::Queue, &name("q")).await.unwrap().unwrap();
    assert_eq!((info.messages, info.held), (0, 0));
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_of_a_queue_without_readable_headers_comes_without_them() {
    let channels = Channels::new();
    let engine = channels.impatient().await;
    engine.create(ChannelKind::Queue, &name("q"), Default::default()).await.unwrap();
    let of_headers = BAD.iter().map(|headers| (&b"bad"[..], *headers));
    let of_subjects = ODD.iter().map(|subject| (*subject, GOOD));
    for (subject, headers) in of_headers.chain(of_subjects) {
        let messages = [
            (channels.below("queue.q", b"1"), GOOD, &b"before"[..]),
            (channels.below("queue.q", subject), headers, b"bad"),
            (channels.below("queue.q", b"2"), GOOD, b"after"),
        ];
        publish_raw(&channels.url, &messages).await;
        let peeked = engine.peek(&name("q"), 10, Duration::ZERO).await.unwrap();
        assert_eq!(peeked.messages.len(), 3, "{}", headers.escape_ascii());
        assert_eq!(take(&engine, 3).await, texts(["after", "bad", "before"]), "{}", headers.escape_ascii());
        is_empty(&engine).await;
    }
    channels.remove().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_delayed_message_without_readable_headers_is_sent_to_its_queue() {
    let channels = Channels::new();
    let engine = channels.open().await;
    engine.create(ChannelKind::Queue, &name("q"), Default::default()).await.unwrap();
    let due = humantime::format_rfc3339_micros(std::time::SystemTime::now());
    let target = String::from_utf8(channels.below("due.q", b"w")).unwrap();
    let scheduled =
        format!("NATS/1.0\r\nNats-Schedule: @at {due}\r\nNats-Schedule-Target: {target}\r\na: ").into_bytes();
    let scheduled = [&*scheduled, b"\xff\r\n\r\n"].concat();
    let messages = [
        (channels.below("delayed.q", b"w"), &*scheduled, &b"delayed"[..]),
        (channels.below("due.q", b"x"), BAD[0], b"due"),
        (channels.below("due.q", b"\xff"), GOOD, b"odd"),
        // No queue has such a name.
        (channels.below("due.\u{a0}", b"x"), GOOD, b"nowhere"),
    ];
    publish_raw(&channels.url, &messages).await;
    assert_eq!(take(&engine, 3).await, texts(["delayed", "due", "odd"]));
    is_empty(&engine).await;
    channels.remove().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_of_a_stream_without_readable_headers_comes_once_without_them() {
    let channels = Channels::new();
    let engine = channels.impatient().await;
    engine.create(ChannelKind::Stream, &name("s"), Default::default()).await.unwrap();
    let subscribe =
        || Subscribe { start: Start::First, durable: Some("reader".to_owned()), ..Subscribe::default() };
    let own = || Subscribe { start: Start::First, ..Subscribe::default() };
    let durable = engine.subscribe_stream(&name("s"), subscribe()).await.unwrap();
    let other = engine.subscribe_stream(&name("s"), own()).await.unwrap();
    let subject = || channels.below("stream", b"s");
    let mut expected = BTreeSet::new();
    for (n, headers) in BAD.iter().enumerate() {
        let (before, bad, after) = (format!("before {n}"), format!("bad {n}"), format!("after {n}"));
        let messages = [
            (subject(), GOOD, before.as_bytes()),
            (subject(), headers, bad.as_bytes()),
            (subject(), GOOD, after.as_bytes()),
        ];
        publish_raw(&channels.url, &messages).await;
        let wanted = BTreeSet::from([before, bad, after]);
        for subscription in [&durable, &other] {
            let mut bodies = BTreeSet::new();
            let all = async {
                while bodies.len() < 3 {
                    let Ok(messages) = subscription.receive(1).await else { continue };
                    for message in messages {
                        bodies.insert(String::from_utf8(message.content.body.to_vec()).unwrap());
                        subscription.ack(message.sequence).await.unwrap();
                    }
                }
            };
            timeout(SOON, all).await.expect("a message is missing");
            assert_eq!(bodies, wanted, "{}", headers.escape_ascii());
        }
        expected.extend(wanted);
    }
    // A later subscriber gets them all, and meets nothing unreadable.
    let late = engine.subscribe_stream(&name("s"), own()).await.unwrap();
    let mut bodies = Vec::new();
    while bodies.len() < expected.len() {
        let messages = timeout(SOON, late.receive(100)).await.unwrap().unwrap();
        bodies.extend(messages.iter().map(|it| String::from_utf8(it.content.body.to_vec()).unwrap()));
    }
    assert_eq!(bodies.len(), expected.len());
    assert_eq!(bodies.into_iter().collect::<BTreeSet<_>>(), expected);
    channels.remove().await;
}

/// No stream keeps it, so nobody can read it again.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn an_event_without_readable_headers_is_skipped() {
    let channels = Channels::new();
    let engine = channels.open().await;
    let mut events = engine.subscribe_events(&Pattern::new("e").unwrap(), None, 0).await.unwrap();
    for headers in BAD {
        let messages = [
            (channels.below("event", b"e"), GOOD, &b"before"[..]),
            (channels.below("event", b"e"), headers, b"bad"),
        ];
        publish_raw(&channels.url, &messages).await;
        assert_eq!(timeout(SOON, events.next()).await.unwrap().unwrap().content.body, "before");
        let after = async {
            loop {
                // Events that are published while nobody is connected are lost.
                let _ = engine.publish(&name("e"), content("after")).await;
                if let Ok(event) = timeout(Duration::from_millis(50), events.next()).await {
                    return event.unwrap().content.body;
                }
            }
        };
        let body = timeout(SOON, after).await.expect("no more events come");
        assert_eq!(body, "after", "{}", headers.escape_ascii());
        while timeout(Duration::from_millis(100), events.next()).await.is_ok() {}
    }
    channels.remove().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_request_or_an_answer_without_readable_headers_is_skipped() {
    let channels = Channels::new();
    let (caller, responder) = (channels.open().await, channels.open().await);
    let pattern = Pattern::new("r").unwrap();
    let mut requests = responder.subscribe_requests(RequestKind::Query, &pattern, None, 0).await.unwrap();
    let answering = tokio::spawn(async move {
        while let Some(incoming) = requests.next().await {
            assert_eq!(incoming.content.body, "good");
            let _ = incoming.responder.answer(Reply { body: "fine".into(), ..Reply::default() });
        }
    });
    // A stranger answers with what cannot be read.
    let stranger = async_nats::connect(&channels.url).await.unwrap();
    let mut asked = stranger.subscribe(format!("{}.query.strange", channels.prefix)).await.unwrap();
    stranger.flush().await.unwrap();
    for headers in BAD {
        publish_raw(&channels.url, &[(channels.below("query", b"r"), headers, b"bad")]).await;
        let answer = async {
            loop {
                if let Ok(answered) = caller.request(&name("r"), query(Duration::from_secs(2))).await {
                    return answered.reply.body;
                }
            }
        };
        assert_eq!(timeout(SOON, answer).await.expect("no request is answered"), "fine");
        let (name, long) = (name("strange"), query(SOON * 10));
        let (failed, ()) = tokio::join!(timeout(SOON, caller.request(&name, long)), async {
            let to = timeout(SOON, asked.next()).await.expect("no request comes").unwrap().reply.unwrap();
            publish_raw(&channels.url, &[(to.as_bytes().to_vec(), headers, b"bad")]).await;
        });
        let failed = failed.expect("the caller does not know that its connection was lost").unwrap_err();
        assert!(failed.is_transient(), "{failed}");
        let alive = async {
            while caller.health().await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(SOON, alive).await.expect("the caller stays ill");
    }
    assert!(!answering.is_finished());
    channels.remove().await;
}

fn query(timeout: Duration) -> Request {
    Request { kind: RequestKind::Query, content: content("good"), timeout }
}
