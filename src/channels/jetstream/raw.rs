//! Stored messages, read by their sequence.

use async_nats::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

use super::error::Fault;
use super::parts::EngineParts;
use super::wire::{self, POLICY};
use crate::util::rfc3339;

/// A stored message, as it was written.
pub(super) struct Raw {
    pub(super) sequence: u64,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// In nanoseconds since 1970.
    pub(super) time: u64,
    /// The bytes of headers and body.
    pub(super) size: u64,
}

impl Raw {
    /// Reads the answer of the leader.
    pub(super) fn read(answer: &Value) -> Option<Self> {
        let decode = |name: &str| {
            let text = answer["message"][name].as_str().unwrap_or_default();
            STANDARD.decode(text).ok()
        };
        let (written, body) = (decode("hdrs")?, decode("data")?);
        let mut headers = HeaderMap::new();
        for line in String::from_utf8_lossy(&written).split("\r\n").skip(1) {
            if let Some((name, value)) = line.split_once(':')
                && [wire::CONTENT, POLICY].contains(&name)
            {
                headers.insert(name, value.trim());
            }
        }
        let time = answer["message"]["time"].as_str().and_then(|time| rfc3339::read(time).ok());
        let time = time.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        Some(Self {
            sequence: answer["message"]["seq"].as_u64()?,
            headers,
            size: (written.len() + body.len()) as u64,
            body: body.into(),
            time: time.map_or(0, wire::nanos),
        })
    }
}

impl EngineParts {
    /// Returns a stored message of a stream.
    pub(super) async fn raw(&self, stream: &str, request: Value) -> Result<Option<Raw>, Fault> {
        match self.connection.api::<Value>(&format!("STREAM.MSG.GET.{stream}"), &request).await {
            Ok(answer) => Ok(Raw::read(&answer)),
            Err(fault) if fault.is_missing() => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    pub(super) async fn next_raw(&self, stream: &str, from: u64) -> Result<Option<Raw>, Fault> {
        self.raw(stream, json!({"seq": from, "next_by_subj": ">"})).await
    }
}
