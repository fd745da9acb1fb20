//! Failures of connections and messages: transient or permanent.

use std::io;

use rumqttc::mqttbytes;
use rumqttc::{ConnectReturnCode, ConnectionError, DisconnectReasonCode, PubAckReason, StateError};

use crate::backends::brokers::ConnectionEnded;
use crate::message::headers::start_of;
use crate::messenger::Failure;
use crate::tls;

/// Why no connection was made.
pub(super) fn open_failure(error: &ConnectionError) -> Failure {
    if let Some(explained) = io_error(error).and_then(tls::explain) {
        return Failure::rejected(explained);
    }
    if let ConnectionError::MqttState(
        StateError::Deserialization(mqttbytes::Error::Io(_)) | StateError::ConnectionAborted,
    ) = error
    {
        return Failure::transient(ClosedEarly);
    }
    let ConnectionError::ConnectionRefused(code) = error else { return end_failure(error) };
    let cure = match code {
        ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => {
            "check user and password in URLS, or CERTIFICATE"
        }
        ConnectReturnCode::ClientIdentifierNotValid | ConnectReturnCode::BadClientId => {
            "set another CLIENT_ID"
        }
        ConnectReturnCode::UnsupportedProtocolVersion | ConnectReturnCode::RefusedProtocolVersion => {
            "it does not speak MQTT 5"
        }
        ConnectReturnCode::Banned | ConnectReturnCode::BadAuthenticationMethod => "ask its operator",
        code => return Failure::transient(Refused(format!("{code:?})"))),
    };
    Failure::rejected(Refused(format!("{code:?}): {cure}")))
}

/// Why a connection ended.
pub(super) fn end_failure(error: &ConnectionError) -> Failure {
    match error {
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
            let why = match reason_string {
                Some(text) => format!("{reason_code:?}: {}", start_of(text, 300)),
                None => format!("{reason_code:?}"),
            };
            match reason_code {
                DisconnectReasonCode::SessionTakenOver => Failure::rejected(NameTaken),
                code if is_about_a_message(*code) => Failure::transient(ConnectionEnded(why)),
                _ => Failure::transient(ClosedByBroker(why)),
            }
        }
        ConnectionError::MqttState(StateError::AwaitPingResp) => Failure::transient(Silent),
        ConnectionError::MqttState(
            StateError::Deserialization(mqttbytes::Error::Io(_))
            | StateError::Io(_)
            | StateError::ConnectionAborted,
        )
        | ConnectionError::Io(_)
        | ConnectionError::Timeout(_) => Failure::transient(Lost(error.to_string())),
        ConnectionError::MqttState(
            StateError::Deserialization(_) | StateError::ProtocolViolation(_) | StateError::Unsolicited(_),
        )
        | ConnectionError::NotConnAck(_) => Failure::rejected(NoMqtt(short(error))),
        _ => Failure::transient(Lost(short(error))),
    }
}

/// A packet of the peer may be in the text.
fn short(error: &ConnectionError) -> String {
    match error {
        ConnectionError::NotConnAck(_) => "the first packet is not CONNACK".to_owned(),
        error => start_of(&error.to_string(), 300).to_owned(),
    }
}

/// Whether a broker closes a connection with this code over a message that it got.
fn is_about_a_message(code: DisconnectReasonCode) -> bool {
    matches!(
        code,
        DisconnectReasonCode::MalformedPacket
            | DisconnectReasonCode::ProtocolError
            | DisconnectReasonCode::ImplementationSpecificError
            | DisconnectReasonCode::NotAuthorized
            | DisconnectReasonCode::TopicNameInvalid
            | DisconnectReasonCode::PacketTooLarge
            | DisconnectReasonCode::PayloadFormatInvalid
            | DisconnectReasonCode::RetainNotSupported
            | DisconnectReasonCode::QoSNotSupported
    )
}

/// The outcome of a message by the code of its PUBACK (MQTT 5, 3.4.2.1).
pub(super) fn outcome(code: PubAckReason, reason: Option<&str>, mandatory: bool) -> Result<(), Failure> {
    let described = || match reason {
        Some(text) => format!("{code:?}: {}", start_of(text, 300)),
        None => format!("{code:?}"),
    };
    match code {
        PubAckReason::Success => Ok(()),
        PubAckReason::NoMatchingSubscribers if mandatory => Err(Failure::rejected(Unroutable)),
        PubAckReason::NoMatchingSubscribers => Ok(()),
        PubAckReason::NotAuthorized | PubAckReason::TopicNameInvalid | PubAckReason::PayloadFormatInvalid => {
            Err(Failure::rejected(RejectedByBroker(described())))
        }
        PubAckReason::UnspecifiedError
        | PubAckReason::ImplementationSpecificError
        | PubAckReason::PacketIdentifierInUse
        | PubAckReason::QuotaExceeded => Err(Failure::transient(RejectedByBroker(described()))),
    }
}

fn io_error(error: &ConnectionError) -> Option<&io::Error> {
    match error {
        ConnectionError::Io(error)
        | ConnectionError::MqttState(
            StateError::Io(error) | StateError::Deserialization(mqttbytes::Error::Io(error)),
        ) => Some(error),
        _ => None,
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the broker refused the connection ({0}")]
struct Refused(String);

#[derive(Debug, thiserror::Error)]
#[error(
    "the connection was closed before it was open: check that URLS names an MQTT 5 broker, and mqtts:// its TLS port"
)]
struct ClosedEarly;

#[derive(Debug, thiserror::Error)]
#[error("the connection was lost: {0}")]
pub(super) struct Lost(pub(super) String);

#[derive(Debug, thiserror::Error)]
#[error("the broker closed the connection ({0})")]
struct ClosedByBroker(String);

#[derive(Debug, thiserror::Error)]
#[error("the connection was lost: the broker was silent for IDLE_TIMEOUT")]
struct Silent;

#[derive(Debug, thiserror::Error)]
#[error(
    "the connection was ended, as what arrived is not valid MQTT ({0}): check that URLS names an MQTT 5 broker"
)]
struct NoMqtt(String);

#[derive(Debug, thiserror::Error)]
#[error("another connection took over the client id: set another CLIENT_ID for each process")]
pub(super) struct NameTaken;

#[derive(Debug, thiserror::Error)]
#[error("the broker gave no confirm within SEND_TIMEOUT")]
pub(super) struct NoOutcome;

#[derive(Debug, thiserror::Error)]
#[error("the broker rejected it ({0})")]
struct RejectedByBroker(String);

#[derive(Debug, thiserror::Error)]
#[error("nobody subscribes to its topic (MANDATORY is on)")]
pub(super) struct Unroutable;

#[derive(Debug, thiserror::Error)]
#[error(
    "its packet has {size} bytes, and the broker takes {limit} (maximum packet size): shorten the message"
)]
pub(super) struct TooLarge {
    pub(super) size: usize,
    pub(super) limit: u32,
}

#[derive(Debug, thiserror::Error)]
#[error("the broker does not keep retained messages: send it without mqtt::retain")]
pub(super) struct NoRetain;

#[derive(Debug, thiserror::Error)]
#[error("the broker takes messages of QoS {0} at most: lower QOS")]
pub(super) struct NoQos(pub(super) u8);
