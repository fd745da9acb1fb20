//! The limits of numbers in settings. Beyond them the process would stall or run out of memory.

use std::fmt::Debug;
use std::time::Duration;

use super::acknowledging::AckSettings;
use super::delivery_mode::DeliveryMode;
use super::error::SettingsError;
use super::outbox::OutboxSettings;
use super::request::RequestSettings;
use crate::background::BackgroundSettings;
#[cfg(feature = "chaos")]
use crate::chaos::ChaosSettings;
use crate::client::ClientSettings;
use crate::consumer::ConsumerSettings;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn request(request: &RequestSettings) -> Result<(), SettingsError> {
    within("REQUEST.MAX_MESSAGES", request.max_messages, 1..=usize::MAX)?;
    within("REQUEST.MAX_BYTES", request.max_bytes, 1..=usize::MAX)?;
    within("REQUEST.MAX_MESSAGES_IN_FLIGHT", request.max_messages_in_flight, 1..=usize::MAX)?;
    within("REQUEST.MAX_BYTES_IN_FLIGHT", request.max_bytes_in_flight, 1..=usize::MAX)
}

pub(super) fn background(background: &BackgroundSettings) -> Result<(), SettingsError> {
    within("BACKGROUND.MAX_MESSAGES", background.max_messages, 1..=u32::MAX)?;
    within("BACKGROUND.MAX_BYTES", background.max_bytes, 1..=u32::MAX)
}

pub(super) fn acknowledging(
    acknowledged: bool,
    delivery: DeliveryMode,
    ack: &AckSettings,
) -> Result<(), SettingsError> {
    if acknowledged && matches!(delivery, DeliveryMode::Direct | DeliveryMode::Background) {
        return Err(SettingsError::value(format!(
            "ACKNOWLEDGED needs an outbox, and DELIVERY is \"{delivery}\": write \"durable\" or \"transactional\""
        )));
    }
    within("ACK_TIMEOUT", ack.timeout, Duration::from_millis(1)..=DAY)
}

#[cfg(feature = "chaos")]
pub(super) fn chaos(chaos: &ChaosSettings) -> Result<(), SettingsError> {
    within("CHAOS.NACKED", chaos.nacked, 0.0..=1.0)?;
    within("CHAOS.FAILED", chaos.failed, 0.0..=1.0)
}

pub(super) fn outbox(outbox: &OutboxSettings) -> Result<(), SettingsError> {
    if outbox.path.as_os_str().is_empty() {
        return Err(SettingsError::value("OUTBOX.PATH is empty: write the path of a folder"));
    }
    within("OUTBOX.MAX_CONNECTIONS", outbox.max_connections, 1..=10_000)?;
    within("OUTBOX.MAX_MESSAGES", outbox.max_messages, 1..=u64::MAX)?;
    within("OUTBOX.MAX_BYTES", outbox.max_bytes, 1..=u64::MAX)?;
    within("OUTBOX.MAX_ATTEMPTS", outbox.max_attempts, 1..=u32::MAX)?;
    within("OUTBOX.WINDOW", outbox.window, 1..=1_000_000)?;
    within("OUTBOX.LEASE", outbox.lease, Duration::from_millis(100)..=DAY)?;
    within("OUTBOX.INBOX_RETENTION", outbox.inbox_retention, Duration::from_secs(1)..=Duration::MAX)?;
    if outbox.expiry.is_some_and(|expiry| expiry.is_zero()) {
        return Err(SettingsError::value("OUTBOX.EXPIRY is 0: every message would expire; leave it out"));
    }
    Ok(())
}

pub(super) fn consumer(name: &str, settings: &ConsumerSettings) -> Result<(), SettingsError> {
    let name = name.to_uppercase();
    let key = |key: &str| format!("CONSUMERS.{name}.{key}");
    within(&key("CONCURRENCY"), settings.concurrency, 1..=1_000_000)?;
    within(&key("MAX_ATTEMPTS"), settings.max_attempts, 1..=u32::MAX)?;
    within(&key("MAX_BYTES"), settings.max_bytes, 1..=usize::MAX)?;
    within(&key("TIMEOUT"), settings.timeout, Duration::from_millis(1)..=Duration::MAX)
}

pub(super) fn client(name: &str, settings: &ClientSettings) -> Result<(), SettingsError> {
    let name = name.to_uppercase();
    let key = |key: &str| format!("CLIENTS.{name}.{key}");
    within(&key("MAX_BYTES"), settings.max_bytes, 1..=usize::MAX)?;
    within(&key("TIMEOUT"), settings.timeout, Duration::from_millis(1)..=Duration::MAX)
}

fn within<T: PartialOrd + Debug + Copy>(
    key: &str,
    value: T,
    range: std::ops::RangeInclusive<T>,
) -> Result<(), SettingsError> {
    if range.contains(&value) {
        return Ok(());
    }
    let (least, most) = range.into_inner();
    let bound = if value < least { format!("{least:?} or more") } else { format!("{most:?} or less") };
    Err(SettingsError::value(format!("{key} is {value:?}: write {bound}")))
}
