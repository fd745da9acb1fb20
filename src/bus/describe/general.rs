//! The facts that do not depend on the backend.

use std::time::Duration;

use super::facts::Facts;
use crate::consumer::ConsumerSettings;
use crate::layer::OnSendFailure;
use crate::settings::{ClientTable, DeliveryMode, Settings, SuccessStatus};

/// A duration for people to read.
pub(super) fn time(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

pub(super) fn sending(settings: &Settings, of_backend: Facts) -> Facts {
    let mut facts = Facts::new();
    let statuses = match settings.success {
        SuccessStatus::Successful => "2xx",
        _ => "2xx and 3xx",
    };
    facts.insert(
        "sends",
        format!("the messages of requests that are answered {statuses}, and drops those of others"),
    );
    facts.insert("delivery", format!("{}: {}", settings.delivery, delivery(settings.delivery)));
    facts.extend(of_backend);
    facts.insert(
        "sending fails",
        match settings.on_send_failure {
            OnSendFailure::Reject => "the client gets 503 with Retry-After".to_owned(),
            _ => {
                "is logged, and the client gets the response of the handler: messages may be lost".to_owned()
            }
        },
    );
    if settings.acknowledged {
        facts.insert(
            "acknowledged",
            "a message leaves the outbox when its consumer has confirmed it".to_owned(),
        );
    }
    facts
}

fn delivery(mode: DeliveryMode) -> &'static str {
    match mode {
        DeliveryMode::Direct => "the response waits for the confirm of the broker",
        DeliveryMode::Background => "the response does not wait; messages are sent from memory",
        DeliveryMode::Durable => "the response waits until the messages are on the local disk",
        DeliveryMode::Transactional => "the response waits for the COMMIT of rows and messages together",
    }
}

pub(super) fn survives(settings: &Settings) -> Facts {
    let [outage, crash, rows] = match settings.delivery {
        DeliveryMode::Direct => ["no: the client gets 503", "yes, once it is confirmed", "no"],
        DeliveryMode::Background => ["while the app runs and its buffer has space", "no", "no"],
        DeliveryMode::Durable => {
            ["yes", "yes, with the folder of the outbox", "no: commit first, then respond"]
        }
        DeliveryMode::Transactional => ["yes", "yes", "yes"],
    };
    let mut facts = Facts::new();
    facts.insert("an outage of the broker", outage.to_owned());
    facts.insert("a crash of the app", crash.to_owned());
    facts.insert(
        "a rollback of the app's rows",
        match rows {
            "yes" => "no message of a rolled-back transaction leaves".to_owned(),
            other => format!("not atomic with rows ({other})"),
        },
    );
    facts
}

pub(super) fn outbox(settings: &Settings) -> Facts {
    let outbox = &settings.outbox;
    let mut facts = Facts::new();
    match settings.delivery {
        DeliveryMode::Durable => facts.insert("folder", outbox.path.display().to_string()),
        DeliveryMode::Transactional => {
            facts.insert("tables", format!("{} in the database of the app", outbox.schema));
            let relay = if outbox.relay { "in this process too" } else { "in other processes only" };
            facts.insert("relay", relay.to_owned())
        }
        _ => return facts,
    };
    let size = bytesize::ByteSize::b(outbox.max_bytes);
    facts.insert(
        "holds",
        format!("at most {} messages and {size}; when it is full requests get 503", outbox.max_messages),
    );
    facts.insert(
        "retries",
        format!(
            "{} attempts, at most {} apart; then a dead letter in the outbox",
            outbox.max_attempts,
            time(outbox.max_backoff)
        ),
    );
    if let Some(expiry) = outbox.expiry {
        facts.insert("expiry", time(expiry));
    }
    facts
}

pub(super) fn consumer(settings: &ConsumerSettings, facts: &mut Facts) {
    facts.insert("handler", "POST and the topic as a path: order.created is /order/created".to_owned());
    facts.insert(
        "at a time",
        format!("{} messages, each for at most {}", settings.concurrency, time(settings.timeout)),
    );
    facts.insert(
        "retries",
        format!(
            "{} attempts, at most {} apart, unless the handler sends Retry-After",
            settings.max_attempts,
            time(settings.max_backoff)
        ),
    );
}

pub(super) fn client(table: &ClientTable) -> Facts {
    Facts::from_iter([("timeout", time(table.settings.timeout))])
}
