//! A client of its own, which sees and sends what no messenger of ours would.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{
    AsyncClient, Event, EventLoop, MqttOptions, Publish, PublishOptions, PublishProperties, PublishResult,
    QoS,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tower_outbox::message::Scalar;
use tower_outbox::mqtt::{Mqtt, MqttSettings, MqttSource, MqttSubscription};
use tower_outbox::source::{Source, Unsettled};
use tower_outbox::testing::messenger_conformance::Received;
use tower_outbox::{Message, Messenger};
use url::Url;

use crate::peers::{Brokers, unique};

/// Longer than anything takes here.
pub const SOON: Duration = Duration::from_secs(30);
/// Long enough for nothing more to come.
pub const QUIET: Duration = Duration::from_millis(300);

pub struct Raw {
    pub client: AsyncClient,
    publishes: mpsc::UnboundedReceiver<Publish>,
    task: JoinHandle<()>,
}

impl Raw {
    pub async fn connect(url: &str) -> Self {
        Self::with(url, |_| ()).await
    }

    pub async fn with(url: &str, change: impl FnOnce(&mut MqttOptions)) -> Self {
        let url = Url::parse(url).unwrap();
        let address = (url.host_str().unwrap().to_owned(), url.port().unwrap());
        let mut options = MqttOptions::new(unique("raw"), address);
        // The first one resets the second one.
        options.set_receive_maximum(Some(60_000));
        options.set_unlimited_incoming_packet_size();
        // With more, the library drops packets that it reads together with the end of the connection.
        options.set_read_batch_size(1);
        if let Some(password) = url.password() {
            options.set_credentials(url.username(), password.to_owned());
        }
        change(&mut options);
        let (client, mut events) = AsyncClient::builder(options).unbounded().build();
        while !matches!(events.poll().await.unwrap(), Event::Incoming(Packet::ConnAck(_))) {}
        let (sender, publishes) = mpsc::unbounded_channel();
        let task = tokio::spawn(drive(events, sender));
        Self { client, publishes, task }
    }

    /// One that is subscribed.
    pub async fn subscribed(url: &str, filter: &str) -> Self {
        let raw = Self::connect(url).await;
        raw.subscribe(filter).await;
        raw
    }

    pub async fn subscribe(&self, filter: &str) {
        self.subscribe_at(filter, QoS::AtLeastOnce).await;
    }

    pub async fn subscribe_at(&self, filter: &str, qos: QoS) {
        let notice = self.client.subscribe_tracked(filter, qos).await.unwrap();
        timeout(SOON, notice.wait_completion_async()).await.unwrap().unwrap();
    }

    pub async fn next(&mut self) -> Publish {
        timeout(SOON, self.publishes.recv()).await.expect("nothing comes").expect("the connection ended")
    }

    pub async fn publish_or_end(&mut self) -> Option<Publish> {
        self.publishes.recv().await
    }

    pub async fn assert_quiet(&mut self) {
        if let Ok(Some(publish)) = timeout(QUIET, self.publishes.recv()).await {
            panic!("it comes: {publish:?}");
        }
    }

    /// Everything that comes until it is quiet.
    pub async fn drain(&mut self) -> Vec<Publish> {
        let mut all = Vec::new();
        while let Ok(Some(publish)) = timeout(QUIET, self.publishes.recv()).await {
            all.push(publish);
        }
        all
    }

    pub async fn publish(&self, topic: &str, payload: impl Into<Vec<u8>>, properties: PublishProperties) {
        let options = PublishOptions::at_least_once().properties(properties);
        let notice = self.client.publish_tracked(topic, payload.into(), options).await.unwrap();
        let answer = timeout(SOON, notice.wait_async()).await.unwrap().unwrap();
        assert!(matches!(answer, PublishResult::Qos1(_)), "{answer:?}");
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn drive(mut events: EventLoop, sender: mpsc::UnboundedSender<Publish>) {
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::Publish(publish))) => drop(sender.send(publish)),
            Ok(_) => {}
            Err(error) => return eprintln!("the raw connection ended: {error}"),
        }
    }
}

