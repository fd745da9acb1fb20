//! `tower-outbox show`.

use clap::Args;
use uuid::Uuid;

use super::context::Context;
use super::error::CliError;
use super::output::{ago, aligned, harmless};
use super::target::Target;
use crate::admin::{StoredMessage, format_time};

/// Show one message: why it is still stored, failed attempts, headers, body
#[derive(Args)]
pub(super) struct Show {
    /// The id of the message
    id: Uuid,
}

impl Show {
    pub(super) fn run(&self, context: &Context) -> Result<(), CliError> {
        let message: StoredMessage = Target::of(context)?.get(&["messages", &self.id.to_string()], &[])?;
        print(context, &message)
    }
}

/// Prints a whole message.
pub(super) fn print(context: &Context, message: &StoredMessage) -> Result<(), CliError> {
    if context.output.json {
        return context.output.document(message);
    }
    aligned(&rows(message)).iter().try_for_each(|line| context.output.line(line))?;
    if !message.failures.is_empty() {
        context.output.line("\nfailed attempts")?;
    }
    for failure in &message.failures {
        context.output.line(format!("  {}  {}", format_time(failure.at), harmless(&failure.reason)))?;
    }
    if !message.headers.is_empty() {
        context.output.line("\nheaders")?;
    }
    let headers = message.headers.iter().map(|(name, value)| {
        let value = serde_json::to_string(value).unwrap_or_default();
        [format!("  {}", harmless(name)), harmless(&value)]
    });
    aligned(&headers.collect::<Vec<_>>()).iter().try_for_each(|line| context.output.line(line))?;
    let json = message.body.as_ref().map(|body| body.get());
    let text = json.or(message.body_text.as_deref());
    if let Some(text) = text {
        context.output.line(format!("\nbody\n{}", harmless(text)))?;
    } else if let Some(base64) = &message.body_base64 {
        context.output.line(format!("\nbody, in Base64\n{base64}"))?;
    }
    Ok(())
}

fn rows(message: &StoredMessage) -> Vec<[String; 2]> {
    let time = |time| format!("{} ({})", format_time(time), ago(time));
    let span = |span| humantime::format_duration(span).to_string();
    let values = [
        ("id", message.id.map(|id| id.to_string())),
        ("topic", message.topic.clone()),
        ("key", message.key.clone()),
        ("state", message.state.map(|state| state.to_string())),
        ("why", message.explain.clone()),
        ("next attempt", message.next_attempt.map(time)),
        ("attempts failed", message.attempts.map(|attempts| attempts.to_string())),
        ("created", message.time.map(time)),
        ("priority", message.priority.map(|priority| priority.to_string())),
        ("expiry", message.expiry.map(span)),
        ("delay", message.delay.map(span)),
        ("content type", message.content_type.clone()),
        ("body bytes", message.body_bytes.map(|bytes| bytes.to_string())),
        ("position", message.position.map(|position| position.to_string())),
    ];
    let present = values.into_iter().filter_map(|(name, value)| value.map(|value| (name, value)));
    present.map(|(name, value)| [name.to_owned(), harmless(&value)]).collect()
}
