//! The state of the broker and of the outbox, as JSON.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::timestamp;
use crate::messenger::Health;
use crate::outbox::{Breaker, OutboxStatus};
use crate::settings::DeliveryMode;
use crate::store::Instance;

/// The answer of the route `status`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    pub(crate) delivery: DeliveryMode,
    /// Whether the app runs; `None` when it was not asked.
    pub(crate) running: Option<bool>,
    /// `None` when the broker was not asked.
    pub(crate) health: Option<HealthReport>,
    /// The addresses of the brokers, without users and passwords.
    #[serde(default)]
    pub(crate) brokers: Vec<String>,
    /// The exchange, topic or address to which messages go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) goes_to: Option<String>,
    /// How many messages are being sent, or wait in the buffer; `None` when nothing counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) in_flight: Option<usize>,
    /// `None` when messages are not stored.
    pub(crate) outbox: Option<OutboxReport>,
    /// Why there is no outbox, and the cure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum HealthReport {
    Up,
    Down { reason: String },
}

impl From<Health> for HealthReport {
    fn from(health: Health) -> Self {
        match health {
            Health::Up => Self::Up,
            Health::Down { reason } => Self::Down { reason },
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OutboxReport {
    pub(crate) place: String,
    pub(crate) pending: u64,
    pub(crate) dead: u64,
    pub(crate) bytes: u64,
    /// When the oldest pending message was created.
    #[serde(with = "timestamp::optional")]
    pub(crate) oldest: Option<SystemTime>,
    pub(crate) oldest_age_seconds: Option<f64>,
    pub(crate) stored_per_second: f64,
    pub(crate) confirmed_per_second: f64,
    pub(crate) breaker: BreakerReport,
    pub(crate) last_error: Option<LastError>,
    /// How many messages were stored in each minute of the last hour, oldest first.
    #[serde(default)]
    pub(crate) stored_by_minute: Vec<u64>,
    /// How many messages were confirmed in each minute of the last hour, oldest first.
    #[serde(default)]
    pub(crate) confirmed_by_minute: Vec<u64>,
    /// The instances that send what is stored; none if the app is stopped.
    #[serde(default)]
    pub(crate) instances: Vec<InstanceReport>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct InstanceReport {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) name: Option<String>,
    /// The version of tower-outbox.
    #[serde(default)]
    pub(crate) version: Option<String>,
    /// When it opened the store.
    #[serde(default, with = "timestamp::optional")]
    pub(crate) since: Option<SystemTime>,
    #[serde(default)]
    pub(crate) heartbeat_age_seconds: Option<f64>,
    /// After this, others take its partitions, unless its next heartbeat comes before.
    pub(crate) expires_in_seconds: Option<f64>,
    /// It sends the messages of so many.
    pub(crate) partitions: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum BreakerReport {
    Closed,
    Open {
        #[serde(with = "timestamp")]
        since: SystemTime,
        #[serde(with = "timestamp")]
        next_probe: SystemTime,
    },
    HalfOpen,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LastError {
    #[serde(with = "timestamp")]
    pub(crate) at: SystemTime,
    pub(crate) error: String,
}

impl OutboxReport {
    pub(super) fn new(
        status: OutboxStatus,
        (stored, confirmed): (Vec<u64>, Vec<u64>),
        instances: Vec<Instance>,
    ) -> Self {
        let OutboxStatus {
            place, counts, stored_per_second, confirmed_per_second, breaker, last_error, ..
        } = status;
        let report = |instance: Instance| InstanceReport {
            id: instance.id,
            name: instance.name,
            version: instance.version,
            since: instance.since,
            heartbeat_age_seconds: instance.heartbeat_age.map(|age| age.as_secs_f64()),
            expires_in_seconds: instance.expires_in.map(|left| left.as_secs_f64()),
            partitions: instance.partitions,
        };
        let age = |since| SystemTime::now().duration_since(since).unwrap_or_default().as_secs_f64();
        Self {
            place,
            pending: counts.pending,
            dead: counts.dead,
            bytes: counts.bytes,
            oldest: counts.oldest,
            oldest_age_seconds: counts.oldest.map(age),
            stored_per_second,
            confirmed_per_second,
            breaker: match breaker {
                Breaker::Closed => BreakerReport::Closed,
                Breaker::Open { since, next_probe } => BreakerReport::Open { since, next_probe },
                Breaker::HalfOpen => BreakerReport::HalfOpen,
            },
            last_error: last_error.map(|(at, error)| LastError { at, error }),
            stored_by_minute: stored,
            confirmed_by_minute: confirmed,
            instances: instances.into_iter().map(report).collect(),
        }
    }
}
