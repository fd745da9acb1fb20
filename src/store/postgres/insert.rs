//! Inserts messages in the transaction of a connection.

use std::time::SystemTime;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};
use uuid::Uuid;

use super::mark::MARKED;
use crate::message::Message;
use crate::store::sql::{column_key, delay_left, details, key_hash, micros, size, transaction_is_over};

/// How many partitions there are, and so how many instances of an app can send at the same time.
pub(super) const PARTITIONS: i16 = 16;

#[derive(Debug)]
pub(super) struct Insert {
    /// Most requests store one message. One row is planned once for all of them.
    one: SqlStr,
    many: SqlStr,
}

impl Insert {
    pub(super) fn new(schema: &str) -> Self {
        let sql = |sql: String| AssertSqlSafe(sql).into_sql_str();
        let into = format!(
            "INSERT INTO {schema}.messages (partition, id, topic, key, key_hash, details, body, size, due_at)"
        );
        // `now()` would be when the transaction began, perhaps long before.
        let one = format!(
            "{into} SELECT $1, $2, $3, $4, $5, $6, $7, $8, clock_timestamp() + $9::bigint * interval '1 microsecond' \
             WHERE {MARKED} RETURNING position"
        );
        let many = format!(
            "{into} SELECT partition, id, topic, key, key_hash, details, body, size, clock_timestamp() + wait * interval '1 microsecond' \
             FROM unnest($1::smallint[], $2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bytea[], $8::int[], $9::bigint[]) \
             AS m (partition, id, topic, key, key_hash, details, body, size, wait) \
             WHERE {MARKED} RETURNING position"
        );
        Self { one: sql(one), many: sql(many) }
    }

    /// Returns the position and the partition of each, in the order of the messages. Fails if the transaction is over.
    pub(super) async fn run(
        &self,
        connection: &mut PgConnection,
        messages: &[Message],
        own: &[i16],
    ) -> Result<Vec<(u64, i16)>, sqlx::Error> {
        let now = SystemTime::now();
        let wait =
            |message: &Message| Some(delay_left(message, now)).filter(|wait| !wait.is_zero()).map(micros);
        let message = match messages {
            [] => return Ok(Vec::new()),
            [message] => message,
            _ => return self.many(connection, messages, own, wait).await,
        };
        let hash = key_hash(message);
        let partition = partition(message, hash, own);
        let position: Option<(i64,)> = sqlx::query_as(self.one.clone())
            .bind(partition)
            .bind(message.id())
            .bind(message.topic().as_str())
            .bind(column_key(message.key()))
            .bind(hash)
            .bind(details(message))
            .bind(&message.body()[..])
            .bind(size(message) as i32)
            .bind(wait(message))
            .fetch_optional(connection)
            .await?;
        let (position,) = position.ok_or_else(transaction_is_over)?;
        Ok(vec![(position as u64, partition)])
    }

    async fn many(
        &self,
        connection: &mut PgConnection,
        messages: &[Message],
        own: &[i16],
        wait: impl Fn(&Message) -> Option<i64>,
    ) -> Result<Vec<(u64, i16)>, sqlx::Error> {
        let hashes: Vec<Option<i64>> = messages.iter().map(key_hash).collect();
        let partitions: Vec<i16> =
            messages.iter().zip(&hashes).map(|(message, hash)| partition(message, *hash, own)).collect();
        let ids: Vec<Uuid> = messages.iter().map(Message::id).collect();
        let topics: Vec<&str> = messages.iter().map(|message| message.topic().as_str()).collect();
        let keys: Vec<Option<&str>> = messages.iter().map(|message| column_key(message.key())).collect();
        let rest: Vec<String> = messages.iter().map(details).collect();
        let bodies: Vec<&[u8]> = messages.iter().map(|message| &message.body()[..]).collect();
        let sizes: Vec<i32> = messages.iter().map(|message| size(message) as i32).collect();
        let waits: Vec<Option<i64>> = messages.iter().map(wait).collect();
        let positions: Vec<(i64,)> = sqlx::query_as(self.many.clone())
            .bind(&partitions)
            .bind(ids)
            .bind(topics)
            .bind(keys)
            .bind(hashes)
            .bind(rest)
            .bind(bodies)
            .bind(sizes)
            .bind(waits)
            .fetch_all(connection)
            .await?;
        if positions.len() < messages.len() {
            return Err(transaction_is_over());
        }
        Ok(positions.into_iter().map(|(position,)| position as u64).zip(partitions).collect())
    }
}

/// Returns the partition of a message: by topic and key, the same in every process; without a key one of this instance's own.
fn partition(message: &Message, key_hash: Option<i64>, own: &[i16]) -> i16 {
    if let Some(hash) = key_hash {
        return (hash as u64 % PARTITIONS as u64) as i16;
    }
    let any = message.id().as_u128() as u64;
    match own.len() as u64 {
        0 => (any % PARTITIONS as u64) as i16,
        len => own[(any % len) as usize],
    }
}
