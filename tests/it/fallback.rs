//! The decorator `Fallback`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tower_outbox::background::{Background, BackgroundSettings};
use tower_outbox::fallback::Fallback;
use tower_outbox::messenger::{Admission, Capabilities, InFlight};
use tower_outbox::testing::Recording;
use tower_outbox::{
    BoxError, Failure, Health, Message, MessageQueue, MessagingLayer, Messenger, Unsent, async_trait,
};

use crate::support::messengers::{down, fake, held, recording};
use crate::support::{app, enqueue, get, messages, topics};

fn transient() -> Failure {
    Failure::transient("the first is down")
}

fn rejected() -> Failure {
    Failure::rejected("never")
}

/// Confirms `ok`, and fails the rest: rejected if the topic begins with `bad`, else transient.
fn partly() -> impl Messenger {
    fake(|batch: Vec<Message>| async move {
        let failure = |message: &Message| {
            if message.topic().as_str().starts_with("bad") { rejected() } else { transient() }
        };
        let failed = batch.into_iter().filter(|message| message.topic().as_str() != "ok");
        failed.map(|message| (message.clone(), failure(&message))).collect::<Unsent>().into_result()
    })
}

#[tokio::test]
async fn what_the_first_sends_stays_away_from_the_second() {
    let ((first, sent), (second, other)) = (recording(), recording());
    Fallback::new(first, second).send(messages(["a", "b"])).await.unwrap();
    assert_eq!(sent.topics(), ["a", "b"]);
    assert!(other.topics().is_empty());
}

#[tokio::test]
async fn a_transient_failure_goes_to_the_second_messenger() {
    let (second, sent) = recording();
    let batch = messages(["ok", "a", "bad", "ok", "b"]);
    let unsent = Fallback::new(partly(), second).send(batch.clone()).await.unwrap_err();
    assert_eq!(sent.topics(), ["a", "b"]);
    let left: Vec<_> =
        unsent.iter().map(|(message, failure)| (message.id(), failure.is_transient())).collect();
    assert_eq!(left, [(batch[2].id(), false)]);
}

#[tokio::test]
async fn what_was_rejected_goes_to_the_second_when_it_is_asked_for() {
    let (second, sent) = recording();
    Fallback::new(partly(), second).with_rejected().send(messages(["bad", "ok", "a"])).await.unwrap();
    assert_eq!(sent.topics(), ["bad", "a"]);
}

#[tokio::test]
async fn what_neither_takes_comes_back_once_and_in_order() {
    let batch = messages(["a", "bad", "ok", "bad.b", "c"]);
    let second = fake(|batch: Vec<Message>| async move {
        let failed = batch.into_iter().filter(|message| message.topic().as_str() != "a");
        failed.map(|message| (message, rejected())).collect::<Unsent>().into_result()
    });
    let unsent = Fallback::new(partly(), second).send(batch).await.unwrap_err();
    let kinds: Vec<_> = unsent.iter().map(|(_, failure)| failure.kind()).collect();
    assert_eq!(topics(unsent.iter().map(|(message, _)| message)), ["bad", "bad.b", "c"]);
    assert_eq!(kinds, ["rejected", "rejected", "transient"], "the first may take it later");

    let both = Fallback::new(down(rejected()), down(rejected())).with_rejected();
    assert!(!both.send(messages(["a"])).await.unwrap_err().iter().next().unwrap().1.is_transient());
    let second_down = Fallback::new(down(rejected()), down(transient())).with_rejected();
    assert!(second_down.send(messages(["a"])).await.unwrap_err().iter().next().unwrap().1.is_transient());
}

#[tokio::test]
async fn messages_with_one_id_are_told_apart_by_their_place() {
    let message = messages(["a"]).remove(0);
    let twice = vec![message.clone(), message];
    let one_of_two =
        fake(|batch: Vec<Message>| async move { Err(Unsent::new(batch[1..].to_vec(), &transient())) });
    let unsent = Fallback::new(down(transient()), one_of_two).send(twice).await.unwrap_err();
    assert_eq!(unsent.len(), 1);
}

/// Says what it is told to.
#[derive(Default)]
struct Says {
    down: Option<&'static str>,
    refuses: bool,
    admission: Option<Admission>,
    closed: AtomicBool,
    in_flight: InFlight,
}

