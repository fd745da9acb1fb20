//! The consumers of this process, with pause and resume.

use axum::response::{Html, Response};
use maud::{Markup, html};
use serde_json::json;

use super::api::Api;
use super::done::see;
use super::error::PageError;
use super::fields::Fields;
use super::text::{key, visible};
use crate::admin::{ConsumerReport, Consumers, HealthReport};
use crate::util::readable::grouped;

/// Why a consumer does not know how many messages wait.
const UNKNOWN: &str = "The number of waiting messages is unknown where the protocol cannot ask for it (AMQP 1.0, MQTT), or the broker has \
    not answered in time. The broker's own tools show it.";

pub(super) async fn consumers(api: Api, fields: Fields) -> Result<Html<String>, PageError> {
    let fields = fields.only(&["of"], &[])?;
    let Consumers { consumers } = api.get("/consumers", &[]).await?;
    let changed = fields.get("of").and_then(|of| consumers.iter().find(|consumer| consumer.name == of));
    let body = html! {
        @if let Some(ConsumerReport { name, paused, .. }) = changed {
            p.note.good role="status" { (visible(name)) @if *paused { " is paused." } @else { " receives messages." } }
        }
        (table(&consumers))
    };
    Ok(api.page("Consumers", "consumers").live().render(&body))
}

pub(super) async fn content(api: &Api) -> Result<Markup, PageError> {
    let Consumers { consumers } = api.get("/consumers", &[]).await?;
    Ok(table(&consumers))
}

fn table(consumers: &[ConsumerReport]) -> Markup {
    html! {
        div data-part="consumers" {
            @if consumers.is_empty() { p.note { "This process runs no consumer." } } @else {
                p.soft { "The consumers of this process. Numbers count since it was started; other instances have their own." }
                table.stack {
                    thead {
                        tr {
                            th scope="col" { "Consumer" } th scope="col" { "State" } th.n scope="col" { "Waiting" }
                            th.n scope="col" { "Handling" }
                            th.n scope="col" { "Acknowledged" } th.n scope="col" { "Retried" } th.n scope="col" { "Dead" }
                            th scope="col" { "Operation" }
                        }
                    }
                    tbody { @for consumer in consumers { (row(consumer)) } }
                }
                @if consumers.iter().any(|consumer| consumer.backlog.is_none()) { p.soft { (UNKNOWN) } }
            }
        }
    }
}

fn row(consumer: &ConsumerReport) -> Markup {
    let verb = if consumer.paused { "Resume" } else { "Pause" };
    html! {
        tr data-key=(key(&consumer.name)) {
            td data-label="Consumer" { span { (visible(&consumer.name)) } }
            td data-label="State" {
                span {
                    @match &consumer.health {
                        HealthReport::Down { reason } => { span.tag.bad { "down" } " " (visible(reason)) }
                        HealthReport::Up if consumer.paused => { span.tag.warn { "paused" } }
                        HealthReport::Up => { span.tag.good { "running" } }
                    }
                }
            }
            td.n data-label="Waiting" { @match consumer.backlog { Some(backlog) => { (grouped(backlog)) } None => { span.soft title=(UNKNOWN) { "unknown" } } } }
            td.n data-label="Handling" { (grouped(consumer.handling as u64)) }
            td.n data-label="Acknowledged" { (grouped(consumer.acked)) }
            td.n data-label="Retried" { (grouped(consumer.retried)) }
            td.n data-label="Dead" { (grouped(consumer.dead)) }
            td data-label="Operation" {
                form method="post" action="consumers" {
                    input type="hidden" name="name" value=(consumer.name);
                    input type="hidden" name="paused" value=(!consumer.paused);
                    button type="submit" aria-label=(format!("{verb} {}", consumer.name)) { (verb) }
                }
            }
        }
    }
}

/// Pauses or resumes, and redirects to the page, which says how the consumer is now.
pub(super) async fn pause(api: Api, fields: Fields) -> Result<Response, PageError> {
    let fields = fields.only(&["name", "paused"], &[])?;
    let name = fields.get("name").ok_or_else(|| PageError::bad_request("the form names no consumer"))?;
    let paused: bool = fields.parsed("paused")?.unwrap_or(true);
    let _: Consumers = api.post("/consumers", &json!({"name": name, "paused": paused})).await?;
    Ok(see("consumers", &[("of", name.to_owned())]))
}
