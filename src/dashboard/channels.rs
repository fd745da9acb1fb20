//! The channels of this process.

use std::time::Duration;

use axum::response::Html;
use maud::{Markup, html};

use super::api::Api;
use super::error::PageError;
use super::fields::Fields;
use super::text::{key, short, time_ago};
use crate::admin::{ChannelReport, ChannelsReport};
use crate::util::readable::{count, grouped, span};

pub(super) async fn channels(api: Api, fields: Fields) -> Result<Html<String>, PageError> {
    let fields = fields.only(&["search"], &[])?;
    let search = fields.get("search").unwrap_or_default();
    let body = html! {
        form.filter method="get" action="channels" role="search" aria-label="Filter channels" {
            label { "Name contains" input name="search" value=(search) autocomplete="off" spellcheck="false"; }
            button.main type="submit" { "Filter" }
            @if !search.is_empty() { a.button href="channels" { "Clear" } }
        }
        (content(&api, search).await?)
    };
    let page = api.page("Channels", "channels");
    Ok(if search.is_empty() { page.live() } else { page }.render(&body))
}

pub(super) async fn content(api: &Api, search: &str) -> Result<Markup, PageError> {
    let ChannelsReport { channels, others } = api.get("/channels", &[("search", search.to_owned())]).await?;
    Ok(html! {
        div data-part="channels" {
            @if channels.is_empty() {
                p.note { @if search.is_empty() { "No channel was used yet." } @else { "No channel has such a name." } }
            } @else {
                p.soft { "In and out are counted since this process began." }
                table.stack {
                    thead {
                        tr {
                            th scope="col" { "Channel" } th scope="col" { "Kind" } th.n scope="col" { "Messages" }
                            th.n scope="col" { "Held" } th.n scope="col" { "Delayed" } th.n scope="col" { "Stored" }
                            th.n scope="col" { "Consumers" } th.n scope="col" { "In" } th.n scope="col" { "Out" }
                            th.n scope="col" { "Last sequence" } th scope="col" { "Limits" } th scope="col" { "Last used" }
                        }
                    }
                    tbody { @for channel in &channels { (row(channel)) } }
                }
                @if others > 0 { p.soft { (count(others, "more channel")) " are not listed; filter by name." } }
            }
        }
    })
}

fn row(channel: &ChannelReport) -> Markup {
    html! {
        tr data-key=(key(&format!("{} {}", channel.kind.name(), channel.name))) {
            td data-label="Channel" { span { (short(&channel.name, 120)) } }
            td data-label="Kind" { (channel.kind.name()) }
            td.n data-label="Messages" { (grouped(channel.messages)) }
            td.n data-label="Held" { (grouped(channel.held)) }
            td.n data-label="Delayed" { (grouped(channel.delayed)) }
            td.n data-label="Stored" { (bytesize::ByteSize::b(channel.bytes)) }
            td.n data-label="Consumers" { (grouped(channel.consumers)) }
            td.n data-label="In" { (grouped(channel.incoming)) }
            td.n data-label="Out" { (grouped(channel.outgoing)) }
            td.n data-label="Last sequence" { (grouped(channel.last_sequence)) }
            td data-label="Limits" { span { (limits(channel)) } }
            td data-label="Last used" { @if let Some(at) = channel.last_activity { (time_ago(at)) } @else { "–" } }
        }
    }
}

/// The limits of a channel of its own.
fn limits(channel: &ChannelReport) -> String {
    let age = channel.max_age_seconds.map(|age| span(Duration::from_secs(age)));
    let messages = channel.max_messages.map(|most| count(most, "message"));
    let bytes = channel.max_bytes.map(|most| bytesize::ByteSize::b(most).to_string());
    let own: Vec<_> = age.into_iter().chain(messages).chain(bytes).collect();
    if own.is_empty() { "those of the settings".to_owned() } else { own.join(", ") }
}
