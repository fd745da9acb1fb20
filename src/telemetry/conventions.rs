//! Metrics under the names of OpenTelemetry's conventions for messaging.

use std::sync::Arc;
use std::time::Duration;

/// Returns the value of `messaging.system` for a backend.
pub(crate) fn system(backend: &str) -> &str {
    match backend {
        "amqp091" | "fedmsg" => "rabbitmq",
        "amqp10" | "rhmsg" => "amqp",
        other => other,
    }
}

/// One send of a backend, with the kind of its failure. The names are those of OpenTelemetry's conventions.
pub(crate) fn operation(backend: &Arc<str>, messages: usize, failure: Option<&'static str>, took: Duration) {
    let system = || system(backend).to_owned();
    count!("messaging.client.sent.messages", messages, "messaging.operation.name" => "send", "messaging.system" => system());
    match failure {
        None => {
            time!("messaging.client.operation.duration", took, "messaging.operation.name" => "send", "messaging.system" => system())
        }
        Some(failure) => {
            time!("messaging.client.operation.duration", took, "messaging.operation.name" => "send", "messaging.system" => system(), "error.type" => failure)
        }
    }
}

/// An attempt to handle a message.
pub(crate) fn processed(consumer: &Arc<str>, system: &str, error: Option<&str>, took: Duration) {
    let (name, system) = (Arc::clone(consumer), system.to_owned());
    match error.map(str::to_owned) {
        None => {
            time!("messaging.process.duration", took, "messaging.operation.name" => "process", "messaging.system" => system, "messaging.consumer.group.name" => name)
        }
        Some(error) => {
            time!("messaging.process.duration", took, "messaging.operation.name" => "process", "messaging.system" => system, "messaging.consumer.group.name" => name, "error.type" => error)
        }
    }
}
