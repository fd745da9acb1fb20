//! Events and requests.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::harness::{EngineHarness, content, name, text};
use crate::channels::{
    EngineError, EventSubscription, Pattern, Reply, Request, RequestKind, RequestSubscription,
};
use crate::testing::support::stores::STUCK;

fn pattern(text: &str) -> Pattern {
    Pattern::new(text).unwrap()
}

async fn subscribe(
    harness: &EngineHarness,
    to: &str,
    group: Option<&str>,
    buffer: usize,
) -> EventSubscription {
    harness.engine.subscribe_events(&pattern(to), group, buffer).await.unwrap()
}

async fn next(subscription: &mut EventSubscription) -> (String, String) {
    let event = timeout(STUCK, subscription.next()).await.expect("no event comes").unwrap();
    (event.channel.to_string(), text(&event.content))
}

async fn responder(harness: &EngineHarness, kind: RequestKind, to: &str) -> RequestSubscription {
    harness.engine.subscribe_requests(kind, &pattern(to), None, 0).await.unwrap()
}

fn request(kind: RequestKind, timeout: Duration) -> Request {
    Request { kind, content: content("question"), timeout }
}

fn reply(body: &str) -> Reply {
    Reply { executed: true, body: body.to_owned().into(), ..Reply::default() }
}

pub async fn events_go_to_every_subscriber_there_is(harness: EngineHarness) {
    harness.engine.publish(&name("e"), content("before")).await.unwrap();
    let (mut one, mut other) =
        (subscribe(&harness, "e", None, 0).await, subscribe(&harness, "e", None, 0).await);
    harness.engine.publish(&name("e"), content("now")).await.unwrap();
    assert_eq!(next(&mut one).await, ("e".to_owned(), "now".to_owned()));
    assert_eq!(next(&mut other).await.1, "now");
    drop(other);
    harness.engine.publish(&name("e"), content("later")).await.unwrap();
    assert_eq!(next(&mut one).await.1, "later");
}

pub async fn wildcards_match_words(harness: EngineHarness) {
    let (mut one_word, mut all) =
        (subscribe(&harness, "a.*", None, 0).await, subscribe(&harness, "a.>", None, 0).await);
    for channel in ["a.b", "a.b.c", "b", "a.d"] {
        harness.engine.publish(&name(channel), content(channel)).await.unwrap();
    }
    for wanted in ["a.b", "a.d"] {
        assert_eq!(next(&mut one_word).await.0, wanted);
    }
    for wanted in ["a.b", "a.b.c", "a.d"] {
        assert_eq!(next(&mut all).await.0, wanted);
    }
}

pub async fn a_group_of_subscribers_gets_one_event(harness: EngineHarness) {
    let mut members = Vec::new();
    for to in ["e", "e", "*"] {
        members.push(subscribe(&harness, to, Some("g"), 0).await);
    }
    let mut alone = subscribe(&harness, "e", None, 0).await;
    for n in 0..30 {
        harness.engine.publish(&name("e"), content(&n.to_string())).await.unwrap();
        assert_eq!(next(&mut alone).await.1, n.to_string());
    }
    harness.engine.close(STUCK).await;
    let (mut total, mut busy) = (0, 0);
    for mut member in members {
        let mut events = Vec::new();
        while member.next_many(&mut events, 100).await > 0 {}
        total += events.len();
        busy += usize::from(!events.is_empty());
    }
    assert_eq!((total, busy), (30, 3), "each event went to one member, and each member got some");
}

pub async fn a_slow_subscriber_loses_events_alone(harness: EngineHarness) {
    let mut slow = subscribe(&harness, "e", None, 2).await;
    let mut fast = subscribe(&harness, "e", None, 0).await;
    for n in 0..10 {
        harness.engine.publish(&name("e"), content(&n.to_string())).await.unwrap();
    }
    for n in 0..10 {
        assert_eq!(next(&mut fast).await.1, n.to_string());
    }
    for n in 0..2 {
        assert_eq!(next(&mut slow).await.1, n.to_string());
    }
    harness.engine.publish(&name("e"), content("later")).await.unwrap();
    assert_eq!(next(&mut slow).await.1, "later", "it goes on");
}

