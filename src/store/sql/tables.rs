//! The statements that the engine needs of its database.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{Stream, TryStreamExt};
use sqlx::{Database, Pool, Transaction};
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use super::details::time_in;
use super::row::{Listed, Row};
use crate::message::Message;
use crate::store::entry::PAGE_BYTES;
use crate::store::{Counts, Filter};

/// The right to write, where a database has one writer at a time. Other writers of this process wait until it is dropped.
pub(crate) type WritePermit = Option<OwnedMutexGuard<()>>;

/// The statements of one database.
///
/// Statements that settle messages take the held partitions with their fencing tokens, so they cannot change rows of another
/// instance.
#[async_trait]
pub(crate) trait Tables: Send + Sync + 'static {
    type Database: Database;

    fn pool(&self) -> &Pool<Self::Database>;

    /// Describes the database without its password.
    fn location(&self) -> String;

    /// Waits for the right to write.
    async fn write_permit(&self) -> Result<WritePermit, sqlx::Error>;

    /// Begins a transaction that will write.
    async fn begin(&self) -> Result<(WritePermit, Transaction<'static, Self::Database>), sqlx::Error>;

    /// Notes that a transaction of a request was rolled back.
    fn rolled_back(&self) {}

    // --- storing

    /// Prepares a transaction that the app began, so that messages can be inserted into it. With `notify`, its COMMIT notifies
    /// all instances.
    async fn prepare(
        &self,
        connection: &mut <Self::Database as Database>::Connection,
        notify: bool,
    ) -> Result<(), sqlx::Error>;

    /// Inserts messages in the transaction of this connection. Returns the position and partition of each. Fails if the
    /// transaction is over.
    ///
    /// Messages without a key go to one of the `own` partitions, if there are any.
    async fn insert(
        &self,
        connection: &mut <Self::Database as Database>::Connection,
        messages: &[Message],
        own: &[i16],
    ) -> Result<Vec<(u64, i16)>, sqlx::Error>;

    /// Records ids of a source in the inbox, in the transaction of this connection. Returns those that are new: none if the
    /// transaction is over.
    ///
    /// Waits for other transactions that record the same.
    async fn record(
        &self,
        connection: &mut <Self::Database as Database>::Connection,
        source: &str,
        ids: &[Uuid],
    ) -> Result<HashSet<Uuid>, sqlx::Error>;

    /// Deletes at most [`FORGET_AT_ONCE`] ids of the inbox that are older than this. Returns how many.
    async fn forget(&self, retention: Duration) -> Result<u64, sqlx::Error>;

    // --- reading

    /// Reads messages without a due time, by position; those with a key without their content. Returns whether there are
    /// more.
    async fn read(&self, read: &Read) -> Result<(Vec<Row>, bool), sqlx::Error>;

    /// Reads messages with a due time, by that time, without their content.
    async fn due(&self, partitions: &[i16], known: &[u64]) -> Result<Vec<Row>, sqlx::Error>;

    /// Reads these messages, as far as they exist.
    async fn fetch(&self, positions: &[u64]) -> Result<Vec<Row>, sqlx::Error>;

    /// Reads the first messages of each key, at most so many; not those whose delay is not over.
    async fn of_keys(&self, keys: &[(i64, usize)]) -> Result<Vec<Row>, sqlx::Error>;

    // --- settling

    /// Writes what became of leased messages. Returns how many messages and bytes were removed.
    async fn settle(&self, held: &[(i16, i64)], batch: &SettleBatch) -> Result<(u64, u64), sqlx::Error>;

    // --- operating

    /// Lists messages and dead letters after a position, by position: at most so many, about [`PAGE_BYTES`], and those that match among
    /// the next [`SCANNED`] of each. Also returns the position behind which there may be more.
    async fn list(
        &self,
        filter: &Filter,
        after: i64,
        limit: usize,
    ) -> Result<(Vec<Listed>, Option<i64>), sqlx::Error>;

    /// Returns which of these messages can be requeued, and whether they are dead letters: the others wait for a retry.
    async fn requeueable(
        &self,
        connection: &mut <Self::Database as Database>::Connection,
        positions: &[u64],
    ) -> Result<BTreeMap<u64, bool>, sqlx::Error>;

    /// Makes dead letters pending again, and sets when messages that wait for a retry are due.
    async fn requeue(
        &self,
        connection: &mut <Self::Database as Database>::Connection,
        requeued: &[Requeued],
    ) -> Result<(), sqlx::Error>;

    /// Deletes messages and dead letters. Returns how many messages, how many dead letters, and how many bytes of both.
    async fn delete(&self, positions: &[u64]) -> Result<(u64, u64, u64), sqlx::Error>;

    async fn counts(&self) -> Result<Counts, sqlx::Error>;
}

