//! The attribute `dssematerial` of CloudEvents, by the draft "Verifiable CloudEvents with DSSE" of their specification (2026).

use std::borrow::Cow;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::dsse;
use super::statement::ALWAYS;
use crate::envelope::Envelope;
use crate::message::{Message, Scalar};
use crate::util::error::BoxError;
use crate::util::rfc3339;

/// The attribute: a DSSE envelope in base64.
pub(super) const HEADER: &str = "dssematerial";
/// The type of the signed payload.
pub(super) const TYPE: &str = "https://cloudevents.io/verifiability/dsse/v0.1";
/// An extension of ours: the time of the signature. An event may have waited in an outbox for longer than signatures last.
const SIGNED_AT: &str = "signedat";
/// The extension with the key.
const KEY: &str = "partitionkey";
/// The core attributes, which are no extensions.
const CORE: [&str; 9] =
    ["id", "source", "specversion", "type", "datacontenttype", "dataschema", "subject", "time", "data"];
/// The headers that are core attributes.
const OF_CORE: [&str; 3] = ["ce-source", "ce-subject", "ce-dataschema"];

/// The signed digests.
#[derive(Serialize, Deserialize)]
pub(super) struct Material<'a> {
    #[serde(borrow)]
    core: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    ext: Option<Cow<'a, str>>,
    #[serde(rename = "signedextattrs", skip_serializing_if = "Option::is_none", borrow)]
    names: Option<Vec<Cow<'a, str>>>,
}

/// The core attributes as they are signed.
#[derive(Clone, Copy)]
struct Core<'a> {
    id: &'a str,
    source: &'a str,
    topic: &'a str,
    content_type: &'a str,
    schema: &'a str,
    subject: &'a str,
    time: &'a str,
    data: &'a [u8],
}

/// Whether a header of this name can be a signed extension (CloudEvents 1.0.2, "Naming conventions").
pub(super) fn is_extension(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        && !CORE.contains(&name)
        && ![HEADER, SIGNED_AT, KEY].contains(&name)
}

/// Returns the event with its signature. `source` is its source if it names none.
pub(super) fn sign(
    message: &Message,
    (origin, source): (&str, Option<&str>),
    now: SystemTime,
    headers: &[String],
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, BoxError>,
) -> Result<Message, BoxError> {
    if let Some(name) =
        [HEADER, SIGNED_AT, dsse::SIGNED_BY].into_iter().find(|name| message.header(name).is_some())
    {
        return Err(format!("the header {name:?} is set by signing: rename it").into());
    }
    let mut event = message.clone().with_header(SIGNED_AT, seconds(now)?);
    if text(&event, OF_CORE[0]).is_empty() {
        event.set_header(OF_CORE[0], source.unwrap_or(Envelope::EVENT_SOURCE).to_owned());
    }
    let names = names(message, headers);
    for name in &names {
        let is_attribute = match event.header(name) {
            None | Some(Scalar::Bool(_) | Scalar::String(_)) => true,
            Some(Scalar::Int(value)) => i32::try_from(*value).is_ok(),
            Some(_) => false,
        };
        if !is_attribute {
            return Err(
                format!("the header {name:?} can be no attribute of a CloudEvent: send a text").into()
            );
        }
    }
    let material = Material {
        core: core(&event, &event.id().to_string())?.into(),
        ext: Some(extensions(&event, &names).into()),
        names: Some(names),
    };
    let payload = serde_json::to_vec(&material)?;
    let signature = sign(&dsse::signed_bytes(TYPE, &payload))?;
    let envelope = dsse::write(TYPE, &payload, origin, &signature)?;
    Ok(event.with_header(HEADER, STANDARD.encode(envelope)))
}

/// The extensions that are signed: those of the settings, and those on which more than the handler depends.
fn names<'a>(message: &Message, headers: &'a [String]) -> Vec<Cow<'a, str>> {
    let is_more = |name: &&str| message.header(name).is_some() && !headers.iter().any(|of| of == name);
    let key = message.key().filter(|key| !key.is_empty()).map(|_| KEY);
    let more = ALWAYS.into_iter().filter(is_more).chain(key).chain([SIGNED_AT]);
    headers.iter().map(String::as_str).chain(more).map(Cow::Borrowed).collect()
}

/// Reads the DSSE envelope of the attribute.
pub(super) fn read(attribute: &str) -> Result<dsse::Signed, BoxError> {
    let envelope = STANDARD.decode(attribute).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    dsse::read(TYPE, &envelope.ok_or("its attribute dssematerial is not in base64")?)
}

impl<'a> Material<'a> {
    /// Reads the payload of a verified signature.
    pub(super) fn read(payload: &'a [u8]) -> Result<Self, BoxError> {
        let material: Self = serde_json::from_slice(payload)
            .map_err(|error| format!("the signed digests of the event cannot be read: {error}"))?;
        let names = material.names.as_deref().unwrap_or_default();
        let is_valid = |(n, name): (usize, &Cow<'_, str>)| {
            !CORE.contains(&name.as_ref()) && name != HEADER && !names[..n].contains(name)
        };
        match material.ext.is_some() == material.names.is_some()
            && names.len() <= crate::message::headers::MOST
            && names.iter().enumerate().all(is_valid)
        {
            true => Ok(material),
            false => Err("its list of signed attributes is not valid".into()),
        }
    }

