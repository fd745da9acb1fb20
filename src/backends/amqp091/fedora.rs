//! The envelope of Fedora Messaging (`docs/api/wire-format.rst` and `fedora_messaging/message.py` of fedora-messaging 3.9).

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::SystemTime;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde::de::IgnoredAny;

use super::outgoing::{Shape, common, header};
use super::settings::Amqp091Settings;
use crate::message::{Message, Scalar};
use crate::util::error::BoxError;
use crate::util::rfc3339;

const SCHEMA: &str = "fedora_messaging_schema";
const SCHEMA_PACKAGE: &str = "fedora_messaging_schema_package";
const SEVERITY: &str = "fedora_messaging_severity";
pub(super) const SENT_AT: &str = "sent-at";

/// The severity of a message of Fedora Messaging.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Severity {
    /// 10
    Debug,
    /// 20, the default.
    #[default]
    Info,
    /// 30
    Warning,
    /// 40
    Error,
}

impl From<Severity> for Scalar {
    fn from(severity: Severity) -> Self {
        Self::Int(match severity {
            Severity::Debug => 10,
            Severity::Info => 20,
            Severity::Warning => 30,
            Severity::Error => 40,
        })
    }
}

/// The fields of a message of Fedora Messaging beside its body; other brokers carry them as plain headers.
///
/// ```
/// use tower_outbox::Message;
/// use tower_outbox::amqp091::{FedoraMessage, Severity};
///
/// let message = Message::json("build.finished", &serde_json::json!({"id": 7}))?
///     .with_severity(Severity::Warning)
///     .with_user("jo")
///     .with_rpm("bash");
/// # Ok::<(), tower_outbox::message::MessageError>(())
/// ```
pub trait FedoraMessage: Sized {
    /// Sets the severity; [`Severity::Info`] by default.
    #[must_use]
    fn with_severity(self, severity: Severity) -> Self;

    /// The severity; [`Severity::Info`] where it is not one of these.
    fn severity(&self) -> Severity;

    /// Sets the schema and the package that has it; `base.message` of `fedora_messaging` by default.
    /// Dashes of the package become underscores.
    #[must_use]
    fn with_schema(self, schema: &str, package: &str) -> Self;

    /// Adds a header that consumers may filter by: `kind` is one of `user`, `group`, `rpm`, `container`,
    /// `module` and `flatpak`.
    #[must_use]
    fn with_filter(self, kind: &str, name: &str) -> Self;

    /// Marks it as about a user.
    #[must_use]
    fn with_user(self, name: &str) -> Self {
        self.with_filter("user", name)
    }

    /// Marks it as about a group.
    #[must_use]
    fn with_group(self, name: &str) -> Self {
        self.with_filter("group", name)
    }

    /// Marks it as about an RPM package.
    #[must_use]
    fn with_rpm(self, name: &str) -> Self {
        self.with_filter("rpm", name)
    }

    /// Marks it as about a container.
    #[must_use]
    fn with_container(self, name: &str) -> Self {
        self.with_filter("container", name)
    }

    /// Marks it as about a module.
    #[must_use]
    fn with_module(self, name: &str) -> Self {
        self.with_filter("module", name)
    }

    /// Marks it as about a flatpak.
    #[must_use]
    fn with_flatpak(self, name: &str) -> Self {
        self.with_filter("flatpak", name)
    }
}

impl FedoraMessage for Message {
    fn with_severity(self, severity: Severity) -> Self {
        self.with_header(SEVERITY, severity)
    }

    fn severity(&self) -> Severity {
        match self.header(SEVERITY) {
            Some(Scalar::Int(10)) => Severity::Debug,
            Some(Scalar::Int(30)) => Severity::Warning,
            Some(Scalar::Int(40)) => Severity::Error,
            _ => Severity::Info,
        }
    }

    fn with_schema(self, schema: &str, package: &str) -> Self {
        self.with_header(SCHEMA, schema.to_owned()).with_header(SCHEMA_PACKAGE, package.replace('-', "_"))
    }

    fn with_filter(self, kind: &str, name: &str) -> Self {
        self.with_header(format!("fedora_messaging_{kind}_{name}"), true)
    }
}

/// The body is the JSON object itself; schema, severity and time are headers.
#[derive(Debug)]
pub(super) struct Fedora;

impl Shape for Fedora {
    const WRAPS: bool = false;

    fn check(message: &Message) -> Result<(), BoxError> {
        serde_json::from_slice::<HashMap<Cow<'_, str>, IgnoredAny>>(message.body())
            .map_err(|error| format!("a message of Fedora Messaging must be a JSON object: {error}"))?;
        for (name, cure) in [(SENT_AT, "with_time"), ("priority", "with_priority")] {
            if message.header(name).is_some() {
                return Err(format!("Fedora Messaging has a header {name} of its own: use {cure}").into());
            }
        }
        match message.header(SEVERITY) {
            None | Some(Scalar::Int(10 | 20 | 30 | 40)) => Ok(()),
            Some(severity) => Err(format!("the severity {severity} is not 10, 20, 30 or 40").into()),
        }
    }

    fn encode(settings: &Amqp091Settings, message: &Message) -> BasicProperties {
        let mut headers = FieldTable::default();
        let text = |text: &str| AMQPValue::LongString(text.as_bytes().to_vec().into());
        let priority = message.priority().or(settings.priority);
        headers.insert(SCHEMA.into(), text("base.message"));
        headers.insert(SEVERITY.into(), AMQPValue::LongInt(20));
        // It is not called with a time that cannot be written.
        headers.insert(SENT_AT.into(), text(&sent_at(message).unwrap_or_default()));
        headers.insert("priority".into(), AMQPValue::LongInt(priority.unwrap_or(0).into()));
        if message.header(SCHEMA).is_none() {
            headers.insert(SCHEMA_PACKAGE.into(), text("fedora_messaging"));
        }
        for (name, value) in message.headers() {
            let value = match (name, value) {
                (SEVERITY, Scalar::Int(severity)) => {
                    AMQPValue::LongInt(i32::try_from(*severity).unwrap_or(20))
                }
                _ => header(value),
            };
            headers.insert(name.into(), value);
        }
        common(settings, message)
            .with_content_type("application/json".into())
            .with_content_encoding("utf-8".into())
            .with_headers(headers)
    }
}

/// RFC 3339 in UTC with whole seconds and an offset.
pub(super) fn sent_at(message: &Message) -> Result<String, BoxError> {
    let time = rfc3339::write(message.time())?;
    Ok(format!("{}+00:00", &time[.."2026-01-31T12:00:00".len()]))
}

/// The time in a header `sent-at`.
pub(super) fn time_of(sent_at: &str) -> Result<SystemTime, BoxError> {
    rfc3339::read(sent_at).map_err(|error| format!("its sent-at cannot be read: {error}").into())
}
