//! Requeue and drop: a page that asks, with the number of messages, and the operation itself.

use std::time::Duration;

use axum::response::{Html, IntoResponse, Response};
use http::StatusCode;
use maud::{Markup, html};
use serde_json::{Value, json};

use super::api::Api;
use super::done::done;
use super::error::PageError;
use super::fields::Fields;
use super::filter::{Conditions, NAMES};
use super::messages::count;
use super::rate::{RATE, field, rate};
use crate::admin::{Acted, Counted};
use crate::util::readable::{count as number, span};

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
            if let Some(fault) = conditions.fault() {
                return Err(PageError::bad_request(fault));
            }
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

/// The fields of this form, and of the address that asks.
fn known(fields: Fields) -> Result<Fields, PageError> {
    fields.only(&[&NAMES[..], &["act", "rate"]].concat(), &["position"])
}

/// Asks the operator.
pub(super) async fn confirm(api: Api, fields: Fields) -> Result<Html<String>, PageError> {
    ask(&api, &Operation::of(&known(fields)?)?, None).await
}

/// Asks; `wrong` is a text that is no rate.
async fn ask(api: &Api, operation: &Operation, wrong: Option<&str>) -> Result<Html<String>, PageError> {
    let counted = operation.count(api).await?;
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
                    (field(wrong))
                    @if counted.messages > RATE {
                        p.soft {
                            "At " (RATE) " a second the last one is sent after "
                            @if !counted.exact { "more than " } (span(Duration::from_secs(counted.messages / RATE))) "."
                        }
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

/// Does it, and redirects to the outcome.
pub(super) async fn act(api: Api, fields: Fields) -> Result<Response, PageError> {
    let fields = known(fields)?;
    let operation = Operation::of(&fields)?;
    let rate = match rate(&fields) {
        Ok(rate) => rate,
        Err(wrong) => {
            return Ok((StatusCode::BAD_REQUEST, ask(&api, &operation, Some(&wrong)).await?).into_response());
        }
    };
    let acted: Acted = api.post(&format!("/{}", operation.name()), &operation.body(rate, api.undo())).await?;
    let selected = match &operation.which {
        Which::At(positions) => positions.len(),
        Which::Matching(_) => acted.messages,
    };
    let did = match operation.verb {
        Verb::Requeue => "requeued",
        Verb::Drop if acted.undo.is_none() => "dropped",
        Verb::Drop => "dropping",
    };
    let mut outcome = vec![("messages", acted.messages.to_string())];
    outcome.extend(acted.undo.map(|drop| ("drop", drop.to_string())));
    outcome.extend(
        selected.checked_sub(acted.messages).filter(|left| *left > 0).map(|left| ("left", left.to_string())),
    );
    Ok(done(did, &outcome))
}
