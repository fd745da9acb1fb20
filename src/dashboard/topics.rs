//! Sent and stored messages, by topic.

use axum::response::Html;
use maud::{Markup, html};

use super::api::Api;
use super::error::PageError;
use super::fields::Fields;
use super::filter::Conditions;
use super::text::{key, short, time_ago};
use crate::admin::{TopicReport, Topics};
use crate::util::readable::{count, grouped};

/// For how long stored messages are counted.
const COUNT: &str = "60ms";

pub(super) async fn topics(api: Api, fields: Fields) -> Result<Html<String>, PageError> {
    let page = api.page("Topics", "topics");
    Ok(match fields.only(&["within"], &[])?.get("within") {
        Some(within) => page.render(&counted(&api, within).await?),
        None => page.live().render(&content(&api).await?),
    })
}

pub(super) async fn content(api: &Api) -> Result<Markup, PageError> {
    counted(api, COUNT).await
}

/// The topics, whose stored messages are counted for so long.
async fn counted(api: &Api, within: &str) -> Result<Markup, PageError> {
    let topics: Topics = api.get("/topics", &[("within", within.to_owned())]).await?;
    Ok(html! {
        div data-part="topics" {
            @if topics.topics.is_empty() { p.note { "The process that serves this page has sent nothing since it began, and nothing is stored." } } @else {
                p.soft {
                    "Sent, refused and failed are of the process that serves this page, since it began. Other instances have their own pages; tower-outbox dashboard itself sends nothing."
                    @if !topics.exact {
                        " Stored messages were counted for a moment only: there may be more pending and dead ones, also of other topics. "
                        a href="topics?within=10s" { "Count for 10 seconds" }
                    }
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
                @if !topics.exact { "at least " } (grouped(number))
            }
        }
    };
    html! {
        tr data-key=(key(&topic.topic)) {
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
