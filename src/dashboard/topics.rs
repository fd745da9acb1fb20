//! What is sent and stored, by topic.

use axum::response::Html;
use maud::{Markup, html};

use super::api::Api;
use super::error::PageError;
use super::filter::Conditions;
use super::text::{short, time_ago};
use crate::admin::{TopicReport, Topics};
use crate::util::readable::{count, grouped};

/// For how long stored messages are counted.
const COUNT: &str = "60ms";

pub(super) async fn topics(api: Api) -> Result<Html<String>, PageError> {
    Ok(api.page("Topics", "topics").live().render(&content(&api).await?))
}

pub(super) async fn content(api: &Api) -> Result<Markup, PageError> {
    let topics: Topics = api.get("/topics", &[("within", COUNT.to_owned())]).await?;
    Ok(html! {
        div data-part="topics" {
            @if topics.topics.is_empty() { p.note { "Nothing was sent since this process began, and nothing is stored." } } @else {
                p.soft {
                    "Sent, refused and failed are of this process, since it began; other instances have their own."
                    @if !topics.exact { " Stored messages were counted for a moment only: there are more pending and dead ones, also of other topics." }
                }
                (table(&topics))
                @if topics.others > 0 { p.soft { (count(topics.others, "more topic")) " are not listed." } }
            }
        }
    })
}

fn table(topics: &Topics) -> Markup {
    html! {
        table.stack {
            thead {
                tr {
                    th scope="col" { "Topic" }
                    @if topics.stored { th.n scope="col" { "Pending" } th.n scope="col" { "Dead" } }
                    th.n scope="col" { "Sent a second" } th.n scope="col" { "Sent" } th.n scope="col" { "Refused" }
                    th.n scope="col" { "Failed" } th scope="col" { "Last failure" }
                }
            }
            tbody { @for topic in &topics.topics { (row(topic, topics)) } }
        }
    }
}

fn row(topic: &TopicReport, topics: &Topics) -> Markup {
    let stored = |state: &str, number: u64| {
        let conditions = Conditions::default().and("state", state).and("topic", topic.topic.clone());
        html! {
            a.bad[state == "dead" && number > 0] href=(format!("messages?{}", conditions.query(&[]))) {
                (grouped(number)) @if !topics.exact { "+" }
            }
        }
    };
    html! {
        tr {
            td data-label="Topic" { span { (short(&topic.topic, 120)) } }
            @if topics.stored {
                td.n data-label="Pending" { (stored("pending", topic.pending)) }
                td.n data-label="Dead" { (stored("dead", topic.dead)) }
            }
            td.n data-label="Sent a second" { (format!("{:.1}", topic.sent_per_second)) }
            td.n data-label="Sent" { (grouped(topic.sent)) }
            td.n data-label="Refused" { (grouped(topic.rejected)) }
            td.n data-label="Failed" { (grouped(topic.failed)) }
            td data-label="Last failure" {
                span {
                    @if let Some(last) = &topic.last_failure { (time_ago(last.at)) ": " (short(&last.error, 200)) } @else { "–" }
                }
            }
        }
    }
}
