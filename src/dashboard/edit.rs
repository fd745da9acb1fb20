//! Edit and requeue: a new message that names its origin.

use axum::extract::RawQuery;
use axum::response::Html;
use bytes::Bytes;
use maud::html;
use serde_json::{Value, json};

use super::api::Api;
use super::error::PageError;
use super::fields::Fields;
use super::message::{position, read};
use super::text::visible;
use crate::admin::{Acted, Appended, StoredMessage};
use crate::message::Message;

/// The header that names the message from which another was made.
const EDITED_FROM: &str = "edited_from";

/// The largest body that is edited.
const EDITABLE: usize = 256 << 10;

pub(super) async fn form(api: Api, RawQuery(query): RawQuery) -> Result<Html<String>, PageError> {
    let position = position(&Fields::parse(query.unwrap_or_default().as_bytes()))?;
    let message = editable(read(&api, position).await?)?;
    let body = String::from_utf8_lossy(message.body());
    let content = html! {
        p.note {
            "A new message with its own id is stored and sent. Its headers are those of " span.id { (message.id()) }
            ", and the header " code { (EDITED_FROM) } " names that message."
        }
        form method="post" action="edit" {
            input type="hidden" name="position" value=(position);
            input type="hidden" name="id" value=(message.id());
            div.row {
                label { "Topic" input name="topic" value=(message.topic()) required spellcheck="false"; }
                label { "Key" input name="key" value=(message.key().unwrap_or_default()) spellcheck="false"; }
                label { "Content type" input name="content_type" value=(message.content_type()) spellcheck="false"; }
            }
            // A browser drops the first line end.
            label { "Body" textarea name="body" rows="16" cols="80" spellcheck="false" { "\n" (body) } }
            div.row { label.check { input type="checkbox" name="drop" value="yes" checked; "Drop the original once the new message is stored" } }
            button.main type="submit" { "Store the new message" }
            " " a.button href=(format!("message?position={position}")) { "Cancel" }
        }
    };
    Ok(api.page("Edit and requeue", "messages").render(&content))
}

pub(super) async fn store(api: Api, body: Bytes) -> Result<Html<String>, PageError> {
    let fields = Fields::parse(&body);
    let position = position(&fields)?;
    let stored = read(&api, position).await?;
    let wanted = fields.get("id");
    if stored.id.map(|id| id.to_string()).as_deref() != wanted {
        return Err(PageError::not_found("the original is not stored any more"));
    }
    let original = editable(stored)?;
    let new = edited(&original, &fields)?;
    let Appended { ids } = api.post("/messages", &new).await?;
    let dropped = match fields.get("drop") {
        Some(_) => {
            let drop = json!({"positions": [position], "dry_run": false});
            api.post::<Acted>("/drop", &drop).await?.messages > 0
        }
        None => false,
    };
    let id = ids.first().map(ToString::to_string).unwrap_or_default();
    let content = html! {
        p.note.good role="status" { "The new message " span.id { (visible(&id)) } " is stored." }
        p {
            @if dropped { "The original is dropped. " } @else { "The original stays stored. " }
            a.button href=(format!("messages?id={id}")) { "The new message, until it is sent" }
        }
    };
    Ok(api.page("Stored a new message", "messages").render(&content))
}

/// Returns the message, if a form can hold it.
fn editable(stored: StoredMessage) -> Result<Message, PageError> {
    let message = stored.into_message().map_err(|error| PageError::not_found(error.to_string()))?;
    if message.body().len() > EDITABLE || std::str::from_utf8(message.body()).is_err() {
        return Err(PageError::bad_request(
            "this body cannot be edited here: it is no text, or it is larger than 256 KiB",
        ));
    }
    Ok(message)
}

/// The new message, as the JSON API takes it.
fn edited(original: &Message, fields: &Fields) -> Result<Value, PageError> {
    // A browser sends every line end as CR LF.
    let body = fields.raw("body").unwrap_or_default().replace("\r\n", "\n");
    let old = std::str::from_utf8(original.body()).unwrap_or_default();
    let body = if old.replace("\r\n", "\n") == body { old.to_owned() } else { body };
    let shown = serde_json::to_value(StoredMessage::new(original));
    let mut new = shown.map_err(|error| PageError::bad_request(error.to_string()))?;
    if let Some(new) = new.as_object_mut() {
        for gone in [
            "id",
            "time",
            "position",
            "state",
            "body",
            "body_base64",
            "body_bytes",
            "key",
            "attempts",
            "failures",
            "explain",
        ] {
            new.remove(gone);
        }
        new.insert("topic".to_owned(), fields.get("topic").unwrap_or_default().into());
        new.insert("content_type".to_owned(), fields.get("content_type").unwrap_or_default().into());
        new.insert("body_text".to_owned(), body.into());
        if let Some(key) = fields.get("key") {
            new.insert("key".to_owned(), key.into());
        }
        let headers = new.entry("headers").or_insert_with(|| json!({}));
        headers[EDITED_FROM] = original.id().to_string().into();
    }
    Ok(new)
}
