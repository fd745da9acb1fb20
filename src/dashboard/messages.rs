//! Stored messages: filtered by the URL, a page by position, and selected for an operation.

use std::time::SystemTime;

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use maud::{Markup, html};

use super::api::Api;
use super::error::PageError;
use super::fields::Fields;
use super::filter::{Conditions, NAMES};
use super::text::{short, time_ago};
use crate::admin::{Counted, Listed, StoredMessage};
use crate::store::EntryState;
use crate::util::readable::grouped;

/// How many messages a page has.
const PAGE: u64 = 50;

/// For how long messages are searched, and counted.
const COUNT: &str = "60ms";

pub(super) async fn messages(api: Api, fields: Fields) -> Result<Response, PageError> {
    let fields = fields.only(&[&NAMES[..], &["after"]].concat(), &[])?;
    let conditions = Conditions::of(&fields);
    let title = if conditions.is_dead() { "Dead letters, one by one" } else { "Messages" };
    if conditions.fault().is_some() {
        let body = html! {
            p.note.bad role="alert" { "This filter cannot be used: mend the marked field." }
            (conditions.form())
        };
        return Ok((StatusCode::BAD_REQUEST, api.page(title, "messages").render(&body)).into_response());
    }
    let content = content(&api, &fields).await?;
    let body = html! { (conditions.form()) (content) };
    let after = fields.get("after").map(|after| ("after", after.to_owned()));
    let query = conditions.query(after.as_slice());
    Ok(api.page(title, "messages").live_with(&query).render(&body).into_response())
}

/// The messages that match the fields of an address.
pub(super) async fn content(api: &Api, fields: &Fields) -> Result<Markup, PageError> {
    let conditions = Conditions::of(fields);
    if let Some(fault) = conditions.fault() {
        return Err(PageError::bad_request(fault));
    }
    let after: Option<u64> = fields.parsed("after")?;
    let mut query = conditions.pairs();
    query.push(("limit", PAGE.to_string()));
    query.push(("within", COUNT.to_owned()));
    query.extend(after.map(|after| ("after", after.to_string())));
    let listed: Listed = api.get("/messages", &query).await?;
    // The count of a search that came to its end, or that has found nothing yet, would read the same once more.
    let number = match (listed.next, after) {
        (None, None) => Counted { messages: listed.messages.len() as u64, exact: true },
        (Some(_), None) if listed.messages.is_empty() => Counted { messages: 0, exact: false },
        _ => count(api, &conditions, COUNT).await?,
    };
    let is_found = !listed.messages.is_empty();
    Ok(html! {
        div data-part="messages" {
            p role="status" { (number_of(&number)) @if after.is_some() { "; this is a later page" } }
            @if is_found {
                form method="get" action="confirm" {
                    (conditions.hidden())
                    (buttons(&number, &conditions))
                    (table(&listed.messages))
                }
            } @else {
                p.note { @if listed.next.is_some() { "No match was found yet; search on." } @else { "No message matches." } }
            }
            nav.row aria-label="Pages of the list" {
                @if after.is_some() { a.button href=(address(&conditions, &[])) { "First page" } }
                @if let Some(next) = listed.next {
                    a.button rel="next" href=(address(&conditions, &[("after", next.to_string())])) {
                        @if is_found { "Next page" } @else { "Search on" }
                    }
                }
            }
        }
    })
}

/// Counts the messages that match, for about so long.
pub(super) async fn count(api: &Api, conditions: &Conditions, within: &str) -> Result<Counted, PageError> {
    let mut query = conditions.pairs();
    query.push(("within", within.to_owned()));
    api.get("/count", &query).await
}

/// A number of messages; a lower bound says so.
pub(super) fn number_of(counted: &Counted) -> String {
    let noun = if counted.messages == 1 { "message matches" } else { "messages match" };
    let number = grouped(counted.messages);
    if counted.exact {
        format!("{number} {noun}")
    } else if counted.messages == 0 {
        "The search was cut short before the first match".to_owned()
    } else {
        format!("More than {number} {noun}; counting was cut short")
    }
}

fn address(conditions: &Conditions, more: &[(&str, String)]) -> String {
    format!("messages?{}", conditions.query(more))
}

fn buttons(number: &Counted, conditions: &Conditions) -> Markup {
    let all =
        if number.exact { format!("all {}", grouped(number.messages)) } else { "all that match".to_owned() };
    html! {
        div.row role="group" aria-label="Operations" {
            label.check hidden { input #all type="checkbox" aria-label="All of this page"; "All" }
            button type="submit" name="act" value="requeue" { "Requeue selected" }
            button.danger type="submit" name="act" value="drop" { "Drop selected" }
            @if conditions.is_dead() {
                button type="submit" name="act" value="requeue-all" { "Requeue " (all) }
            }
            button.danger type="submit" name="act" value="drop-all" { "Drop " (all) }
        }
    }
}

fn table(messages: &[StoredMessage]) -> Markup {
    html! {
        table.stack {
            thead {
                tr {
                    th scope="col" { "Select" } th scope="col" { "Message" } th scope="col" { "State" }
                    th scope="col" { "Created" } th.n scope="col" { "Attempts" } th scope="col" { "Topic" }
                    th scope="col" { "Key" } th scope="col" { "Why it is here" }
                }
            }
            tbody { @for message in messages { (row(message)) } }
        }
    }
}

fn row(message: &StoredMessage) -> Markup {
    let position = message.position.unwrap_or_default();
    let id = message.id.map(|id| id.to_string());
    let name = id.as_deref().unwrap_or("unreadable");
    html! {
        tr data-key=(position) {
            td data-label="Select" {
                label.check { input type="checkbox" name="position" value=(position) aria-label=(format!("Select {name}")); }
            }
            td.id data-label="Message" { a href=(format!("message?position={position}")) { (name) } }
            td data-label="State" { (state(message.state)) }
            td data-label="Created" {
                @if let Some(time) = message.time.filter(|time| *time > SystemTime::UNIX_EPOCH) { (time_ago(time)) } @else { "–" }
            }
            td.n data-label="Attempts" { (grouped(message.tried())) }
            td data-label="Topic" { span { (short(message.topic.as_deref().unwrap_or("–"), 80)) } }
            td data-label="Key" { span { (short(message.key.as_deref().unwrap_or("–"), 60)) } }
            td data-label="Why" { span { (short(message.explain.as_deref().unwrap_or_default(), 160)) } }
        }
    }
}

pub(super) fn state(state: Option<EntryState>) -> Markup {
    html! {
        @match state {
            Some(EntryState::Dead) => { span.tag.bad { "dead" } }
            Some(EntryState::Pending) => { span.tag { "pending" } }
            None => { span.tag { "unknown" } }
        }
    }
}
