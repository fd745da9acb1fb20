//! The page of the operations of operators.

use axum::response::Html;
use maud::{Markup, html};

use super::api::Api;
use super::error::PageError;
use super::text::{key, short, time_ago, visible};
use crate::admin::{OperationReport, Operations, format_time};
use crate::util::readable::{count, grouped};

pub(super) async fn audit(api: Api) -> Result<Html<String>, PageError> {
    Ok(api.page("Audit", "audit").live().render(&content(&api).await?))
}

pub(super) async fn content(api: &Api) -> Result<Markup, PageError> {
    let Operations { operations } = api.get("/operations", &[]).await?;
    Ok(html! {
        div data-part="audit" {
            @if operations.is_empty() { p.note { "Nobody has done anything yet." } } @else {
                table.stack {
                    thead {
                        tr {
                            th scope="col" { "When" } th scope="col" { "Who" } th scope="col" { "What" }
                            th.n scope="col" { "Messages" } th scope="col" { "Which" }
                        }
                    }
                    tbody { @for operation in &operations { (row(operation)) } }
                }
                p.soft { (count(operations.len() as u64, "operation")) ", the newest first." }
            }
        }
    })
}

fn row(OperationReport { record: operation, selection }: &OperationReport) -> Markup {
    html! {
        tr data-key=(key(&format!("{} {}", format_time(operation.at), operation.action))) {
            td data-label="When" { (time_ago(operation.at)) }
            td data-label="Who" { span { (visible(operation.by.as_deref().unwrap_or("the app did not say"))) } }
            td data-label="What" { span { (visible(&operation.action)) } }
            td.n data-label="Messages" { (grouped(operation.messages)) }
            td data-label="Which" { span { (short(selection, 300)) } }
        }
    }
}
