//! Dead letters, grouped by reason and topic.

use axum::response::Html;
use maud::{Markup, html};

use super::api::Api;
use super::broker;
use super::error::PageError;
use super::fields::Fields;
use super::filter::Conditions;
use super::text::{short, time_ago};
use crate::admin::{Group, Groups};
use crate::util::readable::{count, grouped};

/// For how long dead letters are counted.
const COUNT: &str = "100ms";

pub(super) async fn dead_letters(api: Api, fields: Fields) -> Result<Html<String>, PageError> {
    let fields = fields.only(&["within"], &[])?;
    let within = fields.get("within");
    let (groups, broker) = (grouped_within(&api, within.unwrap_or(COUNT)).await, broker::queues(&api).await?);
    let (groups, is_live) = match groups {
        Ok(groups) => (groups, within.is_none()),
        // Consumers have dead letters also without an outbox.
        Err(error) if broker.is_some() => (html! { p.note { (error) } }, false),
        Err(error) => return Err(error),
    };
    let body = html! { (groups) @if let Some(broker) = broker { h2 { "In the broker" } (broker) } };
    let page = api.page("Dead letters", "dead-letters");
    Ok(if is_live { page.live() } else { page }.render(&body))
}

pub(super) async fn content(api: &Api) -> Result<Markup, PageError> {
    grouped_within(api, COUNT).await
}

/// The groups of the dead letters that are found within so long.
async fn grouped_within(api: &Api, within: &str) -> Result<Markup, PageError> {
    let groups: Groups = api.get("/groups", &[("within", within.to_owned())]).await?;
    Ok(html! {
        div data-part="groups" {
            @if groups.counted == 0 { p.note.good { "There is no dead letter." } } @else {
                p role="status" {
                    @if groups.exact { (count(groups.counted, "dead letter")) }
                    @else {
                        "The first " (count(groups.counted, "dead letter")) " are grouped. There may be more, also of other reasons and topics, so every number is at least this. "
                        a href="dead-letters?within=10s" { "Group for 10 seconds" }
                    }
                }
                form.row method="get" action="confirm" {
                    (Conditions::dead().hidden())
                    a.button href=(format!("messages?{}", Conditions::dead().query(&[]))) { "One by one" }
                    button type="submit" name="act" value="requeue-all" { "Requeue all" }
                }
                (table(&groups.groups))
                @if groups.others > 0 { p.soft { (count(groups.others, "dead letter")) " of other groups are not listed." } }
            }
        }
    })
}

fn table(groups: &[Group]) -> Markup {
    html! {
        table.stack {
            thead {
                tr {
                    th.n scope="col" { "Number" } th scope="col" { "Reason" } th scope="col" { "Topic" }
                    th scope="col" { "First failure" } th scope="col" { "Last failure" } th scope="col" { "Operations" }
                }
            }
            tbody { @for group in groups { (row(group)) } }
        }
    }
}

fn row(group: &Group) -> Markup {
    let mut conditions = Conditions::dead();
    if !group.reason.is_empty() {
        conditions = conditions.and("reason", group.reason.clone());
    }
    if let Some(topic) = &group.topic {
        conditions = conditions.and("topic", topic.clone());
    }
    html! {
        tr data-key=(conditions.query(&[])) {
            td.n data-label="Number" { a href=(format!("messages?{}", conditions.query(&[]))) { (grouped(group.messages)) } }
            td data-label="Reason" { span { (short(&group.reason, 300)) } }
            td data-label="Topic" { span { (short(group.topic.as_deref().unwrap_or("unreadable"), 80)) } }
            td data-label="First failure" { @if let Some(at) = group.first { (time_ago(at)) } @else { "–" } }
            td data-label="Last failure" { @if let Some(at) = group.last { (time_ago(at)) } @else { "–" } }
            td data-label="Operations" {
                form.row method="get" action="confirm" {
                    (conditions.hidden())
                    button type="submit" name="act" value="requeue-all" { "Requeue" }
                    button.danger type="submit" name="act" value="drop-all" { "Drop" }
                }
            }
        }
    }
}
