//! The exchange and the queues at RabbitMQ.

use super::findings::{CheckLevel, Findings};
use crate::backends::amqp091::inspect::{Condition, Inspected, inspect};
use crate::bus::amqp091_consumers;
use crate::settings::Settings;

/// Looks at a broker that responds. That one does not is found before.
pub(super) async fn check(settings: &Settings, findings: &mut Findings) {
    let Ok(Some((broker, consumers))) = amqp091_consumers(settings) else { return };
    for Inspected { consumer, condition, text } in inspect(&broker, &consumers).await.unwrap_or_default() {
        let level = match condition {
            Condition::Good => CheckLevel::Ok,
            Condition::Doubtful => CheckLevel::Warning,
            Condition::Bad => CheckLevel::Failed,
        };
        match consumer {
            Some(name) => findings.add(level, "CONSUMERS", format!("{}: {text}", name.to_uppercase())),
            None => findings.add(level, "EXCHANGE", text),
        }
    }
}
