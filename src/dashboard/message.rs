//! One message.

use axum::response::{Html, IntoResponse, Response};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use maud::{Markup, html};

use super::api::Api;
use super::body::{VIEWS, shown};
use super::error::PageError;
use super::fields::Fields;
use super::messages::state;
use super::text::{time_ago, visible};
use crate::admin::{Listed, StoredMessage};
use crate::message::Message;
use crate::store::EntryState;
use crate::util::readable::{count, grouped, span};

pub(super) async fn message(api: Api, fields: Fields) -> Result<Html<String>, PageError> {
    let fields = fields.only(&["position", "view"], &[])?;
    let position = position(&fields)?;
    let stored = read(&api, position).await?;
    let content = html! {
        @if let Some(why) = &stored.explain { p.note { (visible(why)) } }
        (operations(position, stored.state))
        (facts(&stored, trace(&api, &stored).as_deref()))
        @if !stored.failures.is_empty() {
            h2 { "Failed attempts" }
            ol.timeline {
                @for failure in &stored.failures {
                    li { (time_ago(failure.at)) ": " (visible(&failure.reason)) }
                }
                @if let Some(next) = stored.next_attempt { li { "next attempt " (time_ago(next)) } }
            }
            @if stored.attempts.is_some_and(|attempts| attempts as usize > stored.failures.len()) {
                p.soft { "The last " (stored.failures.len()) " of " (count(stored.attempts.unwrap_or_default().into(), "failed attempt")) " are kept." }
            }
        }
        @if !stored.headers.is_empty() {
            h2 { "Headers" }
            dl {
                @for (name, value) in &stored.headers { dt { (visible(name)) } dd { (visible(&value.0.to_string())) } }
            }
        }
        h2 { "Body" }
        @match whole(stored) {
            Ok(message) => { (body(&message, position, fields.get("view").unwrap_or_default())) }
            Err(error) => { p.note.bad { "The message can no longer be read: " (visible(&error)) } }
        }
    };
    Ok(api.page("Message", "messages").render(&content))
}

/// The body as it is, for a file.
pub(super) async fn raw_body(api: Api, fields: Fields) -> Result<Response, PageError> {
    let fields = fields.only(&["position"], &[])?;
    let position = position(&fields)?;
    let message = whole(read(&api, position).await?).map_err(PageError::not_found)?;
    let file = format!("attachment; filename=\"body-{position}\"");
    let head = [(CONTENT_TYPE, "application/octet-stream".to_owned()), (CONTENT_DISPOSITION, file)];
    Ok((head, message.body().clone()).into_response())
}

pub(super) fn position(fields: &Fields) -> Result<u64, PageError> {
    fields.parsed("position")?.ok_or_else(|| PageError::bad_request("the address names no position"))
}

/// Reads the message at a position, which is faster than by its id.
pub(super) async fn read(api: &Api, position: u64) -> Result<StoredMessage, PageError> {
    let mut query = vec![("limit", "1".to_owned()), ("body", "true".to_owned())];
    query.extend(position.checked_sub(1).map(|before| ("after", before.to_string())));
    let listed: Listed = api.get("/messages", &query).await?;
    let found = listed.messages.into_iter().find(|message| message.position == Some(position));
    found.ok_or_else(|| PageError::not_found("this message is not stored any more: it was sent or dropped"))
}

pub(super) fn whole(stored: StoredMessage) -> Result<Message, String> {
    stored.into_message().map_err(|error| error.to_string())
}

fn operations(position: u64, state: Option<EntryState>) -> Markup {
    html! {
        form.row method="get" action="confirm" aria-label="Operations" {
            input type="hidden" name="position" value=(position);
            button type="submit" name="act" value="requeue" {
                @if state == Some(EntryState::Dead) { "Requeue" } @else { "Retry now" }
            }
            button.danger type="submit" name="act" value="drop" { "Drop" }
            a.button href=(format!("edit?position={position}")) { "Edit and requeue" }
        }
    }
}

/// Returns the address of the trace that the message belongs to.
fn trace(api: &Api, stored: &StoredMessage) -> Option<String> {
    let parent = stored.headers.get("traceparent")?.0.to_string();
    let id = parent.split('-').nth(1)?;
    let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    api.trace(id).filter(|_| is_id)
}

pub(super) fn facts(stored: &StoredMessage, trace: Option<&str>) -> Markup {
    html! {
        dl {
            dt { "State" } dd { (state(stored.state)) }
            dt { "Id" } dd.id { @if let Some(id) = stored.id { (id) } @else { "–" } }
            dt { "Topic" } dd { (visible(stored.topic.as_deref().unwrap_or("–"))) }
            @if let Some(key) = &stored.key { dt { "Key" } dd { (visible(key)) } }
            @if let Some(time) = stored.time { dt { "Created" } dd { (time_ago(time)) } }
            dt { "Failed attempts" } dd { (grouped(stored.tried())) }
            @if let Some(next) = stored.next_attempt { dt { "Next attempt" } dd { (time_ago(next)) } }
            @if let Some(priority) = stored.priority { dt { "Priority" } dd { (priority) } }
            @if let Some(expiry) = stored.expiry { dt { "Expires after" } dd { (span(expiry)) } }
            @if let Some(delay) = stored.delay { dt { "Delay" } dd { (span(delay)) } }
            @if let Some(content_type) = &stored.content_type { dt { "Content type" } dd { (visible(content_type)) } }
            @if let Some(trace) = trace { dt { "Trace" } dd { a href=(trace) rel="noreferrer" { "open" } } }
            dt { "Position" } dd { (grouped(stored.position.unwrap_or_default())) }
        }
    }
}

fn body(message: &Message, position: u64, view: &str) -> Markup {
    html! {
        nav.row aria-label="Views of the body" {
            @for (name, label) in VIEWS {
                a.button href=(format!("message?position={position}&view={name}")) aria-current=[(name == view).then_some("true")] { (label) }
            }
            a.button href=(format!("body?position={position}")) { "Download" }
        }
        (shown(message, view))
    }
}
