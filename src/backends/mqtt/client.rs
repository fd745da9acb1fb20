//! The way to a connected MQTT client.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{
    AckMode, AsyncClient, BrokerSessionResumePolicy, ConnAckProperties, ConnectionError, Event, EventLoop,
    IncomingPacketSizeLimit, MqttOptions, PersistedAckMode, PersistedSession, PubAckReason, PubRecReason,
    SessionStore, SessionStoreError, SessionStoreKey,
};

use super::failure::{Lost, open_failure};
use super::gate::{Gate, Intake};
use super::outgoing::LARGEST;
use super::settings::MqttSettings;
use super::translated::Translated;
use crate::backends::brokers::{BrokerUrl, Dialer};
use crate::messenger::Failure;

/// The most requests that are written together.
const BATCH: usize = 128;

/// A connected client. It ends at the first error: nothing is sent again behind our back.
pub(super) struct Client {
    pub(super) requests: AsyncClient,
    pub(super) events: EventLoop,
    /// The limits of the broker, by its CONNACK.
    pub(super) limits: ConnAckProperties,
    /// Whether the broker kept the session of the client.
    pub(super) is_resumed: bool,
}

/// How a source receives.
pub(super) struct Receiving<'a> {
    pub(super) client_id: &'a str,
    /// How many seconds the broker keeps the session of a client that is away.
    pub(super) session_expiry: u32,
    pub(super) clean_start: bool,
    /// How many messages may be unacknowledged.
    pub(super) maximum: u16,
    /// The largest packet that the broker may send.
    pub(super) largest: u32,
    pub(super) intake: Arc<Intake>,
}

/// A client id that nobody else has.
pub(super) fn random_id(settings: &MqttSettings) -> String {
    format!("{}-{:016x}", settings.client_id, rand::random::<u64>())
}

/// Connects for sending.
pub(super) async fn open_sender(
    settings: &MqttSettings,
    dialer: &Arc<Dialer>,
    url: &BrokerUrl,
    id: String,
) -> Result<Client, Failure> {
    let mut options = options(settings, url, id);
    options.set_outgoing_inflight_upper_limit(u16::try_from(settings.broker.window).unwrap_or(u16::MAX));
    // Nothing is received but answers.
    options.set_incoming_packet_size_limit(IncomingPacketSizeLimit::Bytes(64 << 10));
    let (dialer, url, version) = (Arc::clone(dialer), url.clone(), settings.version);
    options.set_socket_connector(move |_, _| {
        let (dialer, url) = (Arc::clone(&dialer), url.clone());
        // Nothing is subscribed to, so the room does not matter.
        let intake = Arc::new(Intake::new(usize::MAX, usize::MAX));
        async move { Ok(Gate::new(Translated::new(dialer.dial(&url).await?, version), intake)) }
    });
    connect(options).await
}

/// Connects for receiving.
pub(super) async fn open_receiver(
    settings: &MqttSettings,
    dialer: &Arc<Dialer>,
    url: &BrokerUrl,
    receiving: &Receiving<'_>,
) -> Result<Client, Failure> {
    let mut options = options(settings, url, receiving.client_id.to_owned());
    options
        .set_ack_mode(AckMode::Manual)
        .set_clean_start(receiving.clean_start)
        .set_session_expiry_interval(Some(receiving.session_expiry))
        .set_broker_session_resume_policy(BrokerSessionResumePolicy::AllowBrokerOnly)
        .set_receive_maximum(Some(receiving.maximum))
        .set_outgoing_inflight_upper_limit(1)
        .set_max_packet_size(Some(receiving.largest))
        .set_incoming_packet_size_limit(IncomingPacketSizeLimit::Bytes(receiving.largest));
    if !receiving.clean_start {
        options.set_session_store(NothingInFlight);
    }
    let (dialer, url, intake) = (Arc::clone(dialer), url.clone(), Arc::clone(&receiving.intake));
    let version = settings.version;
    options.set_socket_connector(move |_, _| {
        let (dialer, url, intake) = (Arc::clone(&dialer), url.clone(), Arc::clone(&intake));
        async move { Ok(Gate::new(Translated::new(dialer.dial(&url).await?, version), intake)) }
    });
    let mut client = connect(options).await?;
    // It was needed to connect, and costs a snapshot for each packet.
    client.events.options.clear_session_store();
    Ok(client)
}

