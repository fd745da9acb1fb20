//! Messengers that misbehave on purpose.

use std::collections::HashSet;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use tower_outbox::messenger::{Capabilities, InFlight};
use tower_outbox::testing::{Recording, Sent};
use tower_outbox::{BoxError, Failure, Health, Message, Messenger, Unsent, async_trait};
use uuid::Uuid;

use super::MINUTE;

pub type SendResult = Result<(), Unsent>;

/// A messenger made of a function of the batch.
pub fn fake<F, Fut>(send: F) -> Fake<F>
where
    F: Fn(Vec<Message>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = SendResult> + Send + 'static,
{
    Fake(send)
}

pub struct Fake<F>(F);

#[async_trait]
impl<F, Fut> Messenger for Fake<F>
where
    F: Fn(Vec<Message>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = SendResult> + Send + 'static,
{
    async fn send(&self, batch: Vec<Message>) -> SendResult {
        (self.0)(batch).await
    }
}

/// Hands everything back.
pub fn down(failure: Failure) -> impl Messenger {
    fake(move |batch| std::future::ready(Err(Unsent::new(batch, &failure))))
}

/// Panics at once, or after it has waited.
pub fn panicking(after_waiting: bool) -> impl Messenger {
    fake(move |_| async move {
        if after_waiting {
            yield_now().await;
        }
        panic!("the messenger panics")
    })
}

/// A recording nobody hands anything over to but us, and its view.
pub fn recording() -> (Recording, Sent) {
    let recording = Recording::new();
    let sent = recording.listen();
    (recording, sent)
}

/// A recording behind a gate: each send waits there.
pub fn held() -> (Held, Gate, Sent) {
    let (inner, sent) = recording();
    let gate = Gate::default();
    (Held { inner, gate: gate.clone() }, gate, sent)
}

pub struct Held {
    inner: Recording,
    gate: Gate,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Messenger for Held {
    async fn send(&self, batch: Vec<Message>) -> SendResult {
        self.gate.0.begun.add_permits(1);
        if let Ok(pass) = self.gate.0.open.acquire().await {
            pass.forget();
        }
        self.inner.send(batch).await
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        self.inner.check(message)
    }

    async fn health(&self) -> Health {
        self.inner.health().await
    }

    async fn close(&self, deadline: Duration) {
        self.inner.close(deadline).await;
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

/// The messages that a messenger counts as in flight.
pub fn in_flight(messenger: &impl Messenger) -> InFlight {
    messenger.capabilities().in_flight.expect("it counts what is in flight")
}

/// A user's decorator that implements only `send` and `capabilities`.
pub struct Minimal<M>(pub M);

#[async_trait]
impl<M: Messenger> Messenger for Minimal<M> {
    async fn send(&self, batch: Vec<Message>) -> SendResult {
        self.0.send(batch).await
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
}

#[derive(Clone)]
pub struct Gate(Arc<Doors>);

struct Doors {
    begun: Semaphore,
    open: Semaphore,
}

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(Doors { begun: Semaphore::new(0), open: Semaphore::new(0) }))
    }
}

impl Gate {
    /// Waits until one more send has come to the gate.
    pub async fn begun(&self) {
        timeout(MINUTE, self.0.begun.acquire()).await.expect("no send comes").unwrap().forget();
    }

    /// Lets this many sends pass.
    pub fn pass(&self, sends: usize) {
        self.0.open.add_permits(sends);
    }

    /// Lets every send pass.
    pub fn open(&self) {
        self.0.open.close();
    }
}

/// Topics, in the order they were written down.
#[derive(Clone, Default)]
pub struct Journal(Arc<Mutex<Vec<String>>>);

impl Journal {
    pub fn write(&self, topic: impl Into<String>) {
        self.0.lock().unwrap().push(topic.into());
    }

    pub fn read(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Sends message by message, waiting before and after each.
pub fn slow(journal: Journal) -> impl Messenger {
    fake(move |batch: Vec<Message>| {
        let journal = journal.clone();
        async move {
            for message in batch {
                yield_now().await;
                journal.write(message.topic().to_string());
                yield_now().await;
            }
            Ok(())
        }
    })
}

/// The answer of a scripted bus to a message.
#[derive(Clone, Copy, PartialEq)]
pub enum Act {
    Confirm,
    Reject,
    /// Hands it back, and what follows it of its topic and key.
    Fail,
    Panic,
}

/// How a scripted bus fares.
#[derive(Clone, Copy, Default, PartialEq)]
pub enum Bus {
    #[default]
    Up,
    /// Hands everything back, and says so.
    Down,
    /// Hands everything back, and says that it is up.
    Mute,
    /// Hands everything back; its health check panics.
    Mad,
    /// Never answers.
    Hangs,
}

/// The calls of a scripted bus.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Asked {
    Send(usize),
    Health,
}

/// A bus that does what a test says, and writes down what it was asked. A clone is another handle.
#[derive(Clone)]
pub struct Scripted(Arc<Script>);

struct Script {
    act: Box<dyn Fn(&Message) -> Act + Send + Sync>,
    play: Mutex<Play>,
}

#[derive(Default)]
struct Play {
    bus: Bus,
    pause: Duration,
    asked: Vec<Asked>,
    confirmed: Vec<Message>,
    tried: Vec<Uuid>,
    out: usize,
    most_out: usize,
    probes: usize,
    most_probes: usize,
}

/// A bus that does this with each message while it is up.
pub fn scripted(act: impl Fn(&Message) -> Act + Send + Sync + 'static) -> Scripted {
    Scripted(Arc::new(Script { act: Box::new(act), play: Mutex::default() }))
}

impl Scripted {
    fn play<T>(&self, look: impl FnOnce(&mut Play) -> T) -> T {
        look(&mut self.0.play.lock().unwrap())
    }

    pub fn set(&self, bus: Bus) {
        self.play(|play| play.bus = bus);
    }

    /// Makes each answer take this long.
    pub fn slow(&self, pause: Duration) {
        self.play(|play| play.pause = pause);
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.play(|play| play.asked.clone())
    }

    /// How many messages each send had.
    pub fn sends(&self) -> Vec<usize> {
        let sends = self.asked().into_iter();
        sends
            .filter_map(|asked| if let Asked::Send(messages) = asked { Some(messages) } else { None })
            .collect()
    }

    pub fn confirmed(&self) -> Vec<Message> {
        self.play(|play| play.confirmed.clone())
    }

    /// How often it was asked to send this one.
    pub fn tries(&self, id: Uuid) -> usize {
        self.play(|play| play.tried.iter().filter(|tried| **tried == id).count())
    }

    /// How many messages it held at most at a time.
    pub fn most_out(&self) -> usize {
        self.play(|play| play.most_out)
    }

    /// How many health checks ran at most at a time; counted from now on again.
    pub fn take_most_probes(&self) -> usize {
        self.play(|play| std::mem::take(&mut play.most_probes))
    }

    /// The result of a batch, message by message.
    fn answer(&self, batch: Vec<Message>) -> SendResult {
        let (mut unsent, mut failed, mut confirmed) = (Vec::new(), HashSet::new(), Vec::new());
        for message in batch {
            let key = message.key().map(|key| (message.topic().clone(), key.to_owned()));
            let act = match &key {
                Some(key) if failed.contains(key) => Act::Fail,
                _ => (self.0.act)(&message),
            };
            match act {
                Act::Confirm => confirmed.push(message),
                Act::Reject => unsent.push((message, Failure::rejected("too large"))),
                Act::Fail => {
                    failed.extend(key);
                    unsent.push((message, Failure::transient("no answer")));
                }
                // Before anything of its batch is confirmed.
                Act::Panic => panic!("a poison message"),
            }
        }
        self.play(|play| play.confirmed.extend(confirmed));
        unsent.into_iter().collect::<Unsent>().into_result()
    }
}

/// Counts messages out, also when the send is dropped.
struct Out(Scripted, usize);

impl Drop for Out {
    fn drop(&mut self) {
        self.0.play(|play| play.out -= self.1);
    }
}

#[async_trait]
impl Messenger for Scripted {
    async fn send(&self, batch: Vec<Message>) -> SendResult {
        let (bus, pause) = self.play(|play| {
            play.asked.push(Asked::Send(batch.len()));
            play.tried.extend(batch.iter().map(Message::id));
            play.out += batch.len();
            play.most_out = play.most_out.max(play.out);
            (play.bus, play.pause)
        });
        let _out = Out(self.clone(), batch.len());
        if !pause.is_zero() {
            sleep(pause).await;
        }
        match bus {
            Bus::Up => self.answer(batch),
            Bus::Down | Bus::Mute | Bus::Mad => Err(Unsent::new(batch, &Failure::transient("no answer"))),
            Bus::Hangs => std::future::pending().await,
        }
    }

    async fn health(&self) -> Health {
        let (bus, pause) = self.play(|play| {
            play.asked.push(Asked::Health);
            play.probes += 1;
            play.most_probes = play.most_probes.max(play.probes);
            (play.bus, play.pause)
        });
        if !pause.is_zero() {
            sleep(pause).await;
        }
        self.play(|play| play.probes -= 1);
        match bus {
            Bus::Down => Health::Down { reason: "no broker answers".to_owned() },
            Bus::Mad => panic!("the health check panics"),
            _ => Health::Up,
        }
    }
}