/// The first user property of this name.
pub fn property<'a>(publish: &'a Publish, name: &str) -> Option<&'a str> {
    let properties = publish.properties.as_ref()?;
    properties.user_properties.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

pub fn topic(publish: &Publish) -> &str {
    std::str::from_utf8(&publish.topic).unwrap()
}

pub fn body(publish: &Publish) -> &str {
    std::str::from_utf8(&publish.payload).unwrap()
}

/// A message with the types of its headers, for the suite of messengers.
pub fn received(publish: &Publish) -> Received {
    let types: BTreeMap<String, String> = property(publish, "tower-outbox-types")
        .map(|types| serde_json::from_str(types).unwrap())
        .unwrap_or_default();
    let properties = publish.properties.clone().unwrap_or_default();
    let headers = properties.user_properties.into_iter().map(|(name, text)| {
        let value = match types.get(&name).map(String::as_str) {
            Some("int") => Scalar::Int(text.parse().unwrap()),
            Some("bool") => Scalar::Bool(text.parse().unwrap()),
            _ => text.into(),
        };
        (name, value)
    });
    Received { body: publish.payload.to_vec(), headers: headers.collect() }
}

pub fn from_raw(mut raw: Raw) -> impl AsyncFnMut(usize) -> Vec<Received> {
    async move |count| {
        let mut all = VecDeque::new();
        while all.len() < count {
            all.push_back(received(&raw.next().await));
        }
        all.into()
    }
}

/// The names of a test at one broker.
pub struct Place {
    pub url: String,
    pub topic: String,
}

impl Place {
    pub fn new(brokers: &Brokers) -> Self {
        Self::at(brokers, "MOSQUITTO1_MQTT")
    }

    pub fn at(brokers: &Brokers, key: &str) -> Self {
        Self { url: brokers.get(key).to_owned(), topic: unique("mqtt") }
    }

    pub fn settings(&self) -> MqttSettings {
        MqttSettings::new([&self.url])
    }

    pub fn messenger(&self) -> Mqtt {
        Mqtt::new(&self.settings()).unwrap()
    }

    pub fn subscription(&self) -> MqttSubscription {
        MqttSubscription::new(&self.topic)
            .with_client_id(unique("client"))
            .with_session_expiry(Duration::from_secs(60))
    }

    /// A source that is subscribed.
    pub async fn source(&self, subscription: &MqttSubscription) -> MqttSource {
        let source = MqttSource::new(&self.settings(), subscription).unwrap();
        subscribed(&source, &self.settings(), &self.topic).await;
        source
    }

    pub async fn raw(&self) -> Raw {
        Raw::subscribed(&self.url, &self.topic).await
    }

    pub fn message(&self, body: &str) -> Message {
        Message::new(self.topic.clone(), body.to_owned()).unwrap()
    }

    pub async fn send(&self, bodies: &[&str]) {
        let messages = bodies.iter().map(|body| self.message(body)).collect();
        self.messenger().send(messages).await.unwrap();
    }
}

/// Waits until a source gets what is published to the topic.
pub async fn subscribed(source: &impl Source, settings: &MqttSettings, topic: &str) {
    let messenger = Mqtt::new(&settings.clone().with_mandatory(true)).unwrap();
    let probe = || Message::new(topic.to_owned(), "probe").unwrap();
    let sent = async {
        while messenger.send(vec![probe()]).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    let receive = async {
        // Keeps the task of the source at work; the probe comes last.
        let first = source.receive(1).await.unwrap().remove(0);
        assert_eq!(first.view().unwrap().message().body(), "probe");
        first.ack().await.unwrap();
    };
    timeout(SOON, async { tokio::join!(sent, receive) }).await.expect("it is not subscribed");
}

pub async fn next(source: &impl Source) -> Unsettled {
    timeout(SOON, source.receive(1)).await.expect("nothing comes").unwrap().remove(0)
}

pub async fn assert_quiet(source: &impl Source) {
    if let Ok(more) = timeout(QUIET, source.receive(10)).await {
        panic!("it comes: {more:?}");
    }
}

pub fn text(delivery: &Unsettled) -> String {
    String::from_utf8_lossy(delivery.view().unwrap().message().body()).into_owned()
}
