//! The outcome of an operation. A form is answered by a redirect to this page, so that a reload sends no form again.
//!
//! The address holds a word and numbers. No text of the address is shown, as everyone can write a link.

use axum::response::{Html, IntoResponse, Response};
use http::StatusCode;
use http::header::LOCATION;
use maud::{Markup, html};
use uuid::Uuid;

use super::api::Api;
use super::broker::address;
use super::error::PageError;
use super::fields::Fields;
use crate::util::readable::{count, grouped};

/// Redirects to a page beside this one, by a relative address.
pub(super) fn see(page: &str, fields: &[(&str, String)]) -> Response {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    (StatusCode::SEE_OTHER, [(LOCATION, format!("{page}?{query}"))]).into_response()
}

/// Redirects to the outcome.
pub(super) fn done(did: &str, fields: &[(&str, String)]) -> Response {
    let mut all = vec![("did", did.to_owned())];
    all.extend_from_slice(fields);
    see("done", &all)
}

/// Shows the outcome.
pub(super) async fn outcome(api: Api, fields: Fields) -> Result<Html<String>, PageError> {
    let names = ["did", "messages", "drop", "left", "id", "dropped", "queue", "running"];
    let fields = fields.only(&names, &[])?;
    let number: u64 = fields.parsed("messages")?.unwrap_or_default();
    let messages = count(number, "message");
    let (title, then, is_of_broker) = match fields.get("did") {
        Some("requeued") => (format!("Requeued {messages}"), "Sending begins now.", false),
        Some("dropped") => (format!("Dropped {messages}"), "This is final.", false),
        Some("dropping") => match fields.parsed("drop")? {
            Some(drop) if api.is_waiting(drop) => {
                (format!("{messages} will be dropped"), "You can undo it until then.", false)
            }
            _ => (
                format!("A drop of {messages} was asked for"),
                "It can no longer be undone. The audit says how it ended.",
                false,
            ),
        },
        Some("kept") => (format!("Kept {messages}"), "The drop is undone.", false),
        Some("stored") => return stored(&api, &fields),
        Some("broker-requeued") => {
            (format!("Requeued {messages}"), "They are in the queue of the consumer.", true)
        }
        Some("broker-dropped") => (format!("Dropped {messages}"), "This is final.", true),
        _ => return Err(PageError::not_found("the address names no outcome of an operation")),
    };
    let left: u64 = fields.parsed("left")?.unwrap_or_default();
    let is_running = is_of_broker && fields.get("running").is_some();
    let queue = fields.get("queue").filter(|_| is_of_broker);
    let body = html! {
        p.note.good[number > 0].warn[number == 0] role="status" { (title) "." @if number > 0 && !is_running { " " (then) } @if is_running { " It goes on; look at the queue again." } }
        @if left > 0 {
            p.note.warn {
                (grouped(left))
                " of the selected were left as they are: they were sent or dropped meanwhile, are being sent, or are due anyway."
            }
        }
        p {
            @if let Some(queue) = queue { a.button href=(address("broker", queue)) { "The queue" } " " }
            (links())
        }
    };
    let page = if is_of_broker { "dead-letters" } else { "messages" };
    Ok(api.page(&title, page).render(&body))
}

fn stored(api: &Api, fields: &Fields) -> Result<Html<String>, PageError> {
    let id: Uuid =
        fields.parsed("id")?.ok_or_else(|| PageError::bad_request("the address names no message"))?;
    let content = html! {
        p.note.good role="status" { "The new message " span.id { (id) } " is stored." }
        p { @if fields.get("dropped").is_some() { "The original is dropped." } @else { "The original stays stored." } }
        p { a.button href=(format!("messages?id={id}")) { "The new message, until it is sent" } " " (links()) }
    };
    Ok(api.page("Stored a new message", "messages").render(&content))
}

fn links() -> Markup {
    html! {
        a.button href="dead-letters" { "Dead letters" } " " a.button href="messages" { "Messages" } " "
        a.button href="overview" { "Overview" } " " a.button href="audit" { "Audit" }
    }
}