/// How many ids of the inbox are deleted in one statement.
pub(crate) const FORGET_AT_ONCE: u64 = 1_000;

/// A range of messages to be read.
#[derive(Debug)]
pub(crate) struct Read {
    /// The range begins behind this position.
    pub(crate) after: u64,
    /// The range ends with this position.
    pub(crate) until: u64,
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "SQLite has one partition"))]
    pub(crate) partitions: Vec<i16>,
    /// These are not read again.
    pub(crate) known: Vec<u64>,
    /// At most so many rows, and about so many bytes.
    pub(crate) limit: usize,
    pub(crate) bytes: usize,
}

/// The outcomes of leased messages.
#[derive(Debug, Default)]
pub(crate) struct SettleBatch {
    pub(crate) removed: Vec<u64>,
    pub(crate) retried: Vec<FailedMessage>,
    pub(crate) dead: Vec<FailedMessage>,
}

impl SettleBatch {
    pub(crate) fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.retried.is_empty() && self.dead.is_empty()
    }
}

/// A message of which an attempt failed.
#[derive(Debug)]
pub(crate) struct FailedMessage {
    pub(crate) position: u64,
    /// The last failures, as the column has them.
    pub(crate) failures: String,
    /// How long it waits for its next attempt.
    pub(crate) wait: Duration,
}

/// A message that is requeued.
#[derive(Debug)]
pub(crate) struct Requeued {
    pub(crate) position: u64,
    pub(crate) was_dead: bool,
    pub(crate) wait: Duration,
}

impl Requeued {
    /// Gives each of `positions` that can be requeued its time: the first at once, each later one after another `pace`.
    pub(crate) fn paced(
        positions: &[u64],
        mut requeueable: BTreeMap<u64, bool>,
        pace: Duration,
    ) -> Vec<Self> {
        let found = positions.iter().filter_map(|position| requeueable.remove_entry(position));
        let paced = found.enumerate().map(|(earlier, (position, was_dead))| {
            let wait = pace.saturating_mul(u32::try_from(earlier).unwrap_or(u32::MAX));
            Self { position, was_dead, wait }
        });
        paced.collect()
    }
}

/// How many rows of each table one statement of a list looks at. A filter that matches little would else read the whole table, for as
/// long as that takes.
pub(crate) const SCANNED: i64 = 20_000;

/// Whether a list looks at rows that do not match.
pub(crate) fn is_search(filter: &Filter) -> bool {
    filter.id.is_some() || filter.topic.is_some() || filter.key.is_some()
}

/// Reads the rows of a list up to its limits; those after `reached` are not among them.
pub(crate) async fn listed(
    mut rows: impl Stream<Item = Result<Listed, sqlx::Error>> + Unpin,
    limit: usize,
    reached: Option<i64>,
) -> Result<(Vec<Listed>, Option<i64>), sqlx::Error> {
    let (mut listed, mut bytes) = (Vec::new(), 0);
    while let Some(one) = rows.try_next().await? {
        let position = signed(one.row.position);
        bytes += one.row.size;
        listed.push(one);
        if listed.len() >= limit || bytes >= PAGE_BYTES as u64 {
            return Ok((listed, Some(position)));
        }
    }
    Ok((listed, reached))
}

/// Microseconds for a statement, at most a century of them.
pub(crate) fn micros(wait: Duration) -> i64 {
    wait.min(crate::util::deadline::FOR_EVER).as_micros() as i64
}

/// A position as the columns have it. No row has one beyond them.
pub(crate) fn signed(position: u64) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

/// The conditions of a filter that a statement can check; the others are checked on what was read.
pub(crate) struct Conditions {
    pub(crate) topic: Option<String>,
    pub(crate) prefix: Option<String>,
    pub(crate) key: Option<String>,
}

impl Conditions {
    pub(crate) fn of(filter: &Filter) -> Self {
        // Texts in a database have no NUL character.
        let plain = |text: &Option<String>| text.clone().filter(|text| !text.contains('\0'));
        let (topic, key) = (plain(&filter.topic), plain(&filter.key));
        match topic.as_deref().and_then(|topic| topic.strip_suffix('*')) {
            Some(prefix) => Self { prefix: Some(prefix.to_owned()), topic: None, key },
            None => Self { prefix: None, topic, key },
        }
    }
}

/// From the numbers of pending messages, dead letters and bytes, and the details of the oldest message.
pub(crate) fn counts_of((pending, dead, bytes, oldest): (i64, i64, i64, Option<String>)) -> Counts {
    let oldest = oldest.as_deref().and_then(time_in);
    Counts { pending: pending as u64, dead: dead as u64, bytes: bytes.max(0) as u64, oldest }
}
