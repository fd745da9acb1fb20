//! What the engine asks of its database.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Database, Transaction};
use tokio::sync::OwnedMutexGuard;

use super::details::time_in;
use super::row::Row;
use crate::message::Message;
use crate::store::{Counts, EntryState, Filter};

/// Keeps other writers of this process waiting, where the database has one at a time; dropped when the transaction is over.
pub(crate) type Turn = Option<OwnedMutexGuard<()>>;

/// The statements of one database. Each that changes messages as their sender says which buckets it holds, by which tokens: rows of
/// others stay as they are.
#[async_trait]
pub(crate) trait Tables: Send + Sync + 'static {
    type Database: Database;

    /// Begins a transaction that is going to write.
    async fn begin(&self) -> Result<(Turn, Transaction<'static, Self::Database>), sqlx::Error>;

    /// Removes messages that are to be stored once, and were.
    async fn retain_new(
        &self,
        connection: &mut <Self::Database as Database>::Connection,
        messages: &mut Vec<Message>,
    ) -> Result<(), sqlx::Error>;

    /// Stores messages in the transaction of this connection; gives the position and the bucket of each.
    async fn insert(
        &self,
        connection: &mut <Self::Database as Database>::Connection,
        messages: &[Message],
        own: &[i16],
    ) -> Result<Vec<(u64, i16)>, sqlx::Error>;

    /// What is to be sent at once, by position; without the content of what has a key. And whether there is more.
    async fn read(&self, read: &Read) -> Result<(Vec<Row>, bool), sqlx::Error>;

    /// What is due or will be, by time; without the content of what has a key.
    async fn due(&self, buckets: &[i16], known: &[u64]) -> Result<Vec<Row>, sqlx::Error>;

    /// These rows, as far as they are there.
    async fn fetch(&self, positions: &[u64]) -> Result<Vec<Row>, sqlx::Error>;

    /// The first rows of each of these keys, so many at most, but for those whose delay is not over.
    async fn of_keys(&self, keys: &[(i64, usize)]) -> Result<Vec<Row>, sqlx::Error>;

    /// Says of these leased rows how they fared; gives how many messages and bytes have gone.
    async fn settle(&self, held: &[(i16, i64)], fared: &Fared) -> Result<(u64, u64), sqlx::Error>;

    /// A page of both tables after a position, by position.
    async fn list(&self, filter: &Filter, after: i64, limit: usize) -> Result<Vec<Listed>, sqlx::Error>;

    /// Gives dead letters another life, and what waits for a retry its turn; gives what it was, in the order of `positions`.
    async fn requeue(&self, positions: &[u64], pace: Duration) -> Result<Vec<Requeued>, sqlx::Error>;

    /// Drops rows of either table; gives how many messages, how many dead letters, and how many bytes both had.
    async fn delete(&self, positions: &[u64]) -> Result<(u64, u64, u64), sqlx::Error>;

    async fn counts(&self) -> Result<Counts, sqlx::Error>;

    /// The database, for people: without a password.
    fn location(&self) -> String;
}

/// What is to be read.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) after: u64,
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "SQLite has one"))]
    pub(crate) buckets: Vec<i16>,
    /// Not these.
    pub(crate) known: Vec<u64>,
    /// At most so many rows, and about so many bytes.
    pub(crate) limit: usize,
    pub(crate) bytes: usize,
    /// Up to this position.
    pub(crate) until: u64,
}

/// How leased messages fared.
#[derive(Debug, Default)]
pub(crate) struct Fared {
    /// They are gone.
    pub(crate) done: Vec<u64>,
    pub(crate) retried: Vec<Failed>,
    pub(crate) dead: Vec<Failed>,
}

impl Fared {
    pub(crate) fn is_empty(&self) -> bool {
        self.done.is_empty() && self.retried.is_empty() && self.dead.is_empty()
    }
}

/// A message of which an attempt failed.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) position: u64,
    pub(crate) failures: String,
    /// How long it waits, if it is to be tried again.
    pub(crate) wait: Duration,
}

/// A row of a list.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) row: Row,
    pub(crate) state: EntryState,
    /// An earlier one of its topic and key has not left.
    pub(crate) behind: bool,
}

/// A message that was requeued.
#[derive(Debug)]
pub(crate) struct Requeued {
    pub(crate) position: u64,
    pub(crate) was_dead: bool,
    pub(crate) wait: Duration,
}

/// By how much the pace holds up each of these: the first not at all.
pub(crate) fn paced(positions: &[u64], meant: &BTreeMap<u64, bool>, pace: Duration) -> Vec<Requeued> {
    let mut requeued: Vec<Requeued> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for position in positions {
        if let Some(was_dead) = meant.get(position)
            && seen.insert(*position)
        {
            let wait = pace.saturating_mul(u32::try_from(requeued.len()).unwrap_or(u32::MAX));
            requeued.push(Requeued { position: *position, was_dead: *was_dead, wait });
        }
    }
    requeued
}

/// Microseconds; what is beyond all clocks is a century.
pub(crate) fn micros(wait: Duration) -> i64 {
    const CENTURY: i64 = 100 * 365 * 24 * 60 * 60 * 1_000_000;
    i64::try_from(wait.as_micros()).map_or(CENTURY, |micros| micros.min(CENTURY))
}

/// What a filter says that an index may know; the rest of it is asked of what was read.
pub(crate) struct Wanted {
    pub(crate) topic: Option<String>,
    pub(crate) prefix: Option<String>,
    pub(crate) key: Option<String>,
}

impl Wanted {
    pub(crate) fn by(filter: &Filter) -> Self {
        // No text of a database has NUL in it.
        let plain = |text: &Option<String>| text.clone().filter(|text| !text.contains('\0'));
        let (topic, key) = (plain(&filter.topic), plain(&filter.key));
        match topic.as_deref().and_then(|topic| topic.strip_suffix('*')) {
            Some(prefix) => Self { prefix: Some(prefix.to_owned()), topic: None, key },
            None => Self { prefix: None, topic, key },
        }
    }
}

/// Of pending messages, dead letters, bytes, and the details of the oldest.
pub(crate) fn counts_of((pending, dead, bytes, oldest): (i64, i64, i64, Option<String>)) -> Counts {
    let oldest = oldest.as_deref().and_then(time_in);
    Counts { pending: pending as u64, dead: dead as u64, bytes: bytes.max(0) as u64, oldest }
}
