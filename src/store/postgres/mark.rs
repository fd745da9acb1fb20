//! Marks a transaction, so that a COMMIT or ROLLBACK by hand is found.
//!
//! The mark is a setting that ends with its transaction (`SET LOCAL`). Statements that must be in that transaction write nothing without
//! it, and need no round trip to find out.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row, SqlSafeStr, SqlStr};

use super::notifier::{MESSAGES, channel};

/// Begins a marked transaction, in one round trip.
pub(super) const BEGIN: &str = "BEGIN; SET LOCAL tower_outbox.tx = 'on'";

/// The condition of statements that must be in a marked transaction. Outside, the setting is empty or unknown.
pub(super) const MARKED: &str = "current_setting('tower_outbox.tx', true) = 'on'";

/// Marks the transaction of this connection, if there is one.
pub(super) const MARK: &str = "SET LOCAL tower_outbox.tx = 'on'";

/// Returns the statements that mark a transaction whose COMMIT wakes all instances.
///
/// A NOTIFY makes such COMMITs wait for each other, so transactions of requests have none.
pub(super) fn mark_and_notify(schema: &str) -> SqlStr {
    AssertSqlSafe(format!("{MARK}; SELECT pg_notify('{}', '{MESSAGES}')", channel(schema))).into_sql_str()
}

/// Whether the connection is in a marked transaction.
pub(super) async fn is_marked(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let row = sqlx::raw_sql("SELECT current_setting('tower_outbox.tx', true)").fetch_one(connection).await?;
    Ok(row.try_get::<Option<String>, _>(0)?.as_deref() == Some("on"))
}
