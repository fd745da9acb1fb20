//! The broker's own queues of dead letters.

use axum::response::Html;
use maud::{Markup, html};

use super::api::Api;
use super::body::shown;
use super::error::PageError;
use super::fields::Fields;
use super::message::{facts, whole};
use super::text::{short, time_ago, visible};
use crate::admin::{BrokerListed, BrokerQueue, BrokerQueues, StoredMessage};
use crate::util::readable::{count, grouped};

/// How long a page waits for the broker.
const COUNT: &str = "2s";
const READ: &str = "10s";

/// How many dead letters a page shows.
const PAGE: &str = "100";

/// The queues with their numbers; `None` if the app has none.
pub(super) async fn queues(api: &Api) -> Result<Option<Markup>, PageError> {
    if !api.parts().broker_dead_letters {
        return Ok(None);
    }
    let BrokerQueues { queues } = api.get("/broker-queues", &[("within", COUNT.to_owned())]).await?;
    let row = |queue: &BrokerQueue| {
        html! {
            tr {
                td.n data-label="Number" {
                    @match (queue.messages, &queue.error) {
                        (Some(messages), _) => { a href=(address("broker", &queue.queue)) { (grouped(messages)) } }
                        (None, None) => { a href=(address("broker", &queue.queue)) { "unknown" } }
                        (None, Some(_)) => { "–" }
                    }
                }
                td data-label="Queue" { span { (short(&queue.queue, 120)) } }
                td data-label="Of" { span { (short(&queue.of, 120)) } }
                td data-label="Access" {
                    span { @if let Some(error) = &queue.error { (short(error, 200)) } @else { span.tag.good { "open" } } }
                }
            }
        }
    };
    Ok(Some(html! {
        p.soft { "The dead letters of consumers, as they were when this page was loaded." }
        table.stack {
            thead {
                tr {
                    th.n scope="col" { "Number" } th scope="col" { "Queue of dead letters" } th scope="col" { "Queue of the consumer" }
                    th scope="col" { "Access" }
                }
            }
            tbody { @for queue in &queues { (row(queue)) } }
        }
    }))
}

/// The address of a page about a queue.
pub(super) fn address(page: &str, queue: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("queue", queue);
    format!("{page}?{}", query.finish())
}

pub(super) fn queue_of(fields: &Fields) -> Result<&str, PageError> {
    fields.get("queue").ok_or_else(|| PageError::bad_request("the address names no queue"))
}

/// The dead letters of one queue.
pub(super) async fn list(api: Api, fields: Fields) -> Result<Html<String>, PageError> {
    let fields = fields.only(&["queue"], &[])?;
    let queue = queue_of(&fields)?;
    let query = [("queue", queue.to_owned()), ("limit", PAGE.to_owned()), ("within", READ.to_owned())];
    let BrokerListed { messages, more, total, caution } = api.get("/broker-dead-letters", &query).await?;
    let known = total.or_else(|| (!more).then_some(messages.len() as u64));
    let body = html! {
        p { a href="dead-letters" { "All dead letters" } }
        p role="status" {
            @match known { Some(known) => { (count(known, "dead letter")) } None => { "The number is unknown" } }
            " in " (visible(queue)) @if more { "; the first " (messages.len()) " are shown" }
        }
        @if let Some(caution) = &caution { p.note.warn { (visible(caution)) } }
        @if messages.is_empty() { p.note.good { "There is no dead letter." } } @else {
            form method="get" action="broker-confirm" {
                input type="hidden" name="queue" value=(queue);
                div.row role="group" aria-label="Operations" {
                    label.check hidden { input #all type="checkbox" aria-label="All of this page"; "All" }
                    button type="submit" name="act" value="requeue" { "Requeue selected" }
                    button.danger type="submit" name="act" value="drop" { "Drop selected" }
                    @if let Some(known) = known {
                        input type="hidden" name="first" value=(known);
                        button type="submit" name="act" value="requeue-all" { "Requeue all " (grouped(known)) }
                        button.danger type="submit" name="act" value="drop-all" { "Drop all " (grouped(known)) }
                    }
                }
                table.stack {
                    thead {
                        tr {
                            th scope="col" { "Select" } th scope="col" { "Message" } th scope="col" { "Created" }
                            th.n scope="col" { "Attempts" } th scope="col" { "Topic" } th scope="col" { "Reason" }
                        }
                    }
                    tbody { @for message in &messages { (row(queue, message)) } }
                }
            }
        }
    };
    Ok(api.page("Dead letters in the broker", "dead-letters").render(&body))
}

fn row(queue: &str, message: &StoredMessage) -> Markup {
    html! {
        tr {
            td data-label="Select" {
                @if let Some(id) = message.id {
                    label.check { input type="checkbox" name="id" value=(id) aria-label=(format!("Select {id}")); }
                }
            }
            td.id data-label="Message" {
                @match message.id {
                    Some(id) => { a href=(format!("{}&id={id}", address("broker-message", queue))) { (id) } }
                    None => { "unreadable" }
                }
            }
            td data-label="Created" { @if let Some(time) = message.time { (time_ago(time)) } @else { "–" } }
            td.n data-label="Attempts" { (grouped(message.tried())) }
            td data-label="Topic" { span { (short(message.topic.as_deref().unwrap_or("–"), 80)) } }
            td data-label="Reason" { span { (short(message.explain.as_deref().unwrap_or_default(), 300)) } }
        }
    }
}

/// One dead letter of a queue.
pub(super) async fn message(api: Api, fields: Fields) -> Result<Html<String>, PageError> {
    let fields = fields.only(&["queue", "id"], &[])?;
    let queue = queue_of(&fields)?;
    let id = fields.get("id").ok_or_else(|| PageError::bad_request("the address names no message"))?;
    let query = [("queue", queue.to_owned()), ("id", id.to_owned()), ("within", READ.to_owned())];
    let BrokerListed { mut messages, .. } = api.get("/broker-dead-letters", &query).await?;
    let missing = || PageError::not_found("this dead letter is not among the first ones of the queue");
    let stored = messages.pop().ok_or_else(missing)?;
    let body = html! {
        p { a href=(address("broker", queue)) { "All of " (visible(queue)) } }
        @if let Some(why) = &stored.explain { p.note { (visible(why)) } }
        form.row method="get" action="broker-confirm" aria-label="Operations" {
            input type="hidden" name="queue" value=(queue);
            input type="hidden" name="id" value=(id);
            button type="submit" name="act" value="requeue" { "Requeue" }
            button.danger type="submit" name="act" value="drop" { "Drop" }
        }
        (facts(&stored, None))
        @if !stored.failures.is_empty() {
            h2 { "Failed attempts" }
            ol.timeline { @for failure in &stored.failures { li { (time_ago(failure.at)) ": " (visible(&failure.reason)) } } }
        }
        @if !stored.headers.is_empty() {
            h2 { "Headers" }
            dl { @for (name, value) in &stored.headers { dt { (visible(name)) } dd { (visible(&value.0.to_string())) } } }
        }
        h2 { "Body" }
        @match whole(stored) {
            Ok(message) => { (shown(&message, "")) }
            Err(error) => { p.note.bad { "The message cannot be read: " (visible(&error)) } }
        }
    };
    Ok(api.page("Dead letter", "dead-letters").render(&body))
}
