//! The texts of the statements, with the prefix of the tables.

use std::time::SystemTime;

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use crate::store::sql::FORGET_AT_ONCE;

/// The columns of a [`Row`](crate::store::sql::Row) in order, followed by `WAIT`, details and body.
const COLUMNS: &str = "position, 0 AS partition, id, topic, key, key_hash, size, attempts, failures";
/// Microseconds until a message is due, without an overflow for any value of `due_at`.
const WAIT: &str = "CASE WHEN due_at > ?1 THEN CAST(due_at - ?1 AS INTEGER) ELSE 0 END AS wait";

/// The columns that a message and its dead letter share, without `attempts` and `failures`.
const MOVED: &str = "position, id, topic, key, key_hash, details, body, size, stored_at";

/// Whether the partition still has this fencing token.
const HELD: &str = "EXISTS (SELECT 1 FROM {schema}_partitions WHERE partition = 0 AND fencing_token = ?1)";

/// Lists of positions are JSON arrays.
#[derive(Debug)]
pub(super) struct Statements {
    pub(super) read: SqlStr,
    pub(super) due: SqlStr,
    pub(super) fetch: SqlStr,
    pub(super) of_key: SqlStr,
    pub(super) remove: SqlStr,
    pub(super) retry: SqlStr,
    pub(super) copy_to_dead_letters: SqlStr,
    pub(super) remove_dead: SqlStr,
    pub(super) reached: SqlStr,
    pub(super) list: SqlStr,
    pub(super) requeueable: SqlStr,
    pub(super) requeue_dead: SqlStr,
    pub(super) remove_requeued: SqlStr,
    pub(super) requeue_waiting: SqlStr,
    pub(super) delete: SqlStr,
    pub(super) delete_dead: SqlStr,
    pub(super) counts: SqlStr,
    pub(super) record: SqlStr,
    pub(super) forget: SqlStr,
}

