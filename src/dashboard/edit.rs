//! Edit and requeue: a new message that names its origin.

use axum::response::{Html, IntoResponse, Response};
use http::StatusCode;
use maud::html;
use serde_json::{Value, json};
use uuid::Uuid;

use super::api::Api;
use super::done::done;
use super::error::PageError;
use super::fields::Fields;
use super::message::{position, read};
use crate::admin::{Acted, Appended, StoredMessage};
use crate::message::Message;

/// The header that names the message from which another was made.
const EDITED_FROM: &str = "edited_from";

/// The largest body that is edited.
const EDITABLE: usize = 256 << 10;

/// The fields that are edited.
struct Edited<'a> {
    topic: &'a str,
    key: &'a str,
    content_type: &'a str,
    body: &'a str,
    drops: bool,
}

pub(super) async fn form(api: Api, fields: Fields) -> Result<Html<String>, PageError> {
    let position = position(&fields.only(&["position"], &[])?)?;
    let message = editable(read(&api, position).await?)?;
    let body = String::from_utf8_lossy(message.body());
    let edited = Edited {
        topic: message.topic().as_str(),
        key: message.key().unwrap_or_default(),
        content_type: message.content_type(),
        body: &body,
        drops: true,
    };
    Ok(ask(&api, position, message.id(), &edited, None))
}

/// The form; `fault` says why the JSON API refused the message.
fn ask(api: &Api, position: u64, id: Uuid, edited: &Edited, fault: Option<&PageError>) -> Html<String> {
    let content = html! {
        @if let Some(fault) = fault { p.note.bad role="alert" { "Nothing is stored: " (fault) } }
        p.note {
            "A new message with its own id is stored and sent. Its headers are those of " span.id { (id) }
            ", and the header " code { (EDITED_FROM) } " names that message."
        }
        form method="post" action="edit" {
            input type="hidden" name="position" value=(position);
            input type="hidden" name="id" value=(id);
            div.row {
                label { "Topic" input name="topic" value=(edited.topic) required spellcheck="false"; }
                label { "Key" input name="key" value=(edited.key) spellcheck="false"; }
                label { "Content type" input name="content_type" value=(edited.content_type) spellcheck="false"; }
            }
            // A browser drops the first line end.
            label.wide { "Body" textarea name="body" rows="16" cols="80" spellcheck="false" { "\n" (edited.body) } }
            div.row { label.check { input type="checkbox" name="drop" value="yes" checked[edited.drops]; "Drop the original once the new message is stored" } }
            button.main type="submit" { "Store the new message" }
            " " a.button href=(format!("message?position={position}")) { "Cancel" }
        }
    };
    api.page("Edit and requeue", "messages").render(&content)
}

/// Stores the new message, and redirects to the outcome. A refused message is shown again as it was written.
pub(super) async fn store(api: Api, fields: Fields) -> Result<Response, PageError> {
    let names = ["position", "id", "topic", "key", "content_type", "body", "drop"];
    let fields = fields.only(&names, &[])?;
    let position = position(&fields)?;
    let stored = read(&api, position).await?;
    let wanted = fields.get("id");
    if stored.id.map(|id| id.to_string()).as_deref() != wanted {
        return Err(PageError::not_found("the original is not stored any more"));
    }
    let original = editable(stored)?;
    let new = edited(&original, &fields)?;
    let Appended { ids } = match api.post("/messages", &new).await {
        Err(error) if error.is_bad_request() => {
            let edited = Edited {
                topic: fields.raw("topic").unwrap_or_default(),
                key: fields.raw("key").unwrap_or_default(),
                content_type: fields.raw("content_type").unwrap_or_default(),
                body: fields.raw("body").unwrap_or_default(),
                drops: fields.get("drop").is_some(),
            };
            let form = ask(&api, position, original.id(), &edited, Some(&error));
            return Ok((StatusCode::BAD_REQUEST, form).into_response());
        }
        appended => appended?,
    };
    let dropped = match fields.get("drop") {
        Some(_) => {
            let drop = json!({"positions": [position], "dry_run": false});
            api.post::<Acted>("/drop", &drop).await?.messages > 0
        }
        None => false,
    };
    let mut outcome = vec![("id", ids.first().map(ToString::to_string).unwrap_or_default())];
    outcome.extend(dropped.then(|| ("dropped", "yes".to_owned())));
    Ok(done("stored", &outcome))
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
