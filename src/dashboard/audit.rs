//! The page of the operations of operators.

use axum::response::Html;
use maud::html;

use super::api::Api;
use super::error::PageError;
use super::text::{short, time_ago, visible};
use crate::admin::{OperationReport, Operations};
use crate::util::readable::{count, grouped};

pub(super) async fn audit(api: Api) -> Result<Html<String>, PageError> {
    let Operations { operations } = api.get("/operations", &[]).await?;
    let body = html! {
        @if operations.is_empty() { p.note { "Nobody has done anything yet." } } @else {
            table.stack {
                thead {
                    tr {
                        th scope="col" { "When" } th scope="col" { "Who" } th scope="col" { "What" }
                        th.n scope="col" { "Messages" } th scope="col" { "Which" }
                    }
                }
                tbody {
                    @for OperationReport { record: operation, selection } in &operations {
                        tr {
                            td data-label="When" { (time_ago(operation.at)) }
                            td data-label="Who" { span { (visible(operation.by.as_deref().unwrap_or("the app did not say"))) } }
                            td data-label="What" { span { (visible(&operation.action)) } }
                            td.n data-label="Messages" { (grouped(operation.messages)) }
                            td data-label="Which" { span { (short(selection, 300)) } }
                        }
                    }
                }
            }
            p.soft { (count(operations.len() as u64, "operation")) ", the newest first." }
        }
    };
    Ok(api.page("Audit", "audit").render(&body))
}
