//! Durable names in use: each is a message that expires unless this engine writes it again.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use serde_json::{Value, json};

use super::error::Fault;
use super::leases::Own;
use super::message::new_word;
use super::parts::EngineParts;
use crate::util::sync::lock;

/// How long a name is in use after the last sign of its engine.
const LEASE: Duration = Duration::from_secs(30);

/// A name in use. Dropping it frees the name.
pub(super) struct Lease {
    shared: Arc<EngineParts>,
    subject: String,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(own) = lock(&self.shared.leases.own).get_mut(&self.subject) {
            own.is_used = false;
        }
        let (shared, subject) = (Arc::clone(&self.shared), std::mem::take(&mut self.subject));
        self.shared.spawn(async move { shared.free(&subject).await });
    }
}

impl EngineParts {
    /// Takes a name; `None` if it is in use.
    pub(super) async fn lease(self: &Arc<Self>, stream: &str, name: &str) -> Result<Option<Lease>, Fault> {
        let subject = self.subject(&format!("lease.{stream}.{name}"));
        let lease = || Some(Lease { shared: Arc::clone(self), subject: subject.clone() });
        let _changing = self.leases.changing.lock().await;
        if let Some(own) = lock(&self.leases.own).get_mut(&subject) {
            let is_free = !std::mem::replace(&mut own.is_used, true);
            return Ok(if is_free { lease() } else { None });
        }
        match self.write_lease(&subject, 0).await {
            Ok(sequence) => {
                lock(&self.leases.own).insert(subject.clone(), Own { sequence, is_used: true });
                Ok(lease())
            }
            Err(fault) if fault.is_outdated() => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    async fn write_lease(&self, subject: &str, expected: u64) -> Result<u64, Fault> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", new_word().as_str());
        headers.insert("Nats-TTL", format!("{}s", LEASE.as_secs()).as_str());
        headers.insert("Nats-Expected-Last-Subject-Sequence", expected.to_string().as_str());
        Ok(self.store_own(&self.names(), subject, headers, Bytes::new()).await?.seq)
    }

    /// Writes all names in use again.
    pub(super) async fn renew_leases(&self) {
        let _changing = self.leases.changing.lock().await;
        let known: Vec<(String, u64)> =
            lock(&self.leases.own).iter().map(|(subject, own)| (subject.clone(), own.sequence)).collect();
        for (subject, sequence) in known {
            let renewed = match self.write_lease(&subject, sequence).await {
                // It has expired.
                Err(fault) if fault.is_outdated() => self.write_lease(&subject, 0).await,
                renewed => renewed,
            };
            match renewed {
                Ok(sequence) => {
                    if let Some(own) = lock(&self.leases.own).get_mut(&subject) {
                        own.sequence = sequence;
                    }
                }
                Err(fault) => tracing::warn!(
                    name = subject,
                    ?fault,
                    "failed to renew a durable name; another engine may use it meanwhile, and both get a part of its messages"
                ),
            }
        }
    }

    async fn free(&self, subject: &str) {
        let _changing = self.leases.changing.lock().await;
        {
            let mut own = lock(&self.leases.own);
            // Somebody here may have taken it again.
            if own.get(subject).is_none_or(|own| own.is_used) {
                return;
            }
            own.remove(subject);
        }
        let purge = format!("STREAM.PURGE.{}", self.names());
        // Without an answer it expires.
        let _ = self.connection.api::<Value>(&purge, &json!({"filter": subject})).await;
    }
}
