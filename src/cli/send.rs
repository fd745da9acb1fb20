//! `tower-outbox send`.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use uuid::Uuid;

use super::context::Context;
use super::error::CliError;
use super::filter::duration;
use super::target::Target;
use crate::admin::{Appended, Header, StoredMessage};
use crate::message::{Message, MessageError, Scalar};
use crate::settings::{DeliveryMode, Settings};
use crate::util::error::Chain;

/// How long closing the connection to the broker may take.
const CLOSE: Duration = Duration::from_secs(5);

/// Send one message, and print its id
#[derive(Args)]
#[command(
    after_help = "With --url, or with DELIVERY = \"durable\" or \"transactional\", the message is stored, and the app sends it. \
    Otherwise it is sent now; the command waits for the broker's confirm."
)]
pub(super) struct Send {
    /// The topic, such as user.created
    topic: String,
    /// The body; - reads stdin
    #[arg(required_unless_present = "file", conflicts_with = "file", allow_negative_numbers = true)]
    body: Option<String>,
    /// Read the body from this file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The media type of the body; by default JSON, text or bytes, by its content
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// The ordering key: messages of one topic and key keep their order
    #[arg(long)]
    key: Option<String>,
    /// A header with a text; NAME:=VALUE takes a JSON scalar, such as retries:=3; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, Header)>,
    /// The id; a new one by default
    #[arg(long)]
    id: Option<Uuid>,
    /// The priority; higher is sent first, if the broker supports priorities
    #[arg(long)]
    priority: Option<u8>,
    /// Send the message only after this time: 30s, 1h, or seconds
    #[arg(long, value_name = "TIME", value_parser = duration)]
    delay: Option<Duration>,
    /// Do not deliver the message after this time: 30s, 1h, or seconds
    #[arg(long, value_name = "TIME", value_parser = duration)]
    expiry: Option<Duration>,
}

fn header(text: &str) -> Result<(String, Header), String> {
    let (name, value) = text.split_once('=').ok_or("no =; write NAME=VALUE")?;
    let (name, value) = match name.strip_suffix(':') {
        Some(name) => {
            let json: &serde_json::value::RawValue =
                serde_json::from_str(value).map_err(|error| format!("{value} is not JSON: {error}"))?;
            (name, Header::parse(json.get()).map_err(|error| error.to_string())?)
        }
        None => (name, Header(Scalar::from(value.to_owned()))),
    };
    if name.is_empty() {
        return Err("no name; write NAME=VALUE".to_owned());
    }
    Ok((name.to_owned(), value))
}

impl Send {
    pub(super) fn run(&self, context: &Context) -> Result<(), CliError> {
        let message = self.message()?;
        if let Some(app) = Target::app(context) {
            return store(context, &app, &message);
        }
        let settings = context.settings()?;
        match settings.delivery {
            DeliveryMode::Durable | DeliveryMode::Transactional => {
                store(context, &Target::stopped(context, &settings, true)?, &message)
            }
            _ => send(context, &settings, message),
        }
    }

    fn message(&self) -> Result<Message, CliError> {
        let body = self.body()?;
        let content_type = self.content_type.clone().unwrap_or_else(|| content_type(&body).to_owned());
        let fault = |error: MessageError| CliError::error(&error);
        let mut message =
            Message::new(self.topic.clone(), body).map_err(fault)?.with_content_type(content_type);
        for (name, Header(value)) in &self.header {
            message.set_header(name.clone(), value.clone());
        }
        if let Some(id) = self.id {
            message = message.with_id(id);
        }
        if let Some(key) = &self.key {
            message = message.with_key(key);
        }
        if let Some(priority) = self.priority {
            message = message.with_priority(priority);
        }
        if let Some(delay) = self.delay {
            message = message.with_delay(delay);
        }
        if let Some(expiry) = self.expiry {
            message = message.with_expiry(expiry);
        }
        Ok(message)
    }

    fn body(&self) -> Result<Vec<u8>, CliError> {
        match (&self.file, self.body.as_deref()) {
            (Some(path), _) => std::fs::read(path)
                .map_err(|error| CliError::failed(format!("cannot read {}: {error}", path.display()))),
            (None, Some("-")) => {
                let mut body = Vec::new();
                let read = io::stdin().lock().read_to_end(&mut body);
                read.map_err(|error| CliError::failed(format!("cannot read stdin: {error}")))?;
                Ok(body)
            }
            (None, body) => Ok(body.unwrap_or_default().as_bytes().to_vec()),
        }
    }
}

fn content_type(body: &[u8]) -> &'static str {
    if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() {
        return "application/json";
    }
    match std::str::from_utf8(body) {
        Ok(_) => "text/plain; charset=utf-8",
        Err(_) => "application/octet-stream",
    }
}

/// Stores the message in the outbox.
fn store(context: &Context, target: &Target, message: &Message) -> Result<(), CliError> {
    let body = serde_json::to_vec(&StoredMessage::new(message)).map_err(|error| CliError::error(&error))?;
    let Appended { ids } = target.post("messages", body)?;
    let then =
        if target.is_running() { "the app sends it in its turn" } else { "the app sends it when it runs" };
    ids.iter().try_for_each(|id| report(context, id, "stored", then))
}

/// Sends the message, and waits for the confirm.
fn send(context: &Context, settings: &Settings, message: Message) -> Result<(), CliError> {
    let id = message.id();
    context.runtime.block_on(async {
        let (bus, _) =
            context.builder(settings).messenger().await.map_err(|error| CliError::error(&error))?;
        bus.check(&message).map_err(|error| CliError::failed(Chain(&*error)))?;
        let sent = Arc::clone(&bus).send(vec![message]).await;
        bus.close(CLOSE).await;
        sent.map_err(|unsent| {
            let failure = unsent.iter().next().map(|(_, failure)| failure.to_string());
            CliError::failed(failure.unwrap_or_else(|| unsent.to_string()))
        })
    })?;
    let then = match settings.backend.as_str() {
        "dummy" => "BACKEND is \"dummy\"; no message was sent",
        _ => "the broker has confirmed it",
    };
    report(context, &id, "sent", then)
}

fn report(context: &Context, id: &Uuid, outcome: &str, then: &str) -> Result<(), CliError> {
    if context.output.json {
        return context.output.document(&json!({"id": id, "outcome": outcome}));
    }
    context.output.note(format!("{outcome}: {then}"));
    context.output.line(id)
}
