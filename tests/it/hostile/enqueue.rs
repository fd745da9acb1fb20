//! A message that the protocol can never carry is refused at enqueue.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use http::{HeaderValue, Request, StatusCode};
use tower::ServiceExt;
use tower_outbox::amqp10::{Amqp10, Amqp10Settings, RhMsg};
use tower_outbox::amqp091::{Amqp091, Amqp091Settings, Fedmsg};
use tower_outbox::background::{Background, BackgroundSettings};
use tower_outbox::fallback::Fallback;
use tower_outbox::outbox::{Outbox, RelaySettings};
use tower_outbox::store::{EmbeddedStoreSettings, Filter};
use tower_outbox::{
    BoxError, EnqueueError, Message, MessageQueue, MessagingLayer, Messenger, Unsent, async_trait,
};

use crate::peers::{Brokers, RabbitQueue, numbered, sequence, unique};
use crate::support::messengers::recording;
use crate::support::{app, get, message, stores};

const NOWHERE: &str = "amqp://127.0.0.1:1";

fn years(years: u64) -> Duration {
    Duration::from_secs(years * 365 * 86_400)
}

/// Messages that AMQP 0-9-1 cannot carry, and a word of the reason.
fn impossible() -> Vec<(Message, &'static str)> {
    let long = "x".repeat(256);
    let year_10000 = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_800);
    vec![
        (message("a").with_header("x", "x".repeat(200_000)), "header \"x\" takes"),
        (message("a").with_key("x".repeat(200_000)), "frame_max"),
        ((0..999).fold(message("a"), |message, n| message.with_header(format!("{n:0130}"), 7)), "frame_max"),
        (message("a").with_header("r", f64::NAN), "\"r\" is NaN"),
        (message("a").with_header("r", f64::INFINITY), "\"r\" is inf"),
        (message("a").with_header("r", f64::NEG_INFINITY), "\"r\" is -inf"),
        (message("a").with_content_type("x".repeat(300)), "content type is 300 bytes long"),
        (message("a").with_header(long, 1), "is 256 bytes long"),
        (message("a").with_header("CC", "x"), "\"CC\" is reserved for brokers"),
        (message("a").with_header("BCC", 7), "\"BCC\" is reserved for brokers"),
        (message("a").with_header("x-death", "odd"), "\"x-death\" is reserved for brokers"),
        (message("a").with_expiry(years(10) + Duration::from_millis(1)), "expiry is 315360000001 ms"),
        (message("a").with_expiry(Duration::MAX), "expiry"),
        (message("a").with_time(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), "before 1970"),
        (message("a").with_time(year_10000), "after 9999"),
    ]
}

#[test]
fn more_headers_than_a_consumer_takes_are_refused() {
    let with = |count| (0..count).fold(message("a"), |message, n| message.with_header(format!("{n}"), 7));
    let amqp10 = Amqp10::new(&Amqp10Settings::new([NOWHERE])).unwrap();
    for messenger in [&plain() as &dyn Messenger, &amqp10] {
        messenger.check(&with(1_000)).unwrap();
        let error = messenger.check(&with(1_001)).unwrap_err().to_string();
        assert!(error.contains("1001 headers: a consumer takes 1000 at most"), "{error}");
    }
}

/// Messages that leave as they are, though they come near a limit.
fn possible() -> Vec<Message> {
    vec![
        message("a").with_header("x", "x".repeat(130_000)),
        message("a").with_header("r", f64::MAX),
        message("a").with_content_type("x".repeat(255)),
        message("a").with_header("x".repeat(255), 1),
        message("a").with_header("ü".repeat(127), i64::MIN),
        message("a").with_expiry(years(10)),
        message("a").with_expiry(Duration::ZERO),
        message("a").with_time(SystemTime::UNIX_EPOCH),
    ]
}

fn plain() -> Amqp091 {
    Amqp091::new(&Amqp091Settings::new([NOWHERE])).unwrap()
}

