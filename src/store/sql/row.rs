//! A message as it stands in a table.

use std::time::Duration;

use sqlx::{ColumnIndex, Decode, Type};
use uuid::Uuid;

use super::details::message;
use crate::message::Message;
use crate::store::schedule::OrderingKey;
use crate::util::error::BoxError;

/// A row of the table of messages.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) position: u64,
    pub(crate) bucket: i16,
    /// Of topic and key; none if it has no key.
    pub(crate) key_hash: Option<i64>,
    pub(crate) size: u64,
    /// How long it is not due yet.
    pub(crate) wait: Duration,
    pub(crate) attempts: u32,
    /// The last failures, as [`headers::write_failures`](crate::message::headers::write_failures) writes them.
    pub(crate) failures: Option<String>,
    pub(crate) content: Content,
}

/// What of a message was read.
#[derive(Debug)]
pub(crate) enum Content {
    /// All of it.
    Message(Message),
    /// It cannot be read.
    Damaged(BoxError),
    /// It was not asked for.
    Unread,
}

impl Row {
    /// Only the position must be one.
    ///
    /// What the statements read: position, bucket, id, topic, key, key_hash, size, attempts, failures, wait, details, body.
    pub(crate) fn of<'r, R>(row: &'r R) -> Result<Self, sqlx::Error>
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
        let mut fault = None;
        let read =
            || message(row.try_get(2)?, row.try_get(3)?, row.try_get(4)?, row.try_get(10)?, row.try_get(11)?);
        let whole = !matches!(row.try_get::<Option<&str>, _>(10), Ok(None));
        let content = whole.then(read);
        let found = Self {
            position: row.try_get::<i64, _>(0)? as u64,
            bucket: or_fault(row.try_get(1), &mut fault),
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

    pub(crate) fn group(&self) -> Option<OrderingKey> {
        self.key_hash.map(OrderingKey::from_hash)
    }
}

/// What cannot be read is nothing, and the first such fault is kept: one row that somebody changed must not stop the others.
fn or_fault<T: Default>(read: Result<T, sqlx::Error>, fault: &mut Option<sqlx::Error>) -> T {
    read.unwrap_or_else(|error| {
        fault.get_or_insert(error);
        T::default()
    })
}
