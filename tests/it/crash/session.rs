//! The session at mosquitto in which everything ends up.

use std::time::Duration;

use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AckMode, AsyncClient, BrokerSessionResumePolicy, Event, EventLoop, MqttOptions, QoS};
use serde::Deserialize;
use tokio::time::timeout;
use url::Url;

use super::ledger::Arrival;
use crate::peers::unique;

/// Nothing more comes after it.
const QUIET: Duration = Duration::from_secs(2);

/// A kept session that is subscribed to a topic and all below it.
pub struct Session {
    url: Url,
    id: String,
}

/// The part of a body that counts.
#[derive(Deserialize)]
struct Body {
    request: u64,
    seq: u64,
}

impl Session {
    pub async fn begin(url: &str, topic: &str) -> Self {
        let session = Self { url: Url::parse(url).unwrap(), id: unique("chaos") };
        let (client, mut events) = session.open();
        client.subscribe(format!("{topic}/#"), QoS::AtLeastOnce).await.unwrap();
        while !matches!(events.poll().await.unwrap(), Event::Incoming(Packet::SubAck(_))) {}
        close(&client, events).await;
        session
    }

    fn open(&self) -> (AsyncClient, EventLoop) {
        let address = (self.url.host_str().unwrap().to_owned(), self.url.port().unwrap());
        let mut options = MqttOptions::new(&self.id, address);
        options
            .set_clean_start(false)
            .set_session_expiry_interval(Some(3_600))
            .set_broker_session_resume_policy(BrokerSessionResumePolicy::AllowBrokerOnly)
            .set_ack_mode(AckMode::Manual)
            .set_receive_maximum(Some(1_000));
        AsyncClient::builder(options).unbounded().build()
    }

    /// Gives what came to it, in order. Nobody must send meanwhile.
    pub async fn drain(&self) -> Vec<Arrival> {
        let (client, mut events) = self.open();
        let mut arrivals = Vec::new();
        while let Ok(event) = timeout(QUIET, events.poll()).await {
            if let Event::Incoming(Packet::Publish(publish)) = event.unwrap() {
                let body: Body = serde_json::from_slice(&publish.payload).unwrap();
                arrivals.push((body.request, body.seq));
                client.ack(&publish).await.unwrap();
            }
        }
        close(&client, events).await;
        arrivals
    }
}

async fn close(client: &AsyncClient, mut events: EventLoop) {
    client.disconnect().await.unwrap();
    while events.poll().await.is_ok() {}
}
