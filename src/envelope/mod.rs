//! The shape of a message on the wire, for every protocol: its topic, headers, content type and body.

mod cloudevents;
mod cloudevents_structured;
mod json;
pub(crate) mod mqfactory;
mod mqfactory_json;
#[cfg(test)]
pub(crate) mod odd_messages;
mod origin;
mod petisco;

use std::borrow::Cow;

use crate::message::Message;
use crate::util::error::BoxError;

pub(crate) use self::origin::Origin;
pub use self::petisco::PetiscoMessage;

/// The shape of messages: the key `ENVELOPE` of the backends `amqp091`, `amqp10`, `kafka`, `mqtt` and `nats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Envelope {
    /// `plain`: unchanged.
    #[default]
    Plain,
    /// `cloudevents`: CloudEvents 1.0 in the binary mode of its AMQP, Kafka, MQTT or NATS binding, attributes beside the body as it is.
    ///
    /// The topic is the attribute `type`, the key the extension `partitionkey`. Headers are extensions if their names
    /// are such (lower-case letters and digits), else they stay headers. `ce-source`, `ce-subject` and
    /// `ce-dataschema` are the attributes of these names; the source is otherwise the key `EVENT_SOURCE`.
    /// Headers whose names begin as attributes do on the wire (`cloudEvents:`, `cloudEvents_`) are left out.
    #[serde(rename = "cloudevents")]
    CloudEvents,
    /// `cloudevents_structured`: the same in structured mode, attributes and body in one JSON document.
    ///
    /// Both of these open either mode.
    #[serde(rename = "cloudevents_structured")]
    CloudEventsStructured,
    /// `petisco`: the events and commands of petisco, under its routing keys; see [`PetiscoMessage`].
    ///
    /// The body must be a JSON object: it is the `attributes`. Headers are its `meta`. The keys `ORGANIZATION` and
    /// `SERVICE` must be set.
    Petisco,
    /// `mqfactory`: the JSON messages `{"payload": .., "tags": {..}}` of mqfactory 0.0.4, written as Python writes them.
    ///
    /// The body must be JSON: it is the `payload`. The id and the headers are its `tags`. Signed ones are those of
    /// `SIGNING.FORMAT = "mqfactory"` (feature `signing`), which writes this shape itself.
    Mqfactory,
}

impl Envelope {
    /// The source of CloudEvents when the settings name none.
    pub(crate) const EVENT_SOURCE: &'static str = "/tower-outbox";
    /// The content type of a CloudEvent in structured mode.
    #[cfg(feature = "mqtt")]
    pub(crate) const STRUCTURED: &'static str = cloudevents_structured::CONTENT_TYPE;
    /// The header of the id of a received CloudEvent that is no UUID.
    #[cfg(feature = "signing")]
    pub(crate) const EVENT_ID: &'static str = cloudevents::EVENT_ID;

    /// Returns the id of a CloudEvent as that of a message.
    #[cfg(feature = "signing")]
    pub(crate) fn event_id(source: &str, id: &str) -> uuid::Uuid {
        cloudevents::event_id(source, id)
    }

    /// Checks the sender in the settings; the error is the wrong key and its fault.
    pub(crate) fn check_origin(self, origin: Origin<'_>) -> Result<(), (&'static str, String)> {
        match self {
            Self::Plain | Self::Mqfactory => Ok(()),
            Self::CloudEvents | Self::CloudEventsStructured => match origin.event_source {
                Some("") => {
                    Err(("EVENT_SOURCE", "is empty: write a URI, such as \"/my-service\"".to_owned()))
                }
                _ => Ok(()),
            },
            Self::Petisco => petisco::check_origin(origin),
        }
    }

    /// Whether its attributes name the source of a message.
    pub(crate) fn is_event(self) -> bool {
        matches!(self, Self::CloudEvents | Self::CloudEventsStructured)
    }

    /// The sealed message without its sealed body: it has the errors, topic, headers and fields of [`seal`](Self::seal), and costs
    /// no JSON document where that is possible. The body may be that of `message`.
    pub(crate) fn outline<'a>(
        self,
        message: &'a Message,
        origin: Origin<'_>,
    ) -> Result<Cow<'a, Message>, BoxError> {
        let source = origin.event_source.unwrap_or(Self::EVENT_SOURCE);
        match self {
            Self::Plain => Ok(Cow::Borrowed(message)),
            Self::CloudEvents => cloudevents::seal(message, source).map(Cow::Owned),
            Self::CloudEventsStructured => cloudevents_structured::outline(message).map(Cow::Owned),
            Self::Petisco => petisco::outline(message, origin).map(Cow::Owned),
            // All of it can be at fault.
            Self::Mqfactory => mqfactory::seal(message).map(Cow::Owned),
        }
    }

    /// The message as it is sent.
    pub(crate) fn seal<'a>(
        self,
        message: &'a Message,
        origin: Origin<'_>,
    ) -> Result<Cow<'a, Message>, BoxError> {
        let source = origin.event_source.unwrap_or(Self::EVENT_SOURCE);
        match self {
            Self::Plain => Ok(Cow::Borrowed(message)),
            Self::CloudEvents => cloudevents::seal(message, source).map(Cow::Owned),
            Self::CloudEventsStructured => cloudevents_structured::seal(message, source).map(Cow::Owned),
            Self::Petisco => petisco::seal(message, origin).map(Cow::Owned),
            Self::Mqfactory => mqfactory::seal(message).map(Cow::Owned),
        }
    }

    /// The message in a received one.
    pub(crate) fn open(self, message: Message) -> Result<Message, BoxError> {
        match self {
            Self::Plain => Ok(message),
            Self::CloudEvents | Self::CloudEventsStructured if cloudevents_structured::is(&message) => {
                cloudevents_structured::open(&message)
            }
            Self::CloudEvents | Self::CloudEventsStructured => cloudevents::open(&message),
            Self::Petisco => petisco::open(&message),
            Self::Mqfactory => mqfactory::open(&message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::odd_messages::odd_messages;

    /// The properties of a message but its body.
    fn outlined(message: &Message) -> String {
        let headers: Vec<_> =
            message.headers().map(|(name, value)| (name.to_owned(), value.clone())).collect();
        format!(
            "{} {} {} {:?} {:?} {:?} {:?} {:?} {headers:?}",
            message.id(),
            message.topic(),
            message.content_type(),
            message.key(),
            message.time(),
            message.priority(),
            message.expiry(),
            message.delay(),
        )
    }

    #[test]
    fn an_outline_has_the_errors_and_the_fields_of_the_sealed_message() {
        let origin =
            Origin { organization: Some("acme"), service: Some("registration"), event_source: Some("/me") };
        let mut errors = 0;
        for message in odd_messages() {
            for envelope in [
                Envelope::Plain,
                Envelope::CloudEvents,
                Envelope::CloudEventsStructured,
                Envelope::Petisco,
                Envelope::Mqfactory,
            ] {
                let sealed = envelope.seal(&message, origin).map_err(|error| error.to_string());
                let outline = envelope.outline(&message, origin).map_err(|error| error.to_string());
                errors += usize::from(sealed.is_err());
                let fields = |result: Result<Cow<'_, Message>, String>| result.map(|it| outlined(&it));
                assert_eq!(fields(outline), fields(sealed), "{envelope:?} {message:?}");
            }
        }
        assert!(errors > 50, "{errors} of the messages were at fault");
    }
}
