//! Storing, in whatever transaction the connection is in.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};
use uuid::Uuid;

use crate::message::Message;
use crate::stores::sql::{Share, details};

/// How many buckets the messages are spread over: so many instances of an app can send at the same time.
pub(super) const BUCKETS: u64 = 16;

pub(super) struct Insert(SqlStr);

impl Insert {
    pub(super) fn new(schema: &str) -> Self {
        let sql = format!(
            "INSERT INTO {schema}.messages (bucket, id, topic, key, details, body) \
             SELECT * FROM unnest($1::smallint[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::bytea[]) \
             RETURNING position"
        );
        Self(AssertSqlSafe(sql).into_sql_str())
    }

    /// Gives the positions, in the order of the messages.
    pub(super) async fn run(
        &self,
        connection: &mut PgConnection,
        messages: &[Message],
        share: &Share,
    ) -> Result<Vec<u64>, sqlx::Error> {
        let buckets: Vec<i16> = messages.iter().map(|message| bucket(message, share)).collect();
        let ids: Vec<Uuid> = messages.iter().map(Message::id).collect();
        let topics: Vec<&str> = messages.iter().map(|message| message.topic().as_str()).collect();
        let keys: Vec<Option<&str>> = messages.iter().map(Message::key).collect();
        let rest: Vec<String> = messages.iter().map(details).collect();
        let bodies: Vec<&[u8]> = messages.iter().map(|message| &message.body()[..]).collect();
        let positions: Vec<(i64,)> = sqlx::query_as(self.0.clone())
            .bind(buckets)
            .bind(ids)
            .bind(topics)
            .bind(keys)
            .bind(rest)
            .bind(bodies)
            .fetch_all(connection)
            .await?;
        Ok(positions.into_iter().map(|(position,)| position as u64).collect())
    }
}

/// Those of a topic and key are in one bucket, whichever process stores them; others in one of this instance's own.
fn bucket(message: &Message, share: &Share) -> i16 {
    let hash = match message.key() {
        Some(key) => {
            let bytes = message.topic().as_str().bytes().chain([0]).chain(key.bytes());
            return (fnv1a(bytes) % BUCKETS) as i16;
        }
        None => message.id().as_u128() as u64,
    };
    match share.buckets.len() as u64 {
        0 => (hash % BUCKETS) as i16,
        own => share.buckets[(hash % own) as usize].0,
    }
}

/// FNV-1a: the same in every process, whatever compiled it.
fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
