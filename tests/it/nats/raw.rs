//! A client of its own, which sees and sends what no messenger of ours would.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::Config;
use async_nats::jetstream::{self, Context};
use async_nats::{Client, HeaderMap};
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_outbox::Message;
use tower_outbox::message::Scalar;
use tower_outbox::nats::{Nats, NatsSettings};
use tower_outbox::testing::messenger_conformance::Received;

use crate::peers::{Brokers, unique};

/// Longer than anything takes here.
pub const SOON: Duration = Duration::from_secs(30);
/// Long enough for nothing more to come.
pub const QUIET: Duration = Duration::from_millis(300);

/// A stream of its own for a test, and a client beside ours.
pub struct Place {
    pub url: String,
    pub topic: String,
    /// Its name; it takes the topic, and what begins with it.
    pub stream: String,
    pub client: Client,
    pub context: Context,
}

impl Place {
    /// With a stream.
    pub async fn new() -> Self {
        Self::with(|_| ()).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let place = Self::without_stream().await;
        let mut config = Config {
            name: place.stream.clone(),
            subjects: vec![place.topic.clone(), format!("{}.>", place.topic)],
            duplicate_window: Duration::from_secs(600),
            ..Config::default()
        };
        change(&mut config);
        place.context.create_stream(config).await.unwrap();
        place
    }

    pub async fn without_stream() -> Self {
        let brokers = Brokers::running();
        let url = brokers.get("NATS1").to_owned();
        let client = async_nats::connect(&url).await.unwrap();
        let name = unique("nats");
        let context = jetstream::new(client.clone());
        Self { url, topic: name.clone(), stream: name, client, context }
    }

    pub fn settings(&self) -> NatsSettings {
        NatsSettings::new([&self.url])
    }

    pub fn messenger(&self) -> Nats {
        Nats::new(&self.settings()).unwrap()
    }

    pub fn message(&self, body: &str) -> Message {
        Message::new(self.topic.clone(), body.to_owned()).unwrap()
    }

    /// The messages of the stream, in order.
    pub async fn stored(&self) -> Vec<jetstream::Message> {
        let mut stream = self.context.get_stream(&self.stream).await.unwrap();
        let count = stream.info().await.unwrap().state.messages;
        let config = pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() };
        let consumer = stream.create_consumer(config).await.unwrap();
        let mut all = Vec::new();
        let mut messages = consumer.stream().max_messages_per_batch(1_000).messages().await.unwrap();
        while all.len() < usize::try_from(count).unwrap() {
            all.push(timeout(SOON, messages.next()).await.expect("nothing comes").unwrap().unwrap());
        }
        all
    }

    /// The messages that arrive from now on, for the suite of messengers.
    pub async fn inbox(&self) -> impl AsyncFnMut(usize) -> Vec<Received> + use<> {
        let mut subscriber = self.client.subscribe(self.topic.clone()).await.unwrap();
        self.client.flush().await.unwrap();
        async move |count| {
            let mut all = Vec::new();
            while all.len() < count {
                let message = timeout(SOON, subscriber.next()).await.expect("nothing comes").unwrap();
                all.push(received(&message));
            }
            all
        }
    }
}

/// Publishes these subjects, headers and payloads as they are, and waits until the server has read them.
pub async fn publish_raw(url: &str, messages: &[(Vec<u8>, &[u8], &[u8])]) {
    let address = url.strip_prefix("nats://").unwrap();
    let mut server = TcpStream::connect(address).await.unwrap();
    let mut all =
        b"CONNECT {\"verbose\":false,\"headers\":true,\"lang\":\"raw\",\"version\":\"1\"}\r\n".to_vec();
    for (subject, headers, payload) in messages {
        let sizes = format!(" {} {}\r\n", headers.len(), headers.len() + payload.len());
        for part in [b"HPUB ", &**subject, sizes.as_bytes(), headers, payload, b"\r\n"] {
            all.extend_from_slice(part);
        }
    }
    all.extend_from_slice(b"PING\r\n");
    server.write_all(&all).await.unwrap();
    let mut answer = Vec::new();
    let pong = async {
        while !answer.ends_with(b"PONG\r\n") {
            assert!(server.read_buf(&mut answer).await.unwrap() > 0, "{answer:?}");
        }
    };
    timeout(SOON, pong).await.expect("the server does not answer");
}

pub fn body(message: &async_nats::Message) -> &str {
    std::str::from_utf8(&message.payload).unwrap()
}

pub fn header<'a>(message: &'a async_nats::Message, name: &str) -> Option<&'a str> {
    message.headers.as_ref()?.get(name).map(|value| value.as_str())
}

fn received(message: &async_nats::Message) -> Received {
    let none = HeaderMap::new();
    let map = message.headers.as_ref().unwrap_or(&none);
    let types: BTreeMap<String, String> = map
        .get("tower-outbox-types")
        .map(|types| serde_json::from_str(types.as_str()).unwrap())
        .unwrap_or_default();
    let headers = map.iter().map(|(name, values)| {
        let (name, text) = (name.to_string(), values[0].as_str());
        let value = match types.get(&name).map(String::as_str) {
            Some("int") => Scalar::Int(text.parse().unwrap()),
            Some("bool") => Scalar::Bool(text.parse().unwrap()),
            _ => text.to_owned().into(),
        };
        (name, value)
    });
    Received { body: message.payload.to_vec(), headers: headers.collect() }
}
