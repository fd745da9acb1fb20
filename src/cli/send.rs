//! `tower-outbox send`.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use uuid::Uuid;

use super::filter::duration;
use super::target::Target;
use super::{Context, Failure};
use crate::admin::{Appended, Header, StoredMessage};
use crate::bus::Bus;
use crate::message::{Message, MessageError, Scalar};
use crate::settings::{DeliveryMode, Settings};
use crate::util::error::Chain;

/// How long closing the connection to the broker may take.
const CLOSE: Duration = Duration::from_secs(5);

/// Send one message, and print its id
#[derive(Args)]
#[command(
    after_help = "With --url, or with DELIVERY = \"durable\", it is stored, and leaves when the app sends it. \
    Otherwise it is sent now, and waits for the broker's confirm."
)]
pub(super) struct Send {
    /// The topic, as user.created
    topic: String,
    /// The body; - is stdin
    #[arg(required_unless_present = "file", conflicts_with = "file", allow_negative_numbers = true)]
    body: Option<String>,
    /// Take the body from this file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The media type of the body; by default JSON if the body is that, else text or bytes
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// The ordering key: messages of one topic and key keep their order
    #[arg(long)]
    key: Option<String>,
    /// A header, a text; NAME:=VALUE is a JSON scalar, as retries:=3; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, Header)>,
    /// The id; a new one by default
    #[arg(long)]
    id: Option<Uuid>,
    /// Higher leaves first, as far as the bus knows priorities
    #[arg(long)]
    priority: Option<u8>,
    /// Hold it back so long: 30s, 1h, or seconds
    #[arg(long, value_name = "TIME", value_parser = duration)]
    delay: Option<Duration>,
    /// How long it is worth delivering: 30s, 1h, or seconds
    #[arg(long, value_name = "TIME", value_parser = duration)]
    expiry: Option<Duration>,
}

fn header(text: &str) -> Result<(String, Header), String> {
    let (name, value) = text.split_once('=').ok_or("it has no =; write NAME=VALUE")?;
    let (name, value) = match name.strip_suffix(':') {
        Some(name) => {
            let json: &serde_json::value::RawValue =
                serde_json::from_str(value).map_err(|error| format!("{value} is not JSON: {error}"))?;
            (name, Header::parse(json.get()).map_err(|error| error.to_string())?)
        }
        None => (name, Header(Scalar::from(value.to_owned()))),
    };
    if name.is_empty() {
        return Err("it has no name; write NAME=VALUE".to_owned());
    }
    Ok((name.to_owned(), value))
}

impl Send {
    pub(super) fn run(&self, context: &Context) -> Result<(), Failure> {
        let message = self.message()?;
        if let Some(app) = context.running() {
            return store(context, &app, &message);
        }
        let settings = context.settings()?;
        match settings.delivery {
            DeliveryMode::Durable | DeliveryMode::Transactional => {
                store(context, &Target::stopped(&settings, true, context.runtime.handle())?, &message)
            }
            _ => send(context, &settings, message),
        }
    }

    fn message(&self) -> Result<Message, Failure> {
        let body = self.body()?;
        let content_type = self.content_type.clone().unwrap_or_else(|| content_type(&body).to_owned());
        let fault = |error: MessageError| Failure::error(&error);
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

    fn body(&self) -> Result<Vec<u8>, Failure> {
        match (&self.file, self.body.as_deref()) {
            (Some(path), _) => std::fs::read(path)
                .map_err(|error| Failure::failed(format!("cannot read {}: {error}", path.display()))),
            (None, Some("-")) => {
                let mut body = Vec::new();
                let read = io::stdin().lock().read_to_end(&mut body);
                read.map_err(|error| Failure::failed(format!("cannot read stdin: {error}")))?;
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

/// Puts it into the outbox.
fn store(context: &Context, target: &Target, message: &Message) -> Result<(), Failure> {
    let body = serde_json::to_vec(&StoredMessage::new(message)).map_err(|error| Failure::error(&error))?;
    let Appended { ids } = target.post("messages", body)?;
    let then = if target.is_running() { "it leaves in its turn" } else { "it leaves when the app runs" };
    ids.iter().try_for_each(|id| say(context, id, "stored", then))
}

/// Sends it over the bus, and waits for the confirm.
fn send(context: &Context, settings: &Settings, message: Message) -> Result<(), Failure> {
    let id = message.id();
    context.runtime.block_on(async {
        let (bus, _) = Bus::builder(settings).messenger().await.map_err(|error| Failure::error(&error))?;
        bus.check(&message).map_err(|error| Failure::failed(Chain(&*error)))?;
        let sent = Arc::clone(&bus).send(vec![message]).await;
        bus.close(CLOSE).await;
        sent.map_err(|unsent| {
            let failure = unsent.iter().next().map(|(_, failure)| failure.to_string());
            Failure::failed(failure.unwrap_or_else(|| unsent.to_string()))
        })
    })?;
    let then = match settings.backend.as_str() {
        "dummy" => "BACKEND is \"dummy\": it went nowhere",
        _ => "the bus has confirmed it",
    };
    say(context, &id, "sent", then)
}

fn say(context: &Context, id: &Uuid, outcome: &str, then: &str) -> Result<(), Failure> {
    if context.output.json {
        return context.output.document(&json!({"id": id, "outcome": outcome}));
    }
    context.output.note(format!("{outcome}: {then}"));
    context.output.line(id)
}
