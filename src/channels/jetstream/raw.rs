//! Stored messages, read by their sequence.

use std::time::UNIX_EPOCH;

use async_nats::{HeaderMap, HeaderValue};
use bytes::Bytes;
use serde_json::{Value, json};

use super::error::Fault;
use super::parts::EngineParts;
use super::wire::{self, POLICY};
use crate::backends::brokers::{Stored, StoredAnswer};

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
    /// Reads the headers of the engine, and leaves out what cannot be read.
    pub(super) fn read(stored: &Stored) -> Option<Self> {
        let (written, body) = (stored.headers().ok()?, stored.payload().ok()?);
        let mut headers = HeaderMap::new();
        for line in String::from_utf8_lossy(&written).split("\r\n").skip(1) {
            if let Some((name, value)) = line.split_once(':')
                && [wire::CONTENT, POLICY].contains(&name)
                && let Ok(value) = value.trim().parse::<HeaderValue>()
            {
                headers.insert(name, value);
            }
        }
        Some(Self {
            sequence: stored.sequence,
            headers,
            size: (written.len() + body.len()) as u64,
            body: body.into(),
            time: stored.time().duration_since(UNIX_EPOCH).map_or(0, wire::nanos),
        })
    }
}

impl EngineParts {
    /// Returns a stored message of a stream.
    pub(super) async fn stored(&self, stream: &str, request: Value) -> Result<Option<Stored>, Fault> {
        match self.connection.api(&format!("STREAM.MSG.GET.{stream}"), &request).await {
            Ok(StoredAnswer { message }) => Ok(Some(message)),
            Err(fault) if fault.is_missing() => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    pub(super) async fn raw(&self, stream: &str, request: Value) -> Result<Option<Raw>, Fault> {
        Ok(self.stored(stream, request).await?.as_ref().and_then(Raw::read))
    }

    pub(super) async fn next_raw(&self, stream: &str, from: u64) -> Result<Option<Raw>, Fault> {
        self.raw(stream, json!({"seq": from, "next_by_subj": ">"})).await
    }
}