impl Statements {
    pub(super) fn new(schema: &str) -> Self {
        let sql = |sql: String| AssertSqlSafe(sql.replace("{schema}", schema)).into_sql_str();
        let these = "position IN (SELECT value FROM json_each(?1))";
        let condition = "(?6 IS NULL OR id = ?6) AND (?7 IS NULL OR topic = ?7) \
             AND (?8 IS NULL OR substr(topic, 1, length(?8)) = ?8) AND (?9 IS NULL OR key = ?9)";
        Self {
            read: sql(format!(
                "SELECT {COLUMNS}, 0 AS wait, CASE WHEN key_hash IS NULL THEN details END, \
                 CASE WHEN key_hash IS NULL THEN body END FROM {{schema}}_messages \
                 WHERE position > ?1 AND position <= ?2 AND due_at IS NULL \
                 AND position NOT IN (SELECT value FROM json_each(?3)) ORDER BY position LIMIT ?4"
            )),
            due: sql(format!(
                "SELECT {COLUMNS}, {WAIT}, NULL, NULL FROM {{schema}}_messages WHERE due_at IS NOT NULL \
                 AND position NOT IN (SELECT value FROM json_each(?2)) ORDER BY due_at LIMIT ?3"
            )),
            fetch: sql(format!(
                "SELECT {COLUMNS}, {WAIT}, details, body FROM {{schema}}_messages \
                 WHERE position IN (SELECT value FROM json_each(?2))"
            )),
            of_key: sql(format!(
                "SELECT {COLUMNS}, {WAIT}, details, body FROM {{schema}}_messages WHERE key_hash = ?2 \
                 AND (due_at IS NULL OR due_at <= ?1 OR attempts > 0) ORDER BY position LIMIT ?3"
            )),
            remove: sql(format!(
                "DELETE FROM {{schema}}_messages WHERE position IN (SELECT value FROM json_each(?2)) AND {HELD} RETURNING CAST(size AS INTEGER)"
            )),
            retry: sql(format!(
                "UPDATE {{schema}}_messages SET attempts = attempts + 1, due_at = ?4, failures = ?3 WHERE position = ?2 AND {HELD}"
            )),
            copy_to_dead_letters: sql(format!(
                "INSERT INTO {{schema}}_dead_letters ({MOVED}, attempts, failures) SELECT {MOVED}, attempts, ?3 \
                 FROM {{schema}}_messages WHERE position = ?2 AND {HELD}"
            )),
            remove_dead: sql(format!("DELETE FROM {{schema}}_messages WHERE position = ?2 AND {HELD}")),
            // Without a row there are fewer of them.
            reached: sql("SELECT min(position) FROM ( \
                 SELECT * FROM (SELECT position FROM {schema}_messages WHERE position > ?1 AND ?2 ORDER BY position LIMIT 1 OFFSET ?4) \
                 UNION ALL \
                 SELECT * FROM (SELECT position FROM {schema}_dead_letters WHERE position > ?1 AND ?3 ORDER BY position LIMIT 1 OFFSET ?4))"
                .to_owned()),
            list: sql(format!(
                "SELECT * FROM (SELECT * FROM (SELECT {COLUMNS}, {WAIT}, details, body, 0 AS dead, key_hash IS NOT NULL AND EXISTS ( \
                 SELECT 1 FROM {{schema}}_messages e WHERE e.key_hash = m.key_hash AND e.position < m.position) AS behind \
                 FROM {{schema}}_messages m WHERE position > ?2 AND position <= ?10 AND ?4 AND {condition} ORDER BY position LIMIT ?3) \
                 UNION ALL SELECT * FROM (SELECT {COLUMNS}, 0, details, body, 1, 0 \
                 FROM {{schema}}_dead_letters WHERE position > ?2 AND position <= ?10 AND ?5 AND {condition} ORDER BY position LIMIT ?3)) \
                 ORDER BY position LIMIT ?3"
            )),
            requeueable: sql(format!(
                "SELECT position, 1 FROM {{schema}}_dead_letters WHERE {these} UNION ALL \
                 SELECT position, 0 FROM {{schema}}_messages WHERE {these} AND attempts > 0 AND due_at > ?2"
            )),
            requeue_dead: sql(format!(
                "INSERT INTO {{schema}}_messages ({MOVED}, due_at, attempts, failures) SELECT {MOVED}, ?2, 0, failures \
                 FROM {{schema}}_dead_letters WHERE position = ?1"
            )),
            remove_requeued: sql("DELETE FROM {schema}_dead_letters WHERE position = ?1".to_owned()),
            requeue_waiting: sql("UPDATE {schema}_messages SET due_at = ?2 WHERE position = ?1".to_owned()),
            delete: sql(format!("DELETE FROM {{schema}}_messages WHERE {these} RETURNING CAST(size AS INTEGER)")),
            delete_dead: sql(format!("DELETE FROM {{schema}}_dead_letters WHERE {these} RETURNING CAST(size AS INTEGER)")),
            record: sql("INSERT INTO {schema}_inbox (source, id) VALUES (?, ?) ON CONFLICT DO NOTHING".to_owned()),
            forget: sql(format!(
                "DELETE FROM {{schema}}_inbox WHERE (source, id) IN ( \
                 SELECT source, id FROM {{schema}}_inbox WHERE handled_at < unixepoch() - ? \
                 ORDER BY handled_at LIMIT {FORGET_AT_ONCE})"
            )),
            counts: sql("SELECT m.count, d.count, m.size + d.size, \
                 (SELECT details FROM {schema}_messages ORDER BY position LIMIT 1) \
                 FROM (SELECT count(*) AS count, CAST(total(size) AS INTEGER) AS size FROM {schema}_messages) m, \
                 (SELECT count(*) AS count, CAST(total(size) AS INTEGER) AS size FROM {schema}_dead_letters) d"
                .to_owned()),
        }
    }
}

/// Returns a time as the columns have it: microseconds since 1970.
pub(super) fn since_epoch(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX / 2)
}