    /// Returns the event with all that is signed and nothing else, and the time of its signature. `required` are headers that must be
    /// signed.
    pub(super) fn restore(
        &self,
        message: &Message,
        required: &[String],
    ) -> Result<(Message, SystemTime), BoxError> {
        let source = text(message, OF_CORE[0]);
        let id = message.id().to_string();
        let written = text(message, Envelope::EVENT_ID);
        // The text of an id that is no UUID is in a header, which anyone could have set.
        let id = if Envelope::event_id(source, written) == message.id() { written } else { &id };
        if core(message, id)? != self.core {
            return Err(
                "its data, or one of the attributes id, source, type, datacontenttype, dataschema, subject and time, was changed \
                 after it was signed, or is missing"
                    .into(),
            );
        }
        let names = self.names.as_deref().unwrap_or_default();
        if self.ext.as_ref().is_some_and(|ext| *ext != extensions(message, names)) {
            return Err("one of its signed extension attributes was changed after it was signed".into());
        }
        let required = required.iter().map(String::as_str);
        let mut required = required.chain(ALWAYS.into_iter().filter(|name| message.header(name).is_some()));
        if let Some(name) = required.find(|name| !names.iter().any(|signed| signed == name)) {
            return Err(format!(
                "its header {name:?} is not signed: add it to SIGNING.HEADERS of the sender"
            )
            .into());
        }
        let is_signed = |name: &str| names.iter().any(|signed| signed == name);
        let signed_at = match is_signed(SIGNED_AT) {
            true => rfc3339::read(text(message, SIGNED_AT))?,
            false => message.time(),
        };
        let (body, content_type) = (message.body().clone(), message.content_type().to_owned().into());
        let mut restored =
            Message::restore(message.id(), message.topic().clone(), body, content_type, message.time());
        for (name, value) in message.headers() {
            if OF_CORE.contains(&name) || (is_signed(name) && name != SIGNED_AT) {
                restored.set_header(name.to_owned(), value.clone());
            }
        }
        if let Some(key) = message.key().filter(|_| is_signed(KEY)) {
            restored = restored.with_key(key.to_owned());
        }
        if let Some(expiry) = message.expiry() {
            restored = restored.with_expiry(expiry);
        }
        if let Some(priority) = message.priority() {
            restored = restored.with_priority(priority);
        }
        Ok((restored, signed_at))
    }
}

fn text<'a>(message: &'a Message, header: &str) -> &'a str {
    message.header(header).and_then(Scalar::as_str).unwrap_or_default()
}

/// A time in whole seconds, as it is signed.
fn seconds(time: SystemTime) -> Result<String, BoxError> {
    let mut text = rfc3339::write(time)?;
    text.truncate("2026-01-31T12:00:00".len());
    Ok(text + "Z")
}

fn core(message: &Message, id: &str) -> Result<String, BoxError> {
    let core = Core {
        id,
        source: text(message, OF_CORE[0]),
        topic: message.topic().as_str(),
        content_type: message.content_type(),
        schema: text(message, OF_CORE[2]),
        subject: text(message, OF_CORE[1]),
        time: &seconds(message.time())?,
        data: message.body(),
    };
    Ok(core.digest())
}

impl Core<'_> {
    fn digest(&self) -> String {
        let Self { id, source, topic, content_type, schema, subject, time, data } = self;
        let texts = [*id, source, "1.0", topic, content_type, schema, subject, time];
        digest_of_digests(texts.into_iter().map(|text| text.as_bytes()).chain([*data]))
    }
}

/// The digest of the values of extensions; a missing one is empty.
fn extensions(message: &Message, names: &[Cow<'_, str>]) -> String {
    let value = |name: &Cow<'_, str>| match name.as_ref() {
        KEY => message.key().unwrap_or_default().to_owned(),
        name => message.header(name).map(ToString::to_string).unwrap_or_default(),
    };
    let values: Vec<_> = names.iter().map(value).collect();
    digest_of_digests(values.iter().map(String::as_bytes))
}

