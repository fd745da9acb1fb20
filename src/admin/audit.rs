//! The operations of operators.

use axum::Extension;

use super::operator::Operator;
use crate::outbox::OutboxHandle;
use crate::store::OperationRecord;
use crate::util::error::Chain;

/// The operator, if the app says who it is.
pub(super) type By = Option<Extension<Operator>>;

/// Logs an operation, and keeps it with the store. It has happened: a store that cannot keep it is only reported.
pub(super) async fn record(outbox: &OutboxHandle, by: &By, action: &str, messages: usize, which: String) {
    log(by, action, messages, &which);
    let by = by.as_ref().map(|Extension(operator)| operator.to_string());
    let record = OperationRecord::new(action, messages as u64, which, by);
    if let Err(error) = outbox.record_operation(&record).await {
        tracing::error!(error = %Chain(&error), action, messages, "failed to keep a record of an operation, which was done");
    }
}

/// Logs an operation.
pub(super) fn log(by: &By, action: &str, messages: usize, which: &str) {
    let by = by.as_ref().map_or("nobody named", |Extension(operator)| operator.name());
    tracing::info!(messages, which, by, "{action} of messages by an operator");
}
