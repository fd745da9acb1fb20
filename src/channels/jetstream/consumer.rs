//! The consumer of a subscription.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::wire;
use crate::channels::error::EngineError;
use crate::channels::stream_types::Start;
use crate::util::rfc3339;

/// After which time without a subscriber a place in a stream that has no durable name is forgotten.
const INACTIVE: Duration = Duration::from_secs(5 * 60);

/// The consumer of a subscription.
#[derive(Clone, Debug)]
pub(super) struct Consumer {
    pub(super) name: String,
    pub(super) is_durable: bool,
    /// Whether it is used by one subscription only, and deleted with it.
    pub(super) is_own: bool,
    /// Whether several subscriptions may use it at once.
    pub(super) is_group: bool,
}

impl Consumer {
    /// The config of a consumer that begins at this message.
    pub(super) fn config(&self, stream: &str, start: Start, ack_wait: u64) -> Result<Value, EngineError> {
        let mut config = json!({
            "name": self.name,
            "ack_policy": "explicit",
            "ack_wait": ack_wait,
            "max_deliver": -1,
            "max_ack_pending": -1,
            "max_waiting": 10_000,
        });
        if self.is_durable {
            config["durable_name"] = self.name.as_str().into();
        } else {
            config["inactive_threshold"] = wire::nanos(INACTIVE).into();
        }
        let mut by_time = |time: SystemTime| {
            let text = rfc3339::write(time).map_err(|error| EngineError::Invalid(error.to_string()))?;
            config["opt_start_time"] = text.into();
            Ok::<_, EngineError>("by_start_time")
        };
        let policy = match start {
            Start::NewOnly => "new",
            Start::First => "all",
            Start::Last => "last",
            Start::Time(time) => by_time(time)?,
            Start::Ago(ago) => by_time(SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH))?,
            Start::Sequence(sequence) => {
                config["opt_start_seq"] = sequence.max(1).into();
                "by_start_sequence"
            }
        };
        config["deliver_policy"] = policy.into();
        Ok(json!({"stream_name": stream, "config": config}))
    }
}
