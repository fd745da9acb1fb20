//! The router for sites in this process.

use axum::response::Html;
use maud::{Markup, html};

use super::api::Api;
use super::error::PageError;
use super::text::{key, short, time_ago, visible};
use crate::admin::{LinkReport, QueueReport, RoutingReport};
use crate::util::readable::{count, grouped};

/// The counters that are shown, with their captions; a number is bad if it is not zero.
const CARDS: [(&str, &str, bool); 9] = [
    ("queued", "in queues", false),
    ("published", "published here", false),
    ("committed", "handled", false),
    ("upstream", "confirmed by designated routers", false),
    ("downstream", "came from designated routers", false),
    ("dropped", "dropped by queues", true),
    ("refused", "refused by designated routers", true),
    ("forged", "dropped for their signature", true),
    ("damaged", "damaged on the disk", true),
];

pub(super) async fn routing(api: Api) -> Result<Html<String>, PageError> {
    Ok(api.page("Routing", "routing").live().render(&content(&api).await?))
}

pub(super) async fn content(api: &Api) -> Result<Markup, PageError> {
    let routing: RoutingReport = api.get("/routing", &[]).await?;
    Ok(html! {
        div data-part="routing" {
            ul.cards {
                @for (name, caption, is_bad) in CARDS {
                    @let number = routing.counts.get(name).copied().unwrap_or_default();
                    li { b { span.bad[is_bad && number > 0] { (grouped(number)) } } span { (caption) } }
                }
            }
            p.soft { "Counted since the router was opened, except for the messages in queues." }
            h2 { "Links" }
            @if routing.links.is_empty() { p.note { "This router has no designated router." } } @else { (links(&routing.links)) }
            h2 { "Queues" }
            @if routing.queues.is_empty() { p.note { "Nobody subscribes." } } @else { (queues(&routing.queues)) }
            @if routing.others > 0 { p.soft { (count(routing.others, "more queue")) " are not listed." } }
            dl {
                dt { "Router" } dd.id { (visible(&routing.router)) }
                dt { "Namespace" } dd.id { (visible(&routing.namespace)) }
            }
        }
    })
}

fn links(links: &[LinkReport]) -> Markup {
    html! {
        table.stack {
            thead { tr { th scope="col" { "Namespace" } th scope="col" { "Designated router" } th scope="col" { "State" } } }
            tbody {
                @for link in links {
                    tr data-key=(key(&format!("{} {}", link.namespace, link.address))) {
                        td.id data-label="Namespace" { span { (short(&link.namespace, 90)) } }
                        td data-label="Router" { span { (short(&link.address, 120)) } }
                        td data-label="State" {
                            span {
                                @if link.up { span.tag.good { "up" } } @else { span.tag.bad { "down" } }
                                @if let Some(failure) = &link.last_failure { " last failure: " (short(failure, 200)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn queues(queues: &[QueueReport]) -> Markup {
    html! {
        table.stack {
            thead {
                tr {
                    th scope="col" { "Queue" } th scope="col" { "Kind" } th.n scope="col" { "Messages" } th.n scope="col" { "Stored" }
                    th.n scope="col" { "Dropped" } th scope="col" { "Patterns" } th scope="col" { "Subscriber" } th scope="col" { "Limits" }
                }
            }
            tbody { @for queue in queues { (row(queue)) } }
        }
    }
}

fn row(queue: &QueueReport) -> Markup {
    let name = if queue.identifier.is_empty() { &queue.namespace } else { &queue.identifier };
    html! {
        tr data-key=(key(&format!("{} {}", queue.namespace, queue.identifier))) {
            td data-label="Queue" { span { (short(name, 120)) } }
            td data-label="Kind" { (short(&queue.kind, 20)) }
            td.n data-label="Messages" { (grouped(queue.messages)) }
            td.n data-label="Stored" { (bytesize::ByteSize::b(queue.bytes)) }
            td.n data-label="Dropped" { span.bad[queue.dropped > 0] { (grouped(queue.dropped)) } }
            td data-label="Patterns" { span { (short(&queue.patterns.join(", "), 200)) } }
            td data-label="Subscriber" {
                span {
                    @if queue.subscriber { span.tag.good { "there" } } @else { span.tag.warn { "away" } }
                    @if let Some(expires) = queue.expires { " ends " (time_ago(expires)) }
                }
            }
            td data-label="Limits" { span { (count(queue.max_messages, "message")) ", " (bytesize::ByteSize::b(queue.max_bytes)) } }
        }
    }
}