/// The view of this message that a handler gets.
async fn enqueued(messenger: impl Messenger, message: Message) -> Result<(), EnqueueError> {
    let (sender, mut answers) = tokio::sync::mpsc::unbounded_channel();
    let app = app(MessagingLayer::new(messenger), move |queue: MessageQueue| {
        sender.send(queue.enqueue(message.clone()).map(drop)).unwrap();
        std::future::ready(StatusCode::BAD_REQUEST)
    });
    get(app).await;
    answers.recv().await.unwrap()
}

#[tokio::test]
async fn amqp091_refuses_unsendable_messages_at_enqueue() {
    for (bad, reason) in impossible() {
        match enqueued(plain(), bad).await {
            Err(EnqueueError::Rejected(why)) => assert!(why.to_string().contains(reason), "{reason}: {why}"),
            other => panic!("{reason}: {other:?}"),
        }
    }
    for good in possible() {
        enqueued(plain(), good).await.unwrap();
    }
}

#[tokio::test]
async fn fedmsg_refuses_messages_that_amqp091_refuses() {
    let fedmsg = || Fedmsg::new(&Amqp091Settings::new([NOWHERE])).unwrap();
    // It has no place for a key.
    for (bad, reason) in impossible().into_iter().filter(|(bad, _)| bad.key().is_none()) {
        let why = fedmsg().check(&bad).expect_err(reason).to_string();
        assert!(why.contains(reason), "{reason}: {why}");
    }
    possible().iter().for_each(|good| fedmsg().check(good).unwrap());
}

#[tokio::test]
async fn each_decorator_asks_the_inner_messenger() {
    let folder = tempfile::tempdir().unwrap();
    let store = stores::open(&EmbeddedStoreSettings::new(folder.path())).await.unwrap();
    let (outbox, _relay) = Outbox::new(plain(), Arc::new(store), RelaySettings::default());
    let (background, _worker) = Background::new(plain(), BackgroundSettings::default());
    let decorated: [Box<dyn Messenger>; 3] =
        [Box::new(outbox), Box::new(background), Box::new(Fallback::new(plain(), plain()))];
    for messenger in decorated {
        for (bad, reason) in impossible() {
            assert!(messenger.check(&bad).is_err(), "{reason}");
        }
    }
}

#[tokio::test]
async fn amqp10_refuses_unsendable_messages_at_enqueue() {
    let settings = Amqp10Settings::new([NOWHERE]);
    let (plain, rhmsg) = (Amqp10::new(&settings).unwrap(), RhMsg::new(&settings).unwrap());
    for (bad, reason) in [
        (message("a").with_header("r", f64::NAN), "\"r\" is NaN"),
        (message("a").with_header("x".repeat(256), 1), "is 256 bytes long"),
    ] {
        for why in [plain.check(&bad), rhmsg.check(&bad)] {
            let why = why.expect_err(reason).to_string();
            assert!(why.contains(reason), "{reason}: {why}");
        }
    }
    for content_type in ["text/größe".to_owned(), "x".repeat(256), "a\nb".to_owned()] {
        let why = plain.check(&message("a").with_content_type(content_type)).unwrap_err().to_string();
        assert!(why.contains("content type"), "{why}");
    }
    let before = message("a").with_time(SystemTime::UNIX_EPOCH - Duration::from_secs(1));
    assert!(plain.check(&before).unwrap_err().to_string().contains("before 1970"));
    plain.check(&message("a").with_header("x", "x".repeat(200_000))).unwrap();
}

#[test]
fn a_ttl_that_no_broker_takes_is_refused_at_start() {
    let mut settings = Amqp091Settings::new([NOWHERE]);
    settings.broker.ttl = Some(years(11));
    let error = Amqp091::new(&settings).unwrap_err().to_string();
    assert!(error.contains("TTL") && error.contains("3650d"), "{error}");
}

fn ids(unsent: &Unsent) -> Vec<(String, &'static str)> {
    unsent.iter().map(|(message, failure)| (message.id().to_string(), failure.kind())).collect()
}