fn options(settings: &MqttSettings, url: &BrokerUrl, id: String) -> MqttOptions {
    let mut options = MqttOptions::new(id, (url.host().to_owned(), url.port()));
    options.set_keep_alive(settings.keep_alive());
    options.set_max_request_batch(BATCH);
    options.set_connect_timeout(settings.broker.connection_timeout());
    if let Some((user, password)) = url.credentials() {
        options.set_credentials(user, password.expose().to_owned());
    }
    options
}

async fn connect(options: MqttOptions) -> Result<Client, Failure> {
    let timeout = options.connect_timeout();
    let (requests, mut events) =
        AsyncClient::builder(options).unbounded().try_build().map_err(Failure::rejected)?;
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(accepted))) => {
                let (limits, is_resumed) =
                    (accepted.properties.unwrap_or_else(no_limits), accepted.session_present);
                return Ok(Client { requests, events, limits, is_resumed });
            }
            Ok(_) => {}
            Err(ConnectionError::Timeout(_)) => return Err(no_answer(timeout)),
            Err(error) => return Err(open_failure(&error)),
        }
    }
}

fn no_answer(timeout: Duration) -> Failure {
    Failure::transient(Lost(format!("no connection within {timeout:?}")))
}

/// The limits of a broker that names none.
fn no_limits() -> ConnAckProperties {
    ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}

/// The largest packet that the broker accepts.
pub(super) fn largest(limits: &ConnAckProperties) -> u32 {
    limits.max_packet_size.unwrap_or(LARGEST)
}

type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, SessionStoreError>> + Send + 'a>>;

/// The state of the session of a source: it publishes nothing over its connection, so nothing of ours is in flight. Without a
/// state the client library does not subscribe over a session that the broker has kept.
#[derive(Debug)]
struct NothingInFlight;

impl SessionStore for NothingInFlight {
    fn load<'a>(&'a self, key: &'a SessionStoreKey) -> StoreFuture<'a, Option<PersistedSession>> {
        let session = PersistedSession {
            format_version: 1,
            client_id: key.client_id().to_owned(),
            clean_start: false,
            session_expiry_interval: None,
            outgoing_inflight_upper_limit: Some(1),
            ack_mode: PersistedAckMode::Manual,
            last_pkid: 0,
            last_puback: 0,
            replay: Vec::new(),
            incoming_qos2: Vec::new(),
        };
        Box::pin(std::future::ready(Ok(Some(session))))
    }

    fn save<'a>(&'a self, _: &'a SessionStoreKey, _: &'a PersistedSession) -> StoreFuture<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn clear<'a>(&'a self, _: &'a SessionStoreKey) -> StoreFuture<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// The code of a PUBREC as that of a PUBACK; they are the same (MQTT 5, 3.5.2.1).
pub(super) fn as_puback(code: PubRecReason) -> PubAckReason {
    match code {
        PubRecReason::Success => PubAckReason::Success,
        PubRecReason::NoMatchingSubscribers => PubAckReason::NoMatchingSubscribers,
        PubRecReason::UnspecifiedError => PubAckReason::UnspecifiedError,
        PubRecReason::ImplementationSpecificError => PubAckReason::ImplementationSpecificError,
        PubRecReason::NotAuthorized => PubAckReason::NotAuthorized,
        PubRecReason::TopicNameInvalid => PubAckReason::TopicNameInvalid,
        PubRecReason::PacketIdentifierInUse => PubAckReason::PacketIdentifierInUse,
        PubRecReason::QuotaExceeded => PubAckReason::QuotaExceeded,
        PubRecReason::PayloadFormatInvalid => PubAckReason::PayloadFormatInvalid,
    }
}
