//! Requeue and drop: a page that asks, with the number of messages, and the operation itself.

use std::time::Duration;

use axum::extract::RawQuery;
use axum::response::Html;
use bytes::Bytes;
use maud::{Markup, html};
use serde_json::{Value, json};

use super::api::Api;
use super::error::PageError;
use super::fields::Fields;
use super::filter::Conditions;
use super::messages::count;
use crate::admin::{Acted, Counted};
use crate::util::readable::{count as number, grouped, span};

/// How many messages a second are requeued, unless the operator writes another number.
const RATE: u64 = 100;

/// For how long messages are counted before the operator is asked.
const COUNT: &str = "1s";

/// An operation on messages.
struct Operation {
    verb: Verb,
    which: Which,
}

#[derive(Clone, Copy, PartialEq)]
enum Verb {
    Requeue,
    Drop,
}

enum Which {
    At(Vec<u64>),
    Matching(Conditions),
}

impl Operation {
    fn of(fields: &Fields) -> Result<Self, PageError> {
        let (verb, all) = match fields.get("act") {
            Some("requeue") => (Verb::Requeue, false),
            Some("requeue-all") => (Verb::Requeue, true),
            Some("drop") => (Verb::Drop, false),
            Some("drop-all") => (Verb::Drop, true),
            _ => return Err(PageError::bad_request("the form names no operation")),
        };
        if all {
            let mut conditions = Conditions::of(fields);
            if verb == Verb::Requeue {
                conditions = conditions.or_state("dead");
            }
            return Ok(Self { verb, which: Which::Matching(conditions) });
        }
        let positions = fields.all("position")?;
        if positions.is_empty() {
            return Err(PageError::bad_request("no message is selected: go back and select some"));
        }
        Ok(Self { verb, which: Which::At(positions) })
    }

    fn name(&self) -> &'static str {
        match self.verb {
            Verb::Requeue => "requeue",
            Verb::Drop => "drop",
        }
    }

    async fn count(&self, api: &Api) -> Result<Counted, PageError> {
        match &self.which {
            Which::At(positions) => Ok(Counted { messages: positions.len() as u64, exact: true }),
            Which::Matching(conditions) => count(api, conditions, COUNT).await,
        }
    }

    fn body(&self, rate: f64, undo: Duration) -> Value {
        let mut body = json!({"dry_run": false});
        match &self.which {
            Which::At(positions) => body["positions"] = json!(positions),
            Which::Matching(conditions) => body["filter"] = conditions.object(),
        }
        match self.verb {
            Verb::Requeue => body["rate"] = json!(rate),
            Verb::Drop if undo.is_zero() => {}
            Verb::Drop => body["after"] = json!(undo.as_secs().max(1)),
        }
        body
    }

    /// The fields of the form that does it.
    fn hidden(&self) -> Markup {
        html! {
            @match &self.which {
                Which::At(positions) => {
                    input type="hidden" name="act" value=(self.name());
                    @for position in positions { input type="hidden" name="position" value=(position); }
                }
                Which::Matching(conditions) => {
                    input type="hidden" name="act" value=(format!("{}-all", self.name()));
                    (conditions.hidden())
                }
            }
        }
    }
}

/// Asks the operator.
pub(super) async fn confirm(api: Api, RawQuery(query): RawQuery) -> Result<Html<String>, PageError> {
    let operation = Operation::of(&Fields::parse(query.unwrap_or_default().as_bytes()))?;
    let counted = operation.count(&api).await?;
    let messages = number(counted.messages, "message");
    let messages = if counted.exact { messages } else { format!("more than {messages}") };
    let drop = match api.undo() {
        Duration::ZERO => {
            "Dropped at once, and for good. A message that is being sent at that moment stays.".to_owned()
        }
        window => format!(
            "Dropped in {}, until when you can undo it. A message that is sent before, or is being sent then, is not dropped.",
            span(window)
        ),
    };
    let (title, what) = match operation.verb {
        Verb::Requeue => (
            format!("Requeue {messages}?"),
            "Their sending begins again. Messages that wait for their next attempt are tried now.",
        ),
        Verb::Drop => (format!("Drop {messages}?"), drop.as_str()),
    };
    let body = html! {
        @if let Which::Matching(conditions) = &operation.which { (conditions.described()) }
        @if counted.messages == 0 { p.note { "No message matches: there is nothing to do." } } @else {
            p.note.warn { (what) }
            form method="post" action="act" {
                (operation.hidden())
                @if operation.verb == Verb::Requeue {
                    div.row {
                        label { "Messages requeued a second, at most" input name="rate" value=(RATE) inputmode="decimal" required; }
                    }
                    @if counted.messages > RATE {
                        p.soft { "At " (RATE) " a second this page waits for " (span(Duration::from_secs(counted.messages / RATE))) "." }
                    }
                    button.main type="submit" { "Requeue " (messages) }
                } @else {
                    button.danger type="submit" { "Drop " (messages) }
                }
                @let back = match &operation.which {
                Which::At(_) => "messages".to_owned(),
                Which::Matching(conditions) => format!("messages?{}", conditions.query(&[])),
            };
            " " a.button href=(back) { "Cancel" }
            }
        }
    };
    Ok(api.page(&title, "messages").render(&body))
}

/// Does it.
pub(super) async fn act(api: Api, body: Bytes) -> Result<Html<String>, PageError> {
    let fields = Fields::parse(&body);
    let operation = Operation::of(&fields)?;
    let rate = fields.grouped("rate")?.unwrap_or(RATE as f64);
    let acted: Acted = api.post(&format!("/{}", operation.name()), &operation.body(rate, api.undo())).await?;
    let messages = number(acted.messages as u64, "message");
    let selected = match &operation.which {
        Which::At(positions) => positions.len(),
        Which::Matching(_) => acted.messages,
    };
    let (title, done) = match operation.verb {
        Verb::Requeue => (format!("Requeued {messages}"), "Sending begins now.".to_owned()),
        Verb::Drop if acted.undo.is_none() => (format!("Dropped {messages}"), "This is final.".to_owned()),
        Verb::Drop => {
            (format!("{messages} will be dropped"), format!("You can undo it for {}.", span(api.undo())))
        }
    };
    let body = html! {
        p.note.good[acted.messages > 0].warn[acted.messages == 0] role="status" { (title) ". " @if acted.messages > 0 { (done) } }
        @if acted.messages < selected {
            p.note.warn {
                (grouped((selected - acted.messages) as u64))
                " of the selected were left as they are: they were sent or dropped meanwhile, are being sent, or are due anyway."
            }
        }
        @if let Some(id) = acted.undo {
            form method="post" action="undo" {
                input type="hidden" name="id" value=(id);
                button.main type="submit" { "Undo" }
            }
        }
        p {
            a.button href="dead-letters" { "Dead letters" } " " a.button href="messages" { "Messages" } " "
            a.button href="overview" { "Overview" }
        }
    };
    Ok(api.page(&title, "messages").render(&body))
}