/// Nobody need have asked `check`.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_is_sent_unchecked_is_rejected_alone() {
    let brokers = Brokers::running();
    let settings = Amqp091Settings::new([brokers.get("RABBIT1_AMQP")]);
    let messengers: [Box<dyn Messenger>; 2] =
        [Box::new(Amqp091::new(&settings).unwrap()), Box::new(Fedmsg::new(&settings).unwrap())];
    for messenger in messengers {
        for (bad, reason) in impossible().into_iter().filter(|(bad, _)| messenger.check(bad).is_err()) {
            let id = bad.id().to_string();
            let unsent = messenger.send(vec![message("a"), bad, message("b")]).await.unwrap_err();
            assert_eq!(ids(&unsent), [(id, "rejected")], "{reason}: {unsent}");
        }
        messenger.send(possible()).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn headers_that_just_fill_a_frame_arrive() {
    let brokers = Brokers::running();
    let topic = unique("full");
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &topic).await;
    let messenger = Amqp091::new(&Amqp091Settings::new([brokers.get("RABBIT1_AMQP")])).unwrap();
    let sized = |len: usize| numbered(&topic, 1).remove(0).with_header("x", "x".repeat(len));
    let lengths: Vec<usize> = (130_000..131_073).collect();
    let longest = lengths[lengths.partition_point(|len| messenger.check(&sized(*len)).is_ok()) - 1];
    messenger.send(vec![sized(longest)]).await.unwrap();
    let unsent = messenger.send(vec![sized(longest + 1)]).await.unwrap_err();
    assert!(unsent.to_string().contains("frame_max"), "{unsent}");
    assert_eq!(sequence(&queue.drain().await), [0]);
}

/// Says no to what has a header `never`, and takes everything else.
struct Choosy(tower_outbox::testing::Recording);

#[async_trait]
impl Messenger for Choosy {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        assert!(batch.iter().all(|message| message.header("never").is_none()));
        self.0.send(batch).await
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        if message.header("never").is_some() { Err("it never leaves".into()) } else { Ok(()) }
    }
}

