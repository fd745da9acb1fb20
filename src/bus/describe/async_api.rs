//! A description as an AsyncAPI 3 document.

use serde_json::{Map, Value, json};
#[cfg(feature = "_brokers")]
use url::Url;

use super::description::Description;
use super::facts::Input;

/// An AsyncAPI 3.0 document of an app: its brokers as servers, its registered events as sent messages, and its consumers as receivers.
///
/// The events are those of [`BusBuilder::with_event`](crate::bus::BusBuilder::with_event) (feature `schemas`), with the JSON schemas of
/// `schemars`.
#[derive(Clone, Debug)]
pub struct AsyncApi {
    title: String,
    version: String,
    description: Description,
}

impl AsyncApi {
    /// The document of an app with this title and version.
    #[must_use]
    pub fn new(title: impl Into<String>, version: impl Into<String>, description: &Description) -> Self {
        Self { title: title.into(), version: version.into(), description: description.clone() }
    }

    /// Returns the document.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let Self { title, version, description } = self;
        let (mut channels, mut operations) = (Map::new(), Map::new());
        for topic in &description.events {
            let channel =
                json!({"address": topic, "messages": {topic: reference(&["components", "messages", topic])}});
            channels.insert(topic.clone(), channel);
            let operation = json!({"action": "send", "channel": reference(&["channels", topic])});
            operations.insert(format!("send.{topic}"), operation);
        }
        for (name, Input { address, patterns }) in &description.inputs {
            let channel = format!("consumer.{name}");
            let topics = description.events.iter().filter(|topic| patterns.iter().any(|it| fits(it, topic)));
            let messages: Map<_, _> =
                topics.map(|topic| (topic.clone(), reference(&["components", "messages", topic]))).collect();
            channels.insert(channel.clone(), json!({"address": address, "messages": messages}));
            let operation = json!({"action": "receive", "channel": reference(&["channels", &channel])});
            operations.insert(format!("receive.{name}"), operation);
        }
        let (messages, schemas) = self.components();
        json!({
            "asyncapi": "3.0.0",
            "info": {"title": title, "version": version, "description": description.to_string()},
            "defaultContentType": "application/json",
            "servers": self.servers(),
            "channels": channels,
            "operations": operations,
            "components": {"messages": messages, "schemas": schemas},
        })
    }

    fn servers(&self) -> Map<String, Value> {
        #[cfg_attr(not(feature = "_brokers"), allow(unused_mut, reason = "only brokers are servers"))]
        let mut servers = Map::new();
        #[cfg(feature = "_brokers")]
        for (index, url) in self.description.brokers.iter().enumerate() {
            let Ok(parsed) = Url::parse(url) else { continue };
            let port = parsed.port().map(|port| format!(":{port}")).unwrap_or_default();
            let host = format!("{}{port}", parsed.host_str().unwrap_or_default());
            let mut server = json!({"host": host, "protocol": self.protocol(parsed.scheme())});
            if !matches!(parsed.path(), "" | "/") {
                server["pathname"] = parsed.path().into();
            }
            servers.insert(format!("broker{}", index + 1), server);
        }
        servers
    }

    /// The name of the protocol in AsyncAPI.
    #[cfg(feature = "_brokers")]
    fn protocol<'a>(&self, scheme: &'a str) -> &'a str {
        match (self.description.backend.as_str(), scheme) {
            ("amqp10" | "rhmsg", _) => "amqp1",
            ("mqtt", _) => "mqtt5",
            (_, scheme) => scheme,
        }
    }

    #[cfg(not(feature = "schemas"))]
    fn components(&self) -> (Map<String, Value>, Map<String, Value>) {
        (Map::new(), Map::new())
    }

    /// The messages, and the schemas of their payloads.
    #[cfg(feature = "schemas")]
    fn components(&self) -> (Map<String, Value>, Map<String, Value>) {
        let settings = schemars::generate::SchemaSettings::draft07();
        let settings = settings.with(|settings| settings.definitions_path = "/components/schemas".into());
        let mut generator = settings.into_generator();
        let message = |event: &super::events::EventType| {
            let schema = (event.schema)(&mut generator).to_value();
            (event.topic.to_owned(), json!({"name": event.topic, "payload": schema}))
        };
        let messages = self.description.types.iter().map(message).collect();
        (messages, generator.take_definitions(true))
    }
}

/// A reference to a part of the document.
fn reference(path: &[&str]) -> Value {
    let escaped = path.iter().map(|part| part.replace('~', "~0").replace('/', "~1"));
    json!({"$ref": format!("#/{}", escaped.collect::<Vec<_>>().join("/"))})
}

/// Whether a topic fits a binding: `*` is one segment, `#` any number.
fn fits(pattern: &str, topic: &str) -> bool {
    fn rest(pattern: &[&str], topic: &[&str]) -> bool {
        match (pattern, topic) {
            ([], []) => true,
            (["#", after @ ..], _) => rest(after, topic) || !topic.is_empty() && rest(pattern, &topic[1..]),
            ([part, after @ ..], [segment, left @ ..]) => {
                (*part == "*" || part == segment) && rest(after, left)
            }
            _ => false,
        }
    }
    rest(&pattern.split('.').collect::<Vec<_>>(), &topic.split('.').collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_fits_a_binding_as_at_the_broker() {
        for (pattern, topic, expected) in [
            ("user.created", "user.created", true),
            ("user.*", "user.created", true),
            ("user.*", "user.created.now", false),
            ("user.#", "user", true),
            ("#", "a.b.c", true),
            ("#.c", "a.b.c", true),
            ("*.b", "b", false),
        ] {
            assert_eq!(fits(pattern, topic), expected, "{pattern} {topic}");
        }
    }
}
