//! Messages that are on their way to a receive when it is dropped.

use std::pin::pin;
use std::time::Duration;

use async_nats::jetstream;
use futures_util::StreamExt;
use tokio::io::copy;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tower_outbox::channels::jetstream::{JetstreamEngine, JetstreamEngineSettings};
use tower_outbox::channels::{
    ChannelKind, Engine, Events, Queues, Receive, Settle, Start, Streams, Subscribe, Which,
};

use super::super::{content, message, name};
use super::Channels;
use crate::kubemq_client::proxy::pass;

/// Shorter than `ACK_WAIT`, after which lost messages come again.
const SOON: Duration = Duration::from_secs(15);
/// Long enough for a request to be withdrawn.
const QUIET: Duration = Duration::from_millis(300);
const COUNT: usize = 30;
/// The size of a message, of which a client reads no batch at once.
const SIZE: usize = 100 << 10;

/// A way to the server, on which its answers can be held back.
struct Way {
    url: String,
    is_held: watch::Sender<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Way {
    async fn to(url: &str) -> Self {
        let (to, listener) =
            (url.trim_start_matches("nats://").to_owned(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = listener.local_addr().unwrap();
        let (is_held, watch) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (server, watch) = (TcpStream::connect(&to).await.unwrap(), watch.clone());
                connections.spawn(async move {
                    let ((mut read, write), (back, mut forth)) = (client.into_split(), server.into_split());
                    tokio::select! {
                        _ = copy(&mut read, &mut forth) => {}
                        () = pass(back, write, watch) => {}
                    }
                });
            }
        });
        Self { url: format!("nats://{address}"), is_held, _task: AbortOnDropHandle::new(task) }
    }

    fn hold(&self, is_held: bool) {
        self.is_held.send_replace(is_held);
    }
}

/// An engine beyond a way, another one, and a look at the server.
struct Both {
    way: Way,
    far: JetstreamEngine,
    near: JetstreamEngine,
    jetstream: jetstream::Context,
    channels: Channels,
}

impl Both {
    async fn new() -> Self {
        let channels = Channels::new();
        let way = Way::to(&channels.url).await;
        let settings = JetstreamEngineSettings::new([&way.url]);
        let far = JetstreamEngine::open(settings.with_prefix(&channels.prefix)).await.unwrap();
        let jetstream = jetstream::new(async_nats::connect(&channels.url).await.unwrap());
        let near = channels.open().await;
        Self { way, far, near, jetstream, channels }
    }

    async fn append(&self, count: usize) {
        let messages = (0..count).map(|_| (name("s"), content(vec![b'x'; SIZE])));
        assert!(self.near.append(messages.collect()).await.iter().all(Result::is_ok));
    }

    async fn send(&self, count: usize) {
        let messages = (0..count).map(|_| (name("q"), message(vec![b'x'; SIZE])));
        assert!(self.near.send(messages.collect()).await.iter().all(Result::is_ok));
    }

