//! The signatures of mqfactory 0.0.4, in its JSON messages.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::envelope::mqfactory as envelope;
use crate::message::Message;
use crate::util::error::BoxError;
use crate::util::rfc3339;

/// The largest signature that is read, in bytes of JSON.
const LARGEST: usize = 64 << 10;

/// Signs a message, and returns it in its envelope.
pub(super) fn sign(
    message: &Message,
    origin: &str,
    now: SystemTime,
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, BoxError>,
) -> Result<Message, BoxError> {
    let at = rfc3339::write(now)?.replace('T', " ");
    let mut written = envelope::write(message, Some((origin, at.trim_end_matches('Z'))))?;
    let hash = STANDARD.encode(sign(&signed_bytes(&written.text))?);
    written.text.insert_str(written.hash_at, &format!("\"hash\": \"{hash}\", "));
    Ok(envelope::sealed(message, written.text))
}

/// Puts a message that is not signed into its envelope.
pub(super) fn seal(message: &Message) -> Result<Message, BoxError> {
    let written = envelope::write(message, None)?;
    Ok(envelope::sealed(message, written.text))
}

pub(super) use crate::envelope::mqfactory::open;

/// A signature, which is not verified yet.
pub(super) struct Signed {
    pub(super) origin: String,
    pub(super) at: SystemTime,
    pub(super) signature: Vec<u8>,
    pub(super) bytes: Vec<u8>,
}

#[derive(Deserialize)]
struct SignatureJson {
    origin: String,
    ts: String,
    hash: String,
}

/// Returns the signature in a body; `None` if there is none.
///
/// The signed text is the received one without the `hash`, so it need not be written again as Python writes it.
pub(super) fn read(body: &[u8]) -> Result<Option<Signed>, BoxError> {
    let Some(json) = envelope::signature(body)? else { return Ok(None) };
    if json.len() > LARGEST {
        return Err(format!("its signature has more than {LARGEST} bytes").into());
    }
    let SignatureJson { origin, ts, hash } = serde_json::from_str(json)
        .map_err(|error| format!("its signature is not that of mqfactory: {error}"))?;
    let signature = STANDARD.decode(&hash).map_err(|_| "its signature is not in base64")?;
    let cut = format!("\"hash\": \"{hash}\", ");
    let begin = json.as_ptr() as usize - body.as_ptr() as usize + 1;
    let end = begin + cut.len();
    if body.get(begin..end) != Some(cut.as_bytes()) {
        return Err("its signature is not written as mqfactory writes it".into());
    }
    let text = [&body[..begin], &body[end..]].concat();
    let bytes = STANDARD.encode(text).into_bytes();
    Ok(Some(Signed { origin, at: rfc3339::read(&ts)?, signature, bytes }))
}

fn signed_bytes(text: &str) -> Vec<u8> {
    STANDARD.encode(text).into_bytes()
}
