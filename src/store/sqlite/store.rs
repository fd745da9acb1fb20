//! The store in SQLite.

use sqlx::Sqlite;

use crate::store::sql::SqlStore;

/// Keeps messages in tables beside the app's own, so that one COMMIT stores both.
///
/// A message is one row of `messages`: position, id, topic, key, details as JSON, body. It costs **one INSERT, in the transaction that
/// stores it, and one DELETE**, which many messages share, when the broker has confirmed it. There is no UPDATE unless an attempt
/// fails. So the table stays as small as its backlog: SQLite reuses the pages of deleted rows. Dead letters have a table of their own,
/// where they slow down nothing.
///
/// A message without a key that this process has just stored is sent from memory. All others are read in order, and everything is read
/// again now and then. Messages with a key are read when the first of their key can be sent, so that an earlier message that was
/// committed late leaves before a later one. Memory is bounded: about a thousand messages, 8 MiB at most, and the positions of some
/// more.
///
/// **Any number of instances of the app** may open the same tables. One of them sends. If it ends, another takes over; if it dies,
/// another takes over after [`lease`](crate::store::SqlStoreSettings::lease). Each statement checks the fencing token, so an
/// instance that was taken for dead changes nothing any more. Messages of one topic and key leave in order, at least once, whatever
/// the instances do. Each instance counts the limits: exact for one, and about a minute late for messages of others. A message that an
/// operator drops may be being sent by another instance. [`WhenFull::DropOldest`](crate::store::WhenFull::DropOldest) is refused:
/// messages that were committed are not dropped.
///
/// SQLite has one writer at a time, so a transaction of the app that is going to write must begin with `BEGIN IMMEDIATE`. The writers
/// of this crate in one process, each [`Tx`](crate::tx::Tx) included, queue: first come, first served, for at most the pool's
/// `acquire_timeout`. They compete with the app's own transactions and with other processes as SQLite does it: without any order, for
/// at most the pool's `busy_timeout`.
///
/// A clone is a handle to the same store. Dropping the last one releases its messages to other instances, without waiting.
///
/// # Cancel safety
/// Operations continue in tasks of the store when their future is dropped; [`close`](crate::store::Store::close) waits for them.
pub type SqliteStore = SqlStore<Sqlite>;
