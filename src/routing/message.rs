//! Messages as they travel between routers.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::namespace::Namespace;
use super::uri::Uri;
use crate::util::error::BoxError;

/// A message as it travels between routers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RoutedMessage {
    /// The namespace.
    #[serde(with = "as_bytes")]
    pub namespace: Namespace,
    /// The URI.
    #[serde(with = "as_text")]
    pub uri: Uri,
    /// The content: objects, each with the name of its schema.
    pub payload: Vec<PayloadObject>,
    /// Whether the message is kept as the last value of its URI.
    pub persist: bool,
    /// The publisher.
    pub source: Bytes,
    /// The router that the message was published at.
    pub origin: Arc<str>,
    /// The signature of the publisher or of the first router; empty for none.
    pub signature: Bytes,
    /// The partition that the content is encrypted for, as the publisher wrote it.
    pub partition: Vec<Bytes>,
    /// The time at each router on the way, in nanoseconds since 1970.
    pub timestamps: Vec<i64>,
    /// For each queue on the way, the number of messages that it dropped before this one.
    pub drops: Vec<i64>,
}

/// An object in a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayloadObject {
    /// The name of the schema of the content.
    pub schema: String,
    /// The content.
    pub content: Bytes,
}

impl RoutedMessage {
    /// Makes a message that has not been published yet.
    #[must_use]
    pub fn new(namespace: Namespace, uri: Uri, payload: Vec<PayloadObject>) -> Self {
        Self {
            namespace,
            uri,
            payload,
            persist: false,
            source: Bytes::new(),
            origin: Arc::from(""),
            signature: Bytes::new(),
            partition: Vec::new(),
            timestamps: Vec::new(),
            drops: Vec::new(),
        }
    }

    /// Sets whether the message is kept as the last value of its URI. By default it is not.
    #[must_use]
    pub fn with_persist(self, persist: bool) -> Self {
        Self { persist, ..self }
    }

    /// Returns about how many bytes the message takes.
    #[must_use]
    pub fn size(&self) -> usize {
        let payload: usize =
            self.payload.iter().map(|object| object.schema.len() + object.content.len() + 4).sum();
        let partition: usize = self.partition.iter().map(|part| part.len() + 2).sum();
        let hops = 10 * (self.timestamps.len() + self.drops.len());
        let names = self.namespace.as_bytes().len() + self.uri.as_str().len() + self.origin.len();
        payload + partition + hops + names + self.source.len() + self.signature.len() + 24
    }

    /// Returns the bytes that are signed: all but the signature, and what routers add on the way. Each part has its length before
    /// it.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size() + 256);
        let mut add = |part: &[u8]| {
            out.extend_from_slice(&(part.len() as u64).to_le_bytes());
            out.extend_from_slice(part);
        };
        add(b"tower-outbox routed message 1");
        add(self.namespace.as_bytes());
        add(self.uri.as_str().as_bytes());
        add(&self.source);
        add(self.origin.as_bytes());
        add(&[u8::from(self.persist)]);
        add(&(self.payload.len() as u64).to_le_bytes());
        for object in &self.payload {
            add(object.schema.as_bytes());
            add(&object.content);
        }
        add(&(self.partition.len() as u64).to_le_bytes());
        self.partition.iter().for_each(|part| add(part));
        out
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, BoxError> {
        Ok(postcard::to_extend(self, Vec::with_capacity(self.size() + 32))?)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BoxError> {
        Ok(postcard::from_bytes(bytes)?)
    }
}

pub(super) mod as_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    use crate::routing::Namespace;

    pub(in super::super) fn serialize<S: Serializer>(
        it: &Namespace,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(it.as_bytes())
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Namespace, D::Error> {
        Namespace::from_bytes(&bytes::Bytes::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    use crate::routing::Uri;

    pub(super) fn serialize<S: Serializer>(uri: &Uri, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(uri.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Uri, D::Error> {
        Uri::new(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
