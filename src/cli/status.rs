//! `tower-outbox status`.

use std::time::Duration;

use clap::Args;

use super::context::Context;
use super::error::CliError;
use super::output::{ago, aligned, count, harmless, span};
use super::queue;
use super::target::Target;
use crate::admin::{BreakerReport, HealthReport, OutboxReport, StatusReport};

/// Show the state of the broker and of the outbox: depth, oldest age, rates, breaker, last error
#[derive(Args)]
pub(super) struct Status {}

impl Status {
    #[allow(clippy::unused_self, reason = "as every command")]
    pub(super) fn run(&self, context: &Context) -> Result<(), CliError> {
        let status: StatusReport = Target::of(context)?.get(&["status"], &[])?;
        if context.output.json {
            return context.output.document(&status);
        }
        for line in aligned(&rows(&status)) {
            context.output.line(line)?;
        }
        queue::note_dead_letters(context);
        Ok(())
    }
}

fn rows(status: &StatusReport) -> Vec<[String; 2]> {
    let app = match &status.health {
        _ if status.running == Some(false) => "stopped".to_owned(),
        _ if status.running.is_none() => "not asked; --url asks a running app".to_owned(),
        None => "running".to_owned(),
        Some(HealthReport::Up) => "running; the broker is up".to_owned(),
        Some(HealthReport::Down { reason }) => format!("running; the broker is down: {}", harmless(reason)),
    };
    let mut rows = vec![["app", &app], ["delivery", &status.delivery.to_string()]]
        .into_iter()
        .map(|row| row.map(str::to_owned))
        .collect::<Vec<_>>();
    if let Some(note) = &status.note {
        rows.push(["outbox".to_owned(), note.clone()]);
    }
    if let Some(outbox) = &status.outbox {
        rows.extend(
            outbox_rows(outbox, status.running == Some(true)).map(|(name, value)| [name.to_owned(), value]),
        );
    }
    rows
}

fn outbox_rows(outbox: &OutboxReport, running: bool) -> impl Iterator<Item = (&'static str, String)> {
    let oldest = match (outbox.oldest, outbox.oldest_age_seconds) {
        (Some(_), Some(age)) => {
            format!(", the oldest created {} ago", span(Duration::try_from_secs_f64(age).unwrap_or_default()))
        }
        _ => String::new(),
    };
    let rates = format!(
        "{:.1} stored and {:.1} confirmed a second, over the last minute",
        outbox.stored_per_second, outbox.confirmed_per_second
    );
    let breaker = match &outbox.breaker {
        BreakerReport::Closed => "closed: messages are sent".to_owned(),
        BreakerReport::Open { since, next_probe } => {
            format!(
                "open since {}: no message is sent; next probe of the broker {}",
                ago(*since),
                ago(*next_probe)
            )
        }
        BreakerReport::HalfOpen => "half open: one message is sent first".to_owned(),
    };
    let last_error = match &outbox.last_error {
        None => "none".to_owned(),
        Some(last) => format!("{}: {}", ago(last.at), harmless(&last.error)),
    };
    let stored = [
        ("outbox", harmless(&outbox.place)),
        ("pending", count(outbox.pending, "message") + &oldest),
        ("dead", count(outbox.dead, "message")),
        ("size", bytesize::ByteSize::b(outbox.bytes).to_string()),
    ];
    let relayed = [("rates", rates), ("breaker", breaker), ("last error", last_error)];
    // Only the app knows its relay.
    stored.into_iter().chain(relayed.into_iter().filter(move |_| running))
}
