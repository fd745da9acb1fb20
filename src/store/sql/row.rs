//! A message as a row of a table.

use std::time::Duration;

use sqlx::{ColumnIndex, Decode, FromRow, Type};
use uuid::Uuid;

use super::details::message;
use crate::message::Message;
use crate::store::EntryState;
use crate::store::schedule::OrderingKey;
use crate::util::error::BoxError;

/// A row of the table of messages, or of dead letters.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) position: u64,
    pub(crate) partition: i16,
    /// The hash of topic and key; `None` if the message has no key.
    pub(crate) key_hash: Option<i64>,
    pub(crate) size: u64,
    /// How long it is not due yet.
    pub(crate) wait: Duration,
    pub(crate) attempts: u32,
    /// The last failures, as [`write_failures`](crate::message::headers::write_failures) writes them.
    pub(crate) failures: Option<String>,
    pub(crate) content: Content,
}

/// The content of a row.
#[derive(Debug)]
pub(crate) enum Content {
    Message(Message),
    /// It cannot be read.
    Damaged(BoxError),
    /// The statement did not ask for it.
    Unread,
}

impl Row {
    pub(in crate::store) fn ordering_key(&self) -> Option<OrderingKey> {
        self.key_hash.map(OrderingKey::from_hash)
    }
}

/// The columns are: position, partition, id, topic, key, key_hash, size, attempts, failures, wait, details, body.
///
/// Only the position must be valid. Any other fault makes the content damaged: one row that was changed by hand must not hold up
/// the others.
impl<'r, R> FromRow<'r, R> for Row
where
    R: sqlx::Row,
    usize: ColumnIndex<R>,
    i16: Decode<'r, R::Database> + Type<R::Database>,
    i32: Decode<'r, R::Database> + Type<R::Database>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    &'r str: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    Vec<u8>: Decode<'r, R::Database> + Type<R::Database>,
    Uuid: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        let mut fault = None;
        let read =
            || message(row.try_get(2)?, row.try_get(3)?, row.try_get(4)?, row.try_get(10)?, row.try_get(11)?);
        let is_read = !matches!(row.try_get::<Option<&str>, _>(10), Ok(None));
        let content = is_read.then(read);
        let found = Self {
            position: row.try_get::<i64, _>(0)? as u64,
            partition: or_fault(row.try_get(1), &mut fault),
            key_hash: or_fault(row.try_get(5), &mut fault),
            size: or_fault(row.try_get::<i32, _>(6), &mut fault).max(0) as u64,
            attempts: or_fault(row.try_get::<i32, _>(7), &mut fault).max(0) as u32,
            failures: or_fault(row.try_get(8), &mut fault),
            wait: Duration::from_micros(or_fault(row.try_get::<i64, _>(9), &mut fault).max(0) as u64),
            content: Content::Unread,
        };
        let content = match (content, fault) {
            (None, _) => Content::Unread,
            (Some(Ok(message)), None) => Content::Message(message),
            (Some(Err(error)), _) => Content::Damaged(error),
            (Some(Ok(_)), Some(fault)) => Content::Damaged(fault.into()),
        };
        Ok(Self { content, ..found })
    }
}

/// Returns the default for a value that cannot be read, and keeps the first such fault.
fn or_fault<T: Default>(read: Result<T, sqlx::Error>, fault: &mut Option<sqlx::Error>) -> T {
    read.unwrap_or_else(|error| {
        fault.get_or_insert(error);
        T::default()
    })
}

/// A row of a list.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) row: Row,
    pub(crate) state: EntryState,
    /// Whether an earlier message of its topic and key has not left.
    pub(crate) behind: bool,
}

/// The columns are those of [`Row`], whether it is a dead letter, and whether it is behind another message.
impl<'r, R> FromRow<'r, R> for Listed
where
    R: sqlx::Row,
    Row: FromRow<'r, R>,
    usize: ColumnIndex<R>,
    bool: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        let state = if row.try_get(12)? { EntryState::Dead } else { EntryState::Pending };
        Ok(Self { behind: row.try_get(13)?, state, row: Row::from_row(row)? })
    }
}
