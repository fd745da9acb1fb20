//! The keys `ACK_*`: acknowledgement from end to end.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::acknowledging::{AckAddress, AllowedAddresses};

/// The keys `ACK_TIMEOUT`, `ACK_ADDRESS` and `ACK_ALLOWED`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AckSettings {
    /// How long the confirmation of a message may take before it is sent again; 5 seconds by default.
    pub timeout: Duration,
    /// The address at which this instance awaits confirmations; by default a name made of the program's and of a number for this
    /// instance: `orders-5f3a1c2e/ack` for MQTT, `orders-5f3a1c2e.ack` for other brokers.
    pub address: Option<AckAddress>,
    /// The addresses that consumers of this bus may send confirmations to; `*/ack` by default. Empty: they confirm nothing.
    pub allowed: AllowedAddresses,
}

impl Default for AckSettings {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(5), address: None, allowed: AllowedAddresses::default() }
    }
}

pub(super) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<AckAddress>, D::Error> {
    let address = AckAddress::new(String::deserialize(deserializer)?);
    address.map(Some).map_err(|error| serde::de::Error::custom(format!("ACK_ADDRESS: {error}")))
}

pub(super) fn allowed<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<AllowedAddresses>, D::Error> {
    crate::util::units::one_or_many(deserializer).map(AllowedAddresses::new).map(Some)
}
