//! Requeue and drop in the broker's own queues of dead letters.

use axum::response::{Html, IntoResponse, Response};
use http::StatusCode;
use maud::html;
use serde_json::{Value, json};

use super::api::Api;
use super::broker::{address, queue_of};
use super::done::done;
use super::error::PageError;
use super::fields::Fields;
use super::rate::{field, rate};
use super::text::visible;
use crate::admin::BrokerActed;
use crate::util::readable::count;

/// An operation on dead letters of a queue.
struct Operation<'a> {
    queue: &'a str,
    drops: bool,
    which: Which,
}

enum Which {
    Ids(Vec<String>),
    /// So many from the start.
    First(u64),
}

impl<'a> Operation<'a> {
    fn of(fields: &'a Fields) -> Result<Self, PageError> {
        let (drops, all) = match fields.get("act") {
            Some("requeue") => (false, false),
            Some("requeue-all") => (false, true),
            Some("drop") => (true, false),
            Some("drop-all") => (true, true),
            _ => return Err(PageError::bad_request("the form names no operation")),
        };
        let queue = queue_of(fields)?;
        let which = if all {
            let first = fields.parsed("first")?;
            Which::First(first.ok_or_else(|| PageError::bad_request("the form names no number"))?)
        } else {
            Which::Ids(fields.all("id")?)
        };
        if matches!(&which, Which::Ids(ids) if ids.is_empty()) {
            return Err(PageError::bad_request("no message is selected: go back and select some"));
        }
        Ok(Self { queue, drops, which })
    }

    fn body(&self, dry_run: bool, rate: Option<f64>) -> Value {
        let act = if self.drops { "drop" } else { "requeue" };
        let mut body = json!({"queue": self.queue, "act": act, "dry_run": dry_run});
        match &self.which {
            Which::Ids(ids) => body["ids"] = json!(ids),
            Which::First(first) => body["first"] = json!(first),
        }
        if let Some(rate) = rate {
            body["rate"] = json!(rate);
        }
        body
    }
}

/// The fields of this form, and of the address that asks.
fn known(fields: Fields) -> Result<Fields, PageError> {
    fields.only(&["queue", "act", "first", "rate"], &["id"])
}

/// Asks the operator.
pub(super) async fn confirm(api: Api, fields: Fields) -> Result<Html<String>, PageError> {
    let fields = known(fields)?;
    Ok(ask(&api, &Operation::of(&fields)?, None))
}

/// Asks; `wrong` is a text that is no rate.
fn ask(api: &Api, operation: &Operation, wrong: Option<&str>) -> Html<String> {
    let number = match &operation.which {
        Which::Ids(ids) => ids.len() as u64,
        Which::First(first) => *first,
    };
    let messages = count(number, "message");
    let verb = if operation.drops { "Drop" } else { "Requeue" };
    let body = html! {
        dl { dt { "Queue" } dd { (visible(operation.queue)) } }
        p.note.warn {
            @if operation.drops { "Dropped at once, and for good." }
            @else { "Each goes back to the queue of its consumer, without its failed attempts. It leaves this queue once the broker has confirmed the copy." }
        }
        form method="post" action="broker" {
            input type="hidden" name="queue" value=(operation.queue);
            @match &operation.which {
                Which::Ids(ids) => {
                    input type="hidden" name="act" value=(verb.to_lowercase());
                    @for id in ids { input type="hidden" name="id" value=(id); }
                }
                Which::First(first) => {
                    input type="hidden" name="act" value=(format!("{}-all", verb.to_lowercase()));
                    input type="hidden" name="first" value=(first);
                }
            }
            @if operation.drops { button.danger type="submit" { "Drop " (messages) } } @else {
                (field(wrong))
                button.main type="submit" { "Requeue " (messages) }
            }
            " " a.button href=(address("broker", operation.queue)) { "Cancel" }
        }
    };
    api.page(&format!("{verb} {messages}?"), "dead-letters").render(&body)
}

/// Does it. An outcome is a page to redirect to; a fault is answered at once, since its text is in no address.
pub(super) async fn act(api: Api, fields: Fields) -> Result<Response, PageError> {
    let fields = known(fields)?;
    let operation = Operation::of(&fields)?;
    let rate = match rate(&fields) {
        Ok(rate) => Some(rate).filter(|_| !operation.drops),
        Err(wrong) => {
            return Ok((StatusCode::BAD_REQUEST, ask(&api, &operation, Some(&wrong))).into_response());
        }
    };
    let acted: BrokerActed = api.post("/broker-dead-letters", &operation.body(false, rate)).await?;
    if acted.refused == 0 && acted.error.is_none() {
        let mut outcome =
            vec![("messages", acted.messages.to_string()), ("queue", operation.queue.to_owned())];
        outcome.extend(acted.running.then(|| ("running", "yes".to_owned())));
        return Ok(done(if operation.drops { "broker-dropped" } else { "broker-requeued" }, &outcome));
    }
    let verb = if operation.drops { "Dropped" } else { "Requeued" };
    let title = format!("{verb} {}", count(acted.messages, "message"));
    let body = html! {
        p.note.warn role="status" { (title) "." @if acted.running { " It goes on; look at the queue again." } }
        @if acted.refused > 0 {
            p.note.warn { (count(acted.refused, "message")) " stayed: " (visible(acted.error.as_deref().unwrap_or_default())) }
        } @else if let Some(error) = &acted.error {
            p.note.bad { "It ended early; the others are still in the queue: " (visible(error)) }
        }
        p {
            a.button href=(address("broker", operation.queue)) { "The queue" } " "
            a.button href="dead-letters" { "Dead letters" }
        }
    };
    Ok((StatusCode::CONFLICT, api.page(&title, "dead-letters").render(&body)).into_response())
}