#[async_trait]
impl Messenger for Says {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        Err(Unsent::new(batch, &transient()))
    }

    fn check(&self, _: &Message) -> Result<(), BoxError> {
        if self.refuses { Err("refused".into()) } else { Ok(()) }
    }

    async fn health(&self) -> Health {
        self.down.map_or(Health::Up, |reason| Health::Down { reason: reason.to_owned() })
    }

    async fn close(&self, _: Duration) {
        self.closed.store(true, Ordering::SeqCst);
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default().with_in_flight(self.in_flight.clone());
        capabilities.admission.clone_from(&self.admission);
        capabilities
    }
}

#[tokio::test]
async fn it_is_up_while_one_of_them_is() {
    let says = |down| Says { down, ..Says::default() };
    assert!(Fallback::new(says(Some("a")), says(None)).health().await.is_up());
    assert!(Fallback::new(says(None), says(Some("b"))).health().await.is_up());
    let both = Fallback::new(says(Some("a")), says(Some("b")));
    assert_eq!(both.health().await, Health::Down { reason: "a; b".to_owned() });
}

#[tokio::test]
async fn fallback_refuses_at_enqueue_only_messages_that_neither_can_send() {
    let says = |refuses| Says { refuses, ..Says::default() };
    let message = &messages(["a"])[0];
    assert!(Fallback::new(says(true), says(false)).check(message).is_err());
    assert!(Fallback::new(says(false), says(true)).check(message).is_ok());
    assert!(Fallback::new(says(true), says(false)).with_rejected().check(message).is_ok());
    assert!(Fallback::new(says(true), says(true)).with_rejected().check(message).is_err());
}

#[tokio::test]
async fn requests_are_let_in_while_one_of_them_takes_messages() {
    let says = |admission: &Admission| Says { admission: Some(admission.clone()), ..Says::default() };
    let gates = [Admission::default(), Admission::default(), Admission::default()];
    let inner = Fallback::new(says(&gates[0]), says(&gates[1]));
    let admission = Fallback::new(inner, says(&gates[2])).capabilities().admission.unwrap();
    gates[0].set_open(false);
    gates[1].set_open(false);
    assert!(admission.is_open());
    gates[2].set_open(false);
    assert!(!admission.is_open());
    gates[1].set_open(true);
    assert!(admission.is_open());
    assert!(Fallback::new(Recording::new(), says(&gates[2])).capabilities().admission.is_none());
    assert!(Fallback::new(says(&gates[2]), Recording::new()).capabilities().admission.is_none());
}

#[tokio::test]
async fn closing_closes_both() {
    let both = [Arc::new(Says::default()), Arc::new(Says::default())];
    Fallback::new(Arc::clone(&both[0]), Arc::clone(&both[1])).close(Duration::ZERO).await;
    assert!(both.iter().all(|one| one.closed.load(Ordering::SeqCst)));
}

#[tokio::test]
async fn what_the_second_is_sending_is_in_flight_there() {
    let second = Arc::new(Says::default());
    let in_flight = second.in_flight.clone();
    let seen = in_flight.clone();
    let spy = Spy(Arc::clone(&second), seen);
    let _ = Fallback::new(down(transient()), spy).send(messages(["a"])).await;
    assert_eq!(in_flight.len(), 0);
}

struct Spy(Arc<Says>, InFlight);

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Messenger for Spy {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        assert_eq!(self.1.len(), 1);
        self.0.send(batch).await
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        self.0.check(message)
    }

    async fn health(&self) -> Health {
        self.0.health().await
    }

    async fn close(&self, deadline: Duration) {
        self.0.close(deadline).await;
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
}

#[tokio::test]
async fn the_layer_waits_for_messages_buffered_behind_the_second() {
    let (gated, gate, sent) = held();
    let (buffered, worker) = Background::new(gated, BackgroundSettings::default());
    let layer = MessagingLayer::new(Fallback::new(down(transient()), buffered));
    let worker = tokio::spawn(worker.with_graceful_shutdown(std::future::pending(), Duration::ZERO));
    get(app(layer.clone(), async |queue: MessageQueue| enqueue(&queue, ["a"]))).await;
    gate.begun().await;
    assert_eq!(layer.in_flight().len(), 1);
    gate.pass(1);
    layer.in_flight().wait_idle().await;
    assert_eq!(sent.topics(), ["a"]);
    worker.abort();
}