pub async fn events_that_wait_have_a_bounded_size(harness: EngineHarness) {
    let mut slow = subscribe(&harness, "e", None, 1_000).await;
    let body = "x".repeat(1 << 20);
    for _ in 0..70 {
        harness.engine.publish(&name("e"), content(&body)).await.unwrap();
    }
    let mut events = Vec::new();
    assert!(slow.next_many(&mut events, 1_000).await > 0);
    assert!(events.len() <= 64, "{} MiB waited for one subscriber", events.len());
    harness.engine.publish(&name("e"), content(&body)).await.unwrap();
    assert_eq!(next(&mut slow).await.1.len(), body.len(), "it goes on");
}

pub async fn a_request_gets_its_answer(harness: EngineHarness) {
    let mut responder = responder(&harness, RequestKind::Query, "orders.*").await;
    let orders = name("orders.quote");
    let asked = harness.engine.request(&orders, request(RequestKind::Query, STUCK));
    let answering = async {
        let incoming = responder.next().await.unwrap();
        assert_eq!((text(&incoming.content), incoming.channel), ("question".to_owned(), orders.clone()));
        assert_eq!((incoming.timeout, incoming.kind), (STUCK, RequestKind::Query));
        let tags = vec![("a".to_owned(), "1".to_owned())];
        incoming.responder.answer(Reply { metadata: "m".to_owned(), tags, ..reply("answer") }).unwrap();
    };
    let (answered, ()) = tokio::join!(asked, answering);
    let got = answered.unwrap().reply;
    assert_eq!((got.metadata.as_str(), &*got.body, got.tags.len()), ("m", &b"answer"[..], 1));
}

pub async fn the_first_answer_wins(harness: EngineHarness) {
    let kind = RequestKind::Command;
    let (mut one, mut other) = (responder(&harness, kind, "c").await, responder(&harness, kind, "c").await);
    let channel = name("c");
    let asked = harness.engine.request(&channel, request(kind, STUCK));
    let answering = async {
        let (first, second) = (one.next().await.unwrap(), other.next().await.unwrap());
        first.responder.answer(reply("first")).unwrap();
        assert!(second.responder.answer(reply("second")).is_err() && second.responder.is_late());
    };
    let (answered, ()) = tokio::join!(asked, answering);
    assert_eq!(answered.unwrap().reply.body, "first");
}

pub async fn nobody_to_answer_is_known_at_once(harness: EngineHarness) {
    let begun = Instant::now();
    let asked = harness.engine.request(&name("c"), request(RequestKind::Query, STUCK)).await;
    assert!(matches!(asked, Err(EngineError::NoResponder(_))));
    let mut responder = responder(&harness, RequestKind::Query, "c").await;
    let channel = name("c");
    let asked = harness.engine.request(&channel, request(RequestKind::Query, STUCK));
    let dropping = async { drop(responder.next().await.unwrap()) };
    let (asked, ()) = tokio::join!(asked, dropping);
    assert!(matches!(asked, Err(EngineError::NoAnswer { .. })));
    assert!(begun.elapsed() < STUCK / 2);
}

pub async fn no_answer_in_time_is_an_error(harness: EngineHarness) {
    let mut responder = responder(&harness, RequestKind::Query, "c").await;
    let wait = Duration::from_millis(50);
    let begun = Instant::now();
    let asked = harness.engine.request(&name("c"), request(RequestKind::Query, wait)).await;
    assert!(matches!(asked, Err(EngineError::NoAnswer { .. })) && begun.elapsed() >= wait);
    let incoming = responder.next().await.unwrap();
    assert!(incoming.responder.answer(reply("late")).is_err());
}

pub async fn commands_and_queries_are_separate(harness: EngineHarness) {
    let _commands = responder(&harness, RequestKind::Command, "c").await;
    let asked = harness.engine.request(&name("c"), request(RequestKind::Query, STUCK)).await;
    assert!(matches!(asked, Err(EngineError::NoResponder(_))));
}