/// Messages come into a store by other ways than `enqueue`, or the bus takes less than it did.
#[tokio::test]
async fn a_stored_message_that_can_never_leave_is_a_dead_letter_and_no_other_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = stores::open(&EmbeddedStoreSettings::new(folder.path())).await.unwrap();
    let (recording, sent) = recording();
    let (outbox, relay) = Outbox::new(Choosy(recording), Arc::new(store), RelaySettings::default());
    let handle = outbox.handle();
    tokio::spawn(relay.into_future());
    let bad = message("a").with_header("never", true);
    outbox.send(vec![message("a"), bad.clone(), message("b")]).await.unwrap();
    handle.append(vec![bad.clone(), message("c")]).await.unwrap();
    stores::until("all are settled", async || handle.status().await.unwrap().counts.pending == 0).await;
    assert_eq!(sent.topics(), ["a", "b", "c"]);
    let dead = handle.list(&Filter::default(), None, 10).await.unwrap().entries;
    assert_eq!(dead.len(), 2);
    assert!(dead.iter().all(|entry| entry.explain().contains("it never leaves")));
    handle.requeue(&Filter::default(), Duration::ZERO).await.unwrap();
    stores::until("it is dead again", async || handle.status().await.unwrap().counts.dead == 2).await;
}

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// The headers that a message gets of a request with these.
async fn copied(headers: &[(&'static str, String)]) -> Vec<(String, String)> {
    let (messenger, sent) = recording();
    let app = app(MessagingLayer::new(messenger), async |queue: MessageQueue| {
        queue.enqueue(message("a")).unwrap();
    });
    let mut request = Request::post("/").body(Body::empty()).unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    app.oneshot(request).await.unwrap();
    let message = sent.messages().remove(0);
    let is_begun = |(name, value): &(String, String)| {
        name == "traceparent" && !headers.iter().any(|(of, given)| name == of && value == given)
    };
    let mut found: Vec<_> =
        message.headers().map(|(name, value)| (name.to_owned(), value.to_string())).collect();
    // Without a valid context a new trace begins.
    assert!(found.iter().any(|(name, value)| name == "traceparent" && value.len() >= TRACEPARENT.len()));
    found.retain(|header| !is_begun(header));
    found
}

async fn is_copied(traceparent: &str) -> bool {
    !copied(&[("traceparent", traceparent.to_owned())]).await.is_empty()
}

#[tokio::test]
async fn only_a_valid_traceparent_goes_along() {
    let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    for valid in [
        TRACEPARENT.to_owned(),
        format!("00-{trace}-{span}-ff"),
        format!("01-{trace}-{span}-01"),
        format!("cc-{trace}-{span}-01-what-comes-later"),
    ] {
        assert!(is_copied(&valid).await, "{valid}");
    }
    for odd in [
        "x".repeat(140_000),
        format!("{TRACEPARENT}{}", "0".repeat(140_000)),
        format!("cc-{trace}-{span}-01-{}", "x".repeat(140_000)),
        String::new(),
        "00-own".to_owned(),
        format!("ff-{trace}-{span}-01"),
        format!("00-{}-{span}-01", "0".repeat(32)),
        format!("00-{trace}-{}-01", "0".repeat(16)),
        format!("00-{trace}-{span}-01-"),
        format!("00-{trace}-{span}-01-x"),
        format!("01-{trace}-{span}-01x"),
        TRACEPARENT.to_uppercase(),
        format!("00-{trace}-{span}-0g"),
        format!("00-{trace}-{span}-1"),
        format!("00_{trace}-{span}-01"),
        format!("0-{trace}-{span}-01"),
        format!("00-{trace}-größe67169203331-01"),
    ] {
        assert!(!is_copied(&odd).await, "{odd}");
    }
    let twice = [("traceparent", TRACEPARENT.to_owned()), ("traceparent", TRACEPARENT.to_owned())];
    assert!(copied(&twice).await.len() < 2);
}

#[tokio::test]
async fn tracestate_and_baggage_go_along_within_their_limits() {
    let of =
        async |name, value: String| copied(&[("traceparent", TRACEPARENT.to_owned()), (name, value)]).await;
    let one = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let parent = || one("traceparent", TRACEPARENT);
    let members =
        |count: usize, name: &str| (0..count).map(|n| format!("{name}{n}=v")).collect::<Vec<_>>().join(",");
    for valid in ["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "a@b=1 2", "", "a=1, ,b=2", &members(32, "k")] {
        let copied = of("tracestate", valid.to_owned()).await;
        let expected =
            if valid.is_empty() { vec![parent()] } else { vec![parent(), one("tracestate", valid)] };
        assert_eq!(copied, expected, "{valid}");
    }
    for odd in [members(33, "k"), format!("a={}", "x".repeat(511)), "A=1".into(), "a".into(), "a=ü".into()] {
        assert_eq!(of("tracestate", odd.clone()).await, [parent()], "{odd}");
    }
    for valid in ["userId=alice,serverNode=DF%2028", "a = 1 ;p;q=2", &members(64, "k")] {
        assert_eq!(of("baggage", valid.to_owned()).await, [parent(), one("baggage", valid)], "{valid}");
    }
    for odd in [members(65, "k"), format!("a={}", "x".repeat(8_191)), "a".into(), "=1".into(), "a=ü".into()]
    {
        assert_eq!(of("baggage", odd.clone()).await, [parent()], "{odd}");
    }
    // A trace state is that of a trace; baggage stands alone.
    assert!(copied(&[("tracestate", "a=1".to_owned())]).await.is_empty());
    assert_eq!(copied(&[("baggage", "a=1".to_owned())]).await, [one("baggage", "a=1")]);
    // Several fields are one list (RFC 9110, 5.3).
    let two = copied(&[("baggage", "a=1".to_owned()), ("baggage", "b=2".to_owned())]).await;
    assert_eq!(two, [one("baggage", "a=1,b=2")]);
}
