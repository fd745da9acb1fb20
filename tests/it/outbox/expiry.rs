//! Messages that have waited too long, or not yet long enough.

use std::time::{Duration, SystemTime};

use tower_outbox::outbox::{RelaySettings, WhenExpired};
use tower_outbox::store::{EntryState, Wait};
use tower_outbox::{Failure, Message, Messenger, Unsent, async_trait};
use tracing::Level;

use super::{quick, start};
use crate::support::messengers::{Act, scripted};
use crate::support::stores::{QUIET, STUCK};
use crate::support::{logs, message, topics};

const MINUTE: Duration = Duration::from_secs(60);

fn a_minute_old(topic: &'static str) -> Message {
    message(topic).with_time(SystemTime::now() - MINUTE)
}

/// The arrivals of one that may wait 10 s, one that may wait 100 s, and one without a limit, all a minute old.
async fn arriving(settings: RelaySettings, dead: u64) -> Vec<String> {
    let bus = scripted(|_| Act::Confirm);
    let (outbox, _folder) = start(bus.clone(), settings).await;
    let short = a_minute_old("short").with_expiry(Duration::from_secs(10));
    let messages = vec![
        short.clone(),
        a_minute_old("long").with_expiry(Duration::from_secs(100)),
        a_minute_old("none"),
        message("new"),
    ];
    outbox.store(messages).await;
    outbox.until_left(0, dead).await;
    if dead > 0 {
        let entry = outbox.entry(short.id()).await.unwrap();
        assert_eq!(entry.state, EntryState::Dead);
        assert!(entry.failures.last().unwrap().reason.contains("expired"), "{entry:?}");
    }
    assert_eq!(bus.tries(short.id()), 0);
    topics(&bus.confirmed())
}

#[tokio::test]
async fn a_message_that_expired_by_its_own_measure_is_a_dead_letter() {
    assert_eq!(arriving(quick(), 1).await, ["long", "none", "new"]);
}

#[tokio::test]
async fn the_shorter_of_a_messages_expiry_and_the_settings_counts() {
    assert_eq!(arriving(quick().with_expiry(Duration::from_secs(30)), 3).await, ["new"]);
    assert_eq!(arriving(quick().with_expiry(Duration::from_secs(90)), 1).await, ["long", "none", "new"]);
}

#[tokio::test]
async fn by_setting_what_expired_is_dropped_and_that_is_said() {
    let log = logs::listen();
    let settings = quick().with_when_expired(WhenExpired::Drop);
    assert_eq!(arriving(settings, 0).await, ["long", "none", "new"]);
    let logged = log.find(Level::WARN, &["id", "topic"]);
    assert!(logged.len() == 1 && logged[0].get("topic") == "short", "{logged:?}");
    assert!(log.find(Level::ERROR, &["id", "reason"]).is_empty(), "{:?}", log.events());
}

#[tokio::test]
async fn a_message_that_expires_while_it_waits_for_an_attempt_is_a_dead_letter() {
    let bus = scripted(|_| Act::Fail);
    let (outbox, _folder) = start(bus.clone(), quick()).await;
    let message = message("a").with_expiry(Duration::from_millis(200));
    outbox.store(vec![message.clone()]).await;
    outbox.until_left(0, 1).await;
    assert!(bus.tries(message.id()) > 0);
    let entry = outbox.entry(message.id()).await.unwrap();
    assert!(entry.failures.last().unwrap().reason.contains("expired"), "{entry:?}");
}

#[tokio::test]
async fn a_message_leaves_when_its_delay_is_over() {
    let bus = scripted(|message| if message.delay().is_some() { Act::Reject } else { Act::Confirm });
    let (outbox, _folder) = start(bus.clone(), quick()).await;
    let (now, delay) = (SystemTime::now(), 3 * QUIET);
    let late = message("late").with_time(now).with_delay(delay);
    outbox.store(vec![late.clone(), message("soon")]).await;
    outbox.until_left(1, 0).await;
    assert!(matches!(outbox.entry(late.id()).await.unwrap().wait, Some(Wait::Delayed { .. })));
    // The delay is the outbox's: a bus that knows none gets it without.
    outbox.until_left(0, 0).await;
    let waited = now.elapsed().unwrap();
    assert!(waited >= delay && waited < STUCK, "{waited:?}");
    assert_eq!(topics(&bus.confirmed()), ["soon", "late"]);
}

/// Cannot hold messages back, and takes small ones only.
struct Picky;

#[async_trait]
impl Messenger for Picky {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        Err(Unsent::new(batch, &Failure::transient("no answer")))
    }

    fn check(&self, message: &Message) -> Result<(), tower_outbox::BoxError> {
        if message.delay().is_some() {
            return Err("it cannot be held back".into());
        }
        if message.body().len() > 100 { Err("too large".into()) } else { Ok(()) }
    }
}

#[tokio::test]
async fn a_message_is_checked_as_the_bus_will_get_it() {
    let (outbox, _folder) = start(Picky, quick()).await;
    let small = Message::new("a", vec![1; 100]).unwrap();
    let large = Message::new("a", vec![1; 101]).unwrap();
    assert!(outbox.outbox.check(&small).is_ok());
    assert!(outbox.outbox.check(&small.with_delay(MINUTE)).is_ok());
    for large in [large.clone(), large.with_delay(MINUTE)] {
        assert_eq!(outbox.outbox.check(&large).unwrap_err().to_string(), "too large");
    }
}