    /// Waits until the server has so many messages delivered, and so many requests waiting.
    async fn until(&self, kind: &str, delivered: usize, waiting: usize) {
        let stream = self.jetstream.get_stream(format!("{}-{kind}", self.channels.prefix)).await.unwrap();
        let seen = async {
            loop {
                let infos: Vec<_> = stream.consumers().map(Result::unwrap).collect().await;
                let is_so = |info: &jetstream::consumer::Info| {
                    (info.num_ack_pending, info.num_waiting) == (delivered, waiting)
                };
                if infos.iter().any(is_so) {
                    return;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, seen).await.expect("the server does not get that far");
    }

    /// Drops a receive to which the server has delivered messages that did not arrive.
    async fn drop_receive<T>(
        &self,
        receive: impl Future<Output = T>,
        waits: impl AsyncFnOnce(),
        delivered: impl AsyncFnOnce(),
    ) {
        {
            let mut receive = pin!(receive);
            tokio::select! {
                _ = &mut receive => panic!("messages came that are held back"),
                () = waits() => self.way.hold(true),
            }
            tokio::select! {
                _ = &mut receive => panic!("messages came that are held back"),
                () = delivered() => {}
            }
        }
        sleep(QUIET).await;
        // The client has something else to do meanwhile.
        self.far.publish(&name("e"), content("a")).await.unwrap();
        sleep(QUIET).await;
        self.way.hold(false);
    }
}

fn subscribes() -> [Subscribe; 3] {
    let own = || Subscribe { start: Start::First, ..Subscribe::default() };
    let name = || Some("reader".to_owned());
    [Subscribe { durable: name(), ..own() }, Subscribe { group: name(), ..own() }, own()]
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn messages_of_a_stream_that_a_dropped_receive_missed_come_in_order() {
    for subscribe in subscribes() {
        let it = Both::new().await;
        it.append(COUNT).await;
        let text = format!("{subscribe:?}");
        let subscription = it.far.subscribe_stream(&name("s"), subscribe).await.unwrap();
        it.way.hold(true);
        let delivered = async || it.until("stream-s", COUNT, 0).await;
        it.drop_receive(subscription.receive(64), async || {}, delivered).await;
        let mut came = Vec::new();
        while came.len() < COUNT {
            let messages = timeout(SOON, subscription.receive(64)).await;
            let messages = messages.unwrap_or_else(|_| panic!("{text}: only {came:?} came")).unwrap();
            came.extend(messages.iter().map(|message| (message.sequence, message.attempt)));
        }
        assert_eq!(came, (1..=COUNT as u64).map(|n| (n, 1)).collect::<Vec<_>>(), "{text}");
        it.channels.remove().await;
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_of_a_stream_that_a_dropped_receive_waited_for_comes_next() {
    for subscribe in subscribes() {
        let it = Both::new().await;
        let text = format!("{subscribe:?}");
        let subscription = it.far.subscribe_stream(&name("s"), subscribe).await.unwrap();
        let waits = async || it.until("stream-s", 0, 1).await;
        let delivered = async || {
            it.append(1).await;
            it.until("stream-s", 1, 0).await;
        };
        it.drop_receive(subscription.receive(64), waits, delivered).await;
        it.append(1).await;
        for sequence in [1, 2] {
            let messages = timeout(SOON, subscription.receive(1)).await;
            let messages = messages.unwrap_or_else(|_| panic!("{text}: {sequence} does not come")).unwrap();
            let came: Vec<_> = messages.iter().map(|message| (message.sequence, message.attempt)).collect();
            assert_eq!(came, [(sequence, 1)], "{text}");
        }
        it.channels.remove().await;
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn messages_of_a_queue_that_a_dropped_receive_missed_go_to_others() {
    let it = Both::new().await;
    it.far.create(ChannelKind::Queue, &name("q"), Default::default()).await.unwrap();
    let others = async |count| {
        let receive = Receive { max: count, wait: SOON, until_full: true, ..Receive::default() };
        let received = it.near.receive(&name("q"), receive).await.unwrap();
        assert_eq!(received.messages.len(), count);
        it.near.settle(received.receipt, Which::All, Settle::Ack).await.unwrap();
    };
    let receive = || Receive { max: 64, wait: SOON, ..Receive::default() };
    let queue = name("q");

    // It waits for the first one.
    let waits = async || it.until("queue-q", 0, 1).await;
    let delivered = async || {
        it.send(1).await;
        it.until("queue-q", 1, 0).await;
    };
    it.drop_receive(it.far.receive(&queue, receive()), waits, delivered).await;
    others(1).await;

    // They are there.
    it.send(COUNT).await;
    it.way.hold(true);
    let delivered = async || it.until("queue-q", COUNT, 0).await;
    it.drop_receive(it.far.receive(&queue, receive()), async || {}, delivered).await;
    others(COUNT).await;
    it.channels.remove().await;
}

/// The server says of each complete batch that it is, after the last message.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_receive_leaves_no_request_behind_that_takes_messages_from_others() {
    let it = Both::new().await;
    it.send(3).await;
    let mut receipts = Vec::new();
    for _ in 0..3 {
        let received =
            it.far.receive(&name("q"), Receive { wait: SOON, ..Receive::default() }).await.unwrap();
        assert_eq!(received.messages.len(), 1);
        receipts.push(received.receipt);
    }
    receipts.into_iter().for_each(|receipt| it.far.release(receipt));
    let all = Receive { max: 3, wait: SOON, until_full: true, ..Receive::default() };
    assert_eq!(it.near.receive(&name("q"), all).await.unwrap().messages.len(), 3);
    it.channels.remove().await;
}
