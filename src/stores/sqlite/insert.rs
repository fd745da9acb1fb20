//! Storing, in whatever transaction the connection is in.

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use crate::message::Message;
use crate::stores::sql::details;

pub(super) struct Insert(SqlStr);

impl Insert {
    pub(super) fn new(schema: &str) -> Self {
        let sql = format!(
            "INSERT INTO {schema}_messages (id, topic, key, details, body) VALUES (?, ?, ?, ?, ?) RETURNING position"
        );
        Self(AssertSqlSafe(sql).into_sql_str())
    }

    /// Gives the positions, in the order of the messages.
    pub(super) async fn run(
        &self,
        connection: &mut SqliteConnection,
        messages: &[Message],
    ) -> Result<Vec<u64>, sqlx::Error> {
        let mut positions = Vec::with_capacity(messages.len());
        for message in messages {
            let (position,): (i64,) = sqlx::query_as(self.0.clone())
                .bind(message.id())
                .bind(message.topic().as_str())
                .bind(message.key())
                .bind(details(message))
                .bind(&message.body()[..])
                .fetch_one(&mut *connection)
                .await?;
            positions.push(position as u64);
        }
        Ok(positions)
    }
}
