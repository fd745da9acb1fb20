//! The undo of a drop.

use axum::response::Response;
use serde_json::json;

use super::api::Api;
use super::done::done;
use super::error::PageError;
use super::fields::Fields;
use crate::admin::Acted;

/// Takes a drop back, and redirects to the outcome.
pub(super) async fn undo(api: Api, fields: Fields) -> Result<Response, PageError> {
    let fields = fields.only(&["id"], &[])?;
    let id: u64 = fields.parsed("id")?.ok_or_else(|| PageError::bad_request("the form names no drop"))?;
    let undone: Acted = api.post("/undo", &json!({"id": id})).await?;
    Ok(done("kept", &[("messages", undone.messages.to_string())]))
}