fn digest_of_digests<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> String {
    let digests: Vec<u8> =
        values.into_iter().flat_map(|value| digest(&SHA256, value).as_ref().to_vec()).collect();
    STANDARD.encode(digest(&SHA256, &digests))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::kind::Salt;
    use crate::signing::{KeyKind, TrustedKey};

    /// The test vectors 5 to 7 of the draft, and the event of its walkthrough; 3 and 4 are tested with their signatures. Vectors 1 and 2
    /// are of an older draft.
    #[test]
    fn the_digests_are_those_of_the_vectors() {
        let event = Core {
            id: "1",
            source: "example/uri",
            topic: "example.type",
            content_type: "application/json",
            schema: "",
            subject: "",
            time: "",
            data: b" {\n  \"hello\" : \"world\"\n }",
        };
        assert_eq!(event.digest(), "LTgQKHGheg6T48xpGGr5zNkdhp22kenZCOqicFtI4SA=");
        let walkthrough = Core { data: br#" {"hello": "world"}"#, ..event };
        assert_eq!(walkthrough.digest(), "vjXrHNt/k/3rSS9WejzeQ8vJ4sU1uQh+J51Vqry7XnM=");
        let (topic, content_type) = ("example.type.binary", "application/octet-stream");
        let binary = Core { topic, content_type, data: "\u{1f921}".as_bytes(), ..event };
        assert_eq!(binary.digest(), "qCSeiZkS+hH9WiClfq6plfqYNVy2kvxWRfoBrLEzoDk=");
        let time = rfc3339::read("2020-06-18T19:24:53.7+02:00").unwrap();
        assert_eq!(seconds(time).unwrap(), "2020-06-18T17:24:53Z");
        let message =
            Message::new("a", "").unwrap().with_header("exta", "value1").with_header("extb", "value2");
        let names = [Cow::Borrowed("exta"), Cow::Borrowed("extb")];
        assert_eq!(extensions(&message, &names[..1]), "kU1P8bDaEnyNhglWzdTJNHh77khNWSZebBUxufVM2pU=");
        assert_eq!(extensions(&message, &names), "HB1pe431FoQZRsJbyLNMq0QaAvqPtmhdi8dHGShbJAU=");
    }

    /// Vectors 3 and 4, with their signature of P-256. Their data has more spaces than it is printed with.
    #[test]
    fn a_vector_verifies_with_its_signature() {
        const KEY: &str = "-----BEGIN PUBLIC KEY-----
            MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEZ805D3eqNZywjCI19lInBJOp7YMrCrzAH3CVTAOQ0jgMeCvVTiaRJaRPRDOv8UMs6U4SvKc6pnrIDOoSYI3fdA==
            -----END PUBLIC KEY-----";
        const ATTRIBUTE: &str = "eyJwYXlsb2FkVHlwZSI6Imh0dHBzOi8vY2xvdWRldmVudHMuaW8vdmVyaWZpYWJpbGl0eS9kc3NlL3YwLjEiLCJwYXlsb2FkIjoiZX\
            lKamIzSmxJam9pZDB0RFlUaHpjVE5rZVdjdk1EQmFhVVJSZVM5aFdFRlpNWFJsY0ZGdWNrdE1ZVFo0VURCWk0wUXZVVDBpZlE9PSIsInNpZ25hdHVyZXMiOlt7Imtl\
            eWlkIjoidGVzdGtleSIsInNpZyI6IlVNcWlOWXA3U1FacTZNSGRtczRkbjJtc0hHaW5MSHZaYVVWM2doY2ovY241QmkzZDVqejBzZmhtOXBaODlDY09hK1dXdGpZNm\
            Nadmo3Yy90T1dzVFZnPT0ifV19";
        let signed = read(ATTRIBUTE).unwrap();
        let [(origin, signature)] = &signed.signatures[..] else { panic!("one signature") };
        let key = &TrustedKey::all_from_pem(KEY).unwrap()[0];
        let bytes = dsse::signed_bytes(TYPE, &signed.payload);
        assert_eq!((&**origin, key.kind()), ("testkey", KeyKind::P256));
        assert!(key.verifies(&bytes, signature, Salt::Digest));
        assert!(!key.verifies(&bytes[1..], signature, Salt::Digest));
        let material = Material::read(&signed.payload).unwrap();
        for (time, data, is_same) in [
            ("2020-06-18T17:24:53Z", " {\n    \"hello\" : \"world\"\n  }", true),
            ("2020-06-18T19:24:53+02:00", " {\n    \"hello\" : \"world\"\n  }", true),
            ("2020-06-18T17:24:54Z", " {\n    \"hello\" : \"world\"\n  }", false),
            ("2020-06-18T17:24:53Z", "{}", false),
        ] {
            let event = Message::new("example.type", data)
                .unwrap()
                .with_id(Envelope::event_id("example/uri", "1"))
                .with_time(rfc3339::read(time).unwrap())
                .with_content_type("application/json")
                .with_header(Envelope::EVENT_ID, "1")
                .with_header("ce-source", "example/uri");
            assert_eq!(material.restore(&event, &[]).is_ok(), is_same, "{time} {data}");
        }
    }

    /// Vector 8.
    #[test]
    fn a_list_of_attributes_that_is_not_valid_is_refused() {
        for (list, is_valid) in [
            (r#","ext":"e","signedextattrs":["exta"]"#, true),
            ("", true),
            (r#","new":7"#, true),
            (r#","ext":"e","signedextattrs":["exta","exta"]"#, false),
            (r#","ext":"e","signedextattrs":["exta","id"]"#, false),
            (r#","ext":"e","signedextattrs":["dssematerial"]"#, false),
            (r#","signedextattrs":["exta"]"#, false),
            (r#","ext":"e""#, false),
            (r#","ext":"e","signedextattrs":[7]"#, false),
        ] {
            let payload = format!(r#"{{"core":"c"{list}}}"#);
            assert_eq!(Material::read(payload.as_bytes()).is_ok(), is_valid, "{payload}");
        }
    }
}
