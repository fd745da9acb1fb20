//! Drops that wait, and their undo.

use axum::response::Html;
use bytes::Bytes;
use maud::{Markup, html};
use serde_json::json;

use super::api::Api;
use super::error::PageError;
use super::fields::Fields;
use super::text::{short, time_ago};
use crate::admin::{Acted, LaterDropsListed};
use crate::util::readable::count as number;

/// Takes a drop back.
pub(super) async fn undo(api: Api, body: Bytes) -> Result<Html<String>, PageError> {
    let fields = Fields::parse(&body);
    let id: u64 = fields.parsed("id")?.ok_or_else(|| PageError::bad_request("the form names no drop"))?;
    let undone: Acted = api.post("/undo", &json!({"id": id})).await?;
    let title = format!("Kept {}", number(undone.messages as u64, "message"));
    let body = html! {
        p.note.good role="status" { (title) ". The drop is undone." }
        p { a.button href="dead-letters" { "Dead letters" } " " a.button href="messages" { "Messages" } }
    };
    Ok(api.page(&title, "messages").render(&body))
}

/// The drops that wait, each with a button.
pub(super) async fn waiting(api: &Api) -> Result<Markup, PageError> {
    let LaterDropsListed { drops } = api.get("/drops", &[]).await?;
    Ok(html! {
        @for drop in &drops {
            form.note.warn method="post" action="undo" {
                (number(drop.messages as u64, "message")) " will be dropped " (time_ago(drop.due)) " (" (short(&drop.which, 120)) ") "
                input type="hidden" name="id" value=(drop.id);
                button type="submit" { "Undo" }
            }
        }
    })
}
