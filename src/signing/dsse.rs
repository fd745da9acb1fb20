//! The DSSE envelope (Dead Simple Signing Envelope 1.0.2) in a header of a message.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write as _;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::Deserialize;

use crate::util::error::BoxError;

/// The header with the signature.
pub(super) const HEADER: &str = "signature";
/// The header that names the origin whose signature was verified. It is removed from any other received message.
pub const SIGNED_BY: &str = "tower-outbox-signed-by";
/// The headers that only signing sets.
pub(super) const OWN_HEADERS: [&str; 2] = [HEADER, SIGNED_BY];

/// The type of the signed payload, a [`Statement`](super::statement::Statement).
pub(super) const PAYLOAD_TYPE: &str = "application/vnd.tower-outbox.message.v1+json";

/// The largest header that is written or read, in bytes.
const LARGEST: usize = 64 << 10;
/// The most signatures that are tried.
const MOST: usize = 4;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EnvelopeJson<'a> {
    #[serde(borrow)]
    payload: Cow<'a, str>,
    #[serde(borrow)]
    payload_type: Cow<'a, str>,
    #[serde(borrow)]
    signatures: Vec<SignatureJson<'a>>,
}

#[derive(Deserialize)]
struct SignatureJson<'a> {
    #[serde(borrow)]
    keyid: Cow<'a, str>,
    #[serde(borrow)]
    sig: Cow<'a, str>,
}

/// A payload and its signatures, which are not verified yet.
pub(super) struct Signed {
    pub(super) payload: Vec<u8>,
    /// Origins and signatures.
    pub(super) signatures: Vec<(String, Vec<u8>)>,
}

/// The signed bytes: the pre-authentication encoding.
pub(super) fn signed_bytes(kind: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(kind.len() + payload.len() + 32);
    // Writing to a vector does not fail.
    let _ = write!(bytes, "DSSEv1 {} {kind} {} ", kind.len(), payload.len());
    bytes.extend_from_slice(payload);
    bytes
}

/// Writes the envelope of a payload of this type; the key is named by its origin.
pub(super) fn write(kind: &str, payload: &[u8], origin: &str, signature: &[u8]) -> Result<String, BoxError> {
    let json = |text: &str| serde_json::to_string(text);
    let mut header = String::with_capacity(payload.len() * 4 / 3 + signature.len() * 4 / 3 + 180);
    // Base64 needs no look for what JSON escapes.
    header.push_str(r#"{"payload":""#);
    STANDARD.encode_string(payload, &mut header);
    write!(header, r#"","payloadType":{},"signatures":[{{"keyid":{},"sig":""#, json(kind)?, json(origin)?)?;
    STANDARD.encode_string(signature, &mut header);
    header.push_str(r#""}]}"#);
    if header.len() > LARGEST {
        let len = header.len();
        return Err(format!(
            "its signature would have {len} bytes; {LARGEST} are allowed: sign fewer headers"
        )
        .into());
    }
    Ok(header)
}

/// Reads the envelope of a payload of this type.
pub(super) fn read(kind: &str, header: &str) -> Result<Signed, BoxError> {
    if header.len() > LARGEST {
        return Err(format!("its signature has more than {LARGEST} bytes").into());
    }
    let envelope: EnvelopeJson<'_> = serde_json::from_str(header)
        .map_err(|error| format!("its signature is no DSSE envelope: {error}"))?;
    if envelope.payload_type != kind {
        return Err(format!("its signature is not of the type {kind}").into());
    }
    if !(1..=MOST).contains(&envelope.signatures.len()) {
        return Err(
            format!("it has {} signatures; 1 to {MOST} are allowed", envelope.signatures.len()).into()
        );
    }
    let signatures = envelope.signatures.iter();
    let signatures = signatures.map(|signature| Ok((signature.keyid.to_string(), base64(&signature.sig)?)));
    Ok(Signed {
        payload: base64(&envelope.payload)?,
        signatures: signatures.collect::<Result<_, BoxError>>()?,
    })
}

/// DSSE allows both alphabets.
fn base64(text: &str) -> Result<Vec<u8>, BoxError> {
    let bytes = STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text));
    bytes.map_err(|_| "its signature is not in base64".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signed_bytes_name_the_type_and_the_lengths() {
        let bytes = String::from_utf8(signed_bytes(PAYLOAD_TYPE, b"hello")).unwrap();
        assert_eq!(bytes, "DSSEv1 44 application/vnd.tower-outbox.message.v1+json 5 hello");
    }

    #[test]
    fn what_is_written_is_read() {
        for origin in ["host-1", "a \"b\"\n☃"] {
            let read =
                read(PAYLOAD_TYPE, &write(PAYLOAD_TYPE, b"payload", origin, &[7; 64]).unwrap()).unwrap();
            assert_eq!(read.payload, b"payload");
            assert_eq!(read.signatures, [(origin.to_owned(), vec![7; 64])]);
        }
    }

    #[test]
    fn what_is_no_envelope_is_an_error() {
        let good = write(PAYLOAD_TYPE, b"payload", "host-1", &[7; 64]).unwrap();
        assert_eq!(read(PAYLOAD_TYPE, &good).unwrap().signatures, [("host-1".to_owned(), vec![7; 64])]);
        let large = "x".repeat(1 << 20);
        for (header, fault) in [
            (large.as_str(), "more than 65536 bytes"),
            ("", "no DSSE envelope"),
            (&good.replace("v1+json", "v2+json"), "not of the type"),
            (&good.replace(r#""sig":""#, r#""sig":"?"#), "base64"),
            (
                r#"{"payload":"","payloadType":"application/vnd.tower-outbox.message.v1+json","signatures":[]}"#,
                "0 signatures",
            ),
        ] {
            let error = read(PAYLOAD_TYPE, header).err().unwrap().to_string();
            assert!(error.contains(fault), "{error}");
        }
        assert!(write(PAYLOAD_TYPE, &vec![0; 64 << 10], "host-1", &[7; 64]).is_err());
    }
}
