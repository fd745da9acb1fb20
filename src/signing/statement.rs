//! The signed description of a message.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::dsse::OWN_HEADERS;
use crate::message::headers::start_of;
use crate::message::{Message, Scalar, headers};
use crate::util::error::BoxError;
use crate::util::rfc3339;

/// The headers that are signed wherever they are: whoever changed them could confirm other messages, or reject them.
pub(super) const ALWAYS: [&str; 3] = [headers::ACK, headers::CONFIRM, headers::REJECTED];

/// The description of a message that a signature covers. It travels with the signature, so brokers may change the precision of the time, the
/// key and the expiry: they are restored from here. All else must be as it was.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Statement<'a> {
    #[serde(borrow)]
    pub(super) origin: Cow<'a, str>,
    #[serde(borrow)]
    signed_at: Cow<'a, str>,
    id: Uuid,
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    content_type: Cow<'a, str>,
    /// In milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry: Option<u64>,
    /// The names and values of headers, without a value where there is no such header.
    #[serde(default, skip_serializing_if = "Vec::is_empty", borrow)]
    headers: Vec<(Cow<'a, str>, Option<Signed>)>,
    /// The SHA-256 of the body, in hexadecimal digits.
    #[serde(borrow)]
    body: Cow<'a, str>,
}

/// The value of a header; in a list, since null is a value.
type Signed = [Value; 1];

impl<'a> Statement<'a> {
    pub(super) fn of(
        message: &'a Message,
        origin: &'a str,
        signed_at: SystemTime,
        headers: &'a [String],
    ) -> Result<Self, BoxError> {
        let is_there = |name: &&str| message.header(name).is_some() && !headers.iter().any(|of| of == name);
        let names = headers.iter().map(String::as_str).chain(ALWAYS.into_iter().filter(is_there));
        let headers = names.map(|name| {
            let value = message.header(name);
            if let Some(Scalar::Float(value)) = value
                && !value.is_finite()
            {
                return Err(format!(
                    "the header {name:?} is {value}, which cannot be signed: send a finite number"
                ));
            }
            Ok((name.into(), value.map(|value| [value.to_json()])))
        });
        Ok(Self {
            origin: origin.into(),
            signed_at: rfc3339::write(signed_at)?.into(),
            id: message.id(),
            topic: message.topic().as_str().into(),
            key: message.key().map(Into::into),
            time: rfc3339::write(message.time())?.into(),
            content_type: message.content_type().into(),
            expiry: message.expiry().map(|expiry| u64::try_from(expiry.as_millis()).unwrap_or(u64::MAX)),
            headers: headers.collect::<Result<_, _>>()?,
            body: sha256(message.body()).into(),
        })
    }

    pub(super) fn write(&self) -> Result<Vec<u8>, BoxError> {
        // Enough for most messages, so that it need not grow.
        let mut json = Vec::with_capacity(512);
        serde_json::to_writer(&mut json, self)?;
        Ok(json)
    }

    pub(super) fn read(payload: &'a [u8]) -> Result<Self, BoxError> {
        serde_json::from_slice(payload)
            .map_err(|error| format!("the signed description of the message cannot be read: {error}").into())
    }

    pub(super) fn signed_at(&self) -> Result<SystemTime, BoxError> {
        rfc3339::read(&self.signed_at)
    }

    /// Returns the message as it was signed. `required` are headers that must be signed.
    pub(super) fn restore(&self, message: &Message, required: &[String]) -> Result<Message, BoxError> {
        let changed = |part: &str, signed: &dyn std::fmt::Display| {
            let signed = signed.to_string();
            Err(format!("its {part} was changed after it was signed as {:?}", start_of(&signed, 80)).into())
        };
        if self.id != message.id() {
            return changed("id", &self.id);
        }
        if self.topic != message.topic().as_str() {
            return changed("topic", &self.topic);
        }
        if self.content_type != message.content_type() {
            return changed("content type", &self.content_type);
        }
        if self.body != sha256(message.body()) {
            return changed("body", &self.body);
        }
        for (name, signed) in &self.headers {
            if message.header(name).map(|value| [value.to_json()]) != *signed {
                let name = start_of(name, 80);
                return Err(format!("its header {name:?} was changed after it was signed").into());
            }
        }
        let is_signed = |name: &str| self.headers.iter().any(|(signed, _)| signed == name);
        let required = required.iter().map(String::as_str);
        let required = required.chain(ALWAYS.into_iter().filter(|name| message.header(name).is_some()));
        if let Some(name) = required.into_iter().find(|name| !is_signed(name)) {
            return Err(format!(
                "its header {name:?} is not signed: add it to SIGNING.HEADERS of the sender"
            )
            .into());
        }
        let (topic, time) = (message.topic().clone(), rfc3339::read(&self.time)?);
        let (body, content_type) = (message.body().clone(), message.content_type().to_owned().into());
        let mut restored = Message::restore(message.id(), topic, body, content_type, time);
        for (name, value) in message.headers().filter(|(name, _)| !OWN_HEADERS.contains(name)) {
            restored.set_header(name.to_owned(), value.clone());
        }
        if let Some(key) = &self.key {
            restored = restored.with_key(key.as_ref());
        }
        if let Some(expiry) = self.expiry {
            restored = restored.with_expiry(Duration::from_millis(expiry));
        }
        if let Some(priority) = message.priority() {
            restored = restored.with_priority(priority);
        }
        Ok(restored)
    }
}

fn sha256(bytes: &[u8]) -> String {
    let digest = digest(&SHA256, bytes);
    let mut hex = String::with_capacity(2 * digest.as_ref().len());
    for byte in digest.as_ref() {
        for digit in [byte >> 4, byte & 15] {
            hex.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
    hex
}
