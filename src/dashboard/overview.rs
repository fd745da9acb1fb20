//! The overview: what waits, what is dead, and whether messages leave.

use std::time::Duration;

use axum::response::Html;
use maud::{Markup, html};

use super::api::Api;
use super::error::PageError;
use super::plot::rates;
use super::text::{time_ago, visible};
use crate::admin::{BreakerReport, HealthReport, InstanceReport, OutboxReport, StatusReport};
use crate::util::readable::{grouped, span};

/// How long the page waits for the broker.
const WAIT: &str = "100ms";

pub(super) async fn overview(api: Api) -> Result<Html<String>, PageError> {
    Ok(api.page("Overview", "overview").live().render(&content(&api).await?))
}

pub(super) async fn content(api: &Api) -> Result<Markup, PageError> {
    let status: StatusReport = api.get("/status", &[("within", WAIT.to_owned())]).await?;
    Ok(html! {
        div data-part="status" {
            (broker(&status))
            @if let Some(note) = &status.note { p.note.warn { (visible(note)) } }
            @if let Some(outbox) = &status.outbox { (numbers(outbox, &status)) }
        }
        @if let Some(outbox) = &status.outbox {
            @if status.running == Some(true) {
                h2 { "Messages in and out" }
                div data-part="rates" { (rates(&outbox.stored_by_minute, &outbox.confirmed_by_minute)) }
            }
        }
        @if let Some(outbox) = status.outbox.as_ref().filter(|outbox| !outbox.instances.is_empty()) {
            h2 { "Instances that share the outbox" }
            div data-part="instances" { (instances(&outbox.instances)) }
        }
        h2 { "How messages are delivered" }
        dl {
            dt { "Delivery" } dd { (status.delivery) }
            @if let Some(outbox) = &status.outbox { dt { "Outbox" } dd { (visible(&outbox.place)) } }
        }
    })
}

fn broker(status: &StatusReport) -> Markup {
    let breaker =
        status.outbox.as_ref().filter(|_| status.running == Some(true)).map(|outbox| &outbox.breaker);
    html! {
        @match (&status.health, status.running) {
            (_, Some(false)) => { p.note.warn { "The app is stopped: messages leave when it runs again." (destination(status)) } }
            (_, None) => {
                p.note {
                    "This page reads the database alone: it does not know whether the app runs, or reaches the broker."
                    (destination(status))
                }
            }
            (Some(HealthReport::Up), _) => { p.note.good { "The broker is up." (destination(status)) } }
            (Some(HealthReport::Down { reason }), _) => { p.note.bad { "The broker is down: " (visible(reason)) (destination(status)) } }
            (None, _) => { p.note.warn { "The broker has not answered yet." (destination(status)) } }
        }
        @match breaker {
            Some(BreakerReport::Open { since, next_probe }) => {
                p.note.bad {
                    "Sending stopped " (time_ago(*since)) ", as it failed. The next probe of the broker: " (time_ago(*next_probe)) "."
                }
            }
            Some(BreakerReport::HalfOpen) => { p.note.warn { "The broker answers again; one message is sent first." } }
            _ => {}
        }
        @if let Some(last) = status.outbox.as_ref().and_then(|outbox| outbox.last_error.as_ref()) {
            p.note { "Last failure, " (time_ago(last.at)) ": " (visible(&last.error)) }
        }
    }
}

/// The brokers, and where on them messages go.
fn destination(status: &StatusReport) -> Markup {
    html! {
        @if !status.brokers.is_empty() {
            br;
            @if status.brokers.len() == 1 { "Broker: " } @else { "Brokers: " }
            @for (at, broker) in status.brokers.iter().enumerate() { @if at > 0 { ", " } span.id { (visible(broker)) } }
        }
        @if let Some(goes_to) = &status.goes_to { br; "Messages go to " (visible(goes_to)) "." }
    }
}

fn numbers(outbox: &OutboxReport, status: &StatusReport) -> Markup {
    let age = outbox.oldest_age_seconds.filter(|_| outbox.pending > 0);
    let age = age.map(|age| span(Duration::try_from_secs_f64(age).unwrap_or_default()));
    html! {
        ul.cards {
            li { b { a href="messages?state=pending" { (grouped(outbox.pending)) } } span { "pending" } }
            li {
                b { a.bad[outbox.dead > 0] href="dead-letters" { (grouped(outbox.dead)) } }
                span { "dead letters" }
            }
            @if let Some(in_flight) = status.in_flight { li { b { (grouped(in_flight as u64)) } span { "in flight" } } }
            li { b { (age.as_deref().unwrap_or("–")) } span { "age of the oldest pending" } }
            // Only the app knows them.
            @if status.running == Some(true) {
                li { b { (format!("{:.1}", outbox.stored_per_second)) } span { "stored a second" } }
                li { b { (format!("{:.1}", outbox.confirmed_per_second)) } span { "confirmed a second" } }
            }
            li { b { (bytesize::ByteSize::b(outbox.bytes)) } span { "size of what is stored" } }
        }
    }
}

fn instances(instances: &[InstanceReport]) -> Markup {
    let all: u64 = instances.iter().map(|instance| instance.partitions).sum();
    let seconds = |seconds: f64| span(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    html! {
        table.stack {
            thead {
                tr {
                    th scope="col" { "Instance" } th scope="col" { "Since" } th scope="col" { "Last heartbeat" }
                    th scope="col" { "Version" } th scope="col" { "Sends" }
                }
            }
            tbody {
                @for instance in instances {
                    tr data-key=(instance.id) {
                        td.id data-label="Instance" {
                            span title=(instance.id) { (visible(instance.name.as_deref().unwrap_or(&instance.id))) }
                        }
                        td data-label="Since" { span { @match instance.since { Some(since) => { (time_ago(since)) } None => { "unknown" } } } }
                        td data-label="Last heartbeat" {
                            span {
                                @match (instance.heartbeat_age_seconds, instance.expires_in_seconds) {
                                    (Some(age), _) => { (seconds(age)) " ago" }
                                    (None, Some(left)) => { "the next is due within " (seconds(left.ceil())) }
                                    (None, None) => { "needs none: no other process uses this outbox" }
                                }
                            }
                        }
                        td data-label="Version" { span { (visible(instance.version.as_deref().unwrap_or("unknown"))) } }
                        td data-label="Sends" {
                            span {
                                @match instance.partitions {
                                    0 => { "nothing now" }
                                    partitions if partitions == all => { "all messages" }
                                    partitions => { "a part: " (grouped(partitions)) " of " (grouped(all)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
