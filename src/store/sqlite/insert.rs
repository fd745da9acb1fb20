//! Inserts messages in the transaction of a connection.

use std::time::SystemTime;

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use super::statements::since_epoch;
use crate::message::Message;
use crate::store::sql::{column_key, delay_left, details, key_hash, micros, size};

#[derive(Debug)]
pub(super) struct Insert(SqlStr);

impl Insert {
    pub(super) fn new(schema: &str) -> Self {
        let sql = format!(
            "INSERT INTO {schema}_messages (id, topic, key, key_hash, details, body, size, due_at) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING position"
        );
        Self(AssertSqlSafe(sql).into_sql_str())
    }

    /// Returns the positions, in the order of the messages.
    pub(super) async fn run(
        &self,
        connection: &mut SqliteConnection,
        messages: &[Message],
    ) -> Result<Vec<u64>, sqlx::Error> {
        let mut positions = Vec::with_capacity(messages.len());
        for message in messages {
            let now = SystemTime::now();
            let wait = Some(delay_left(message, now)).filter(|wait| !wait.is_zero());
            let (position,): (i64,) = sqlx::query_as(self.0.clone())
                .bind(message.id())
                .bind(message.topic().as_str())
                .bind(column_key(message.key()))
                .bind(key_hash(message))
                .bind(details(message))
                .bind(&message.body()[..])
                .bind(size(message) as i64)
                .bind(wait.map(|wait| since_epoch(now) + micros(wait)))
                .fetch_one(&mut *connection)
                .await?;
            positions.push(position as u64);
        }
        Ok(positions)
    }
}
