//! The texts of the statements, with the name of the schema.

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use super::mark::MARKED;
use crate::store::sql::FORGET_AT_ONCE;

/// The columns of a [`Row`](crate::store::sql::Row) in order, followed by `WAIT`, details and body.
const COLUMNS: &str = "position, partition, id, topic, key, key_hash, size, attempts, failures";
/// Microseconds until a message is due. At most a century, as `infinity` has no number.
const WAIT: &str = "CASE WHEN due_at > now() THEN ceil(extract(epoch FROM least(due_at, now() + interval '100 years') - now()) * 1000000)::bigint \
     ELSE 0 END AS wait";

/// The columns that a message and its dead letter share, without `attempts` and `failures`.
const MOVED: &str = "position, partition, id, topic, key, key_hash, details, body, size, stored_at";

/// The partitions that still have these fencing tokens. They are locked until the statement ends, so no instance acquires them
/// meanwhile.
const HELD: &str = "held AS MATERIALIZED (SELECT b.partition FROM {schema}.partitions b \
     JOIN unnest($1::smallint[], $2::bigint[]) AS h (partition, fencing_token) \
     ON b.partition = h.partition AND b.fencing_token = h.fencing_token \
     FOR KEY SHARE OF b)";

/// An array that is made once; a join would look up every row for each partition.
const IS_HELD: &str = "m.partition = ANY (ARRAY (SELECT partition FROM held))";

/// Settling does not wait for the disk of the server: after a crash of the server a message may be sent again.
const NO_WAIT: &str = "set_config('synchronous_commit', 'off', true)";

/// Returns the name of a schema for a statement, quoted as it may be a word of SQL or have upper case.
pub(super) fn quoted(schema: &str) -> String {
    format!("\"{}\"", schema.replace('"', "\"\""))
}

#[derive(Debug)]
pub(super) struct Statements {
    pub(super) read: SqlStr,
    pub(super) due: SqlStr,
    pub(super) fetch: SqlStr,
    pub(super) of_keys: SqlStr,
    pub(super) remove: SqlStr,
    pub(super) retry: SqlStr,
    pub(super) dead_letter: SqlStr,
    pub(super) reached: SqlStr,
    pub(super) list: SqlStr,
    pub(super) lock_dead: SqlStr,
    pub(super) lock_waiting: SqlStr,
    pub(super) requeue_dead: SqlStr,
    pub(super) requeue_waiting: SqlStr,
    pub(super) delete: SqlStr,
    pub(super) counts: SqlStr,
    pub(super) record: SqlStr,
    pub(super) forget: SqlStr,
}

impl Statements {
    pub(super) fn new(schema: &str) -> Self {
        let sql = |sql: String| AssertSqlSafe(sql.replace("{schema}", schema)).into_sql_str();
        let condition = "($5::uuid IS NULL OR id = $5) AND ($6::text IS NULL OR topic = $6) \
             AND ($7::text IS NULL OR starts_with(topic, $7)) AND ($8::text IS NULL OR key = $8)";
        Self {
            // Each read starts some positions before the last one ended, to find messages that were committed late. It reads all
            // partitions of the instance along the primary key: an index by partition would cost every INSERT, and would have to be
            // read partition by partition.
            read: sql(format!(
                "SELECT {COLUMNS}, 0::bigint AS wait, details, body FROM ( \
                 SELECT *, sum(CASE WHEN key_hash IS NULL THEN size ELSE 0 END) OVER (ORDER BY position) - size AS before FROM ( \
                 SELECT {COLUMNS}, CASE WHEN key_hash IS NULL THEN details END AS details, \
                 CASE WHEN key_hash IS NULL THEN body END AS body \
                 FROM {{schema}}.messages WHERE position > $1 AND position <= $2 AND partition = ANY ($3) \
                 AND due_at IS NULL AND position <> ALL ($4) ORDER BY position LIMIT $5) m) m \
                 WHERE before < $6 ORDER BY position"
            )),
            due: sql(format!(
                "SELECT {COLUMNS}, {WAIT}, NULL::text AS details, NULL::bytea AS body FROM {{schema}}.messages \
                 WHERE due_at IS NOT NULL AND partition = ANY ($1) AND position <> ALL ($2) ORDER BY due_at LIMIT $3"
            )),
            fetch: sql(format!(
                "SELECT {COLUMNS}, {WAIT}, details, body FROM {{schema}}.messages WHERE position = ANY ($1)"
            )),
            of_keys: sql(format!(
                "SELECT m.* FROM unnest($1::bigint[], $2::bigint[]) AS k (hash, most) CROSS JOIN LATERAL ( \
                 SELECT {COLUMNS}, {WAIT}, details, body FROM {{schema}}.messages WHERE key_hash = k.hash \
                 AND (due_at IS NULL OR due_at <= now() OR attempts > 0) ORDER BY position LIMIT k.most) m ORDER BY position"
            )),
            remove: sql(format!(
                "WITH {HELD}, gone AS (DELETE FROM {{schema}}.messages m \
                 WHERE m.position = ANY ($3) AND {IS_HELD} RETURNING m.size) \
                 SELECT count(*), coalesce(sum(size), 0)::bigint, {NO_WAIT} FROM gone"
            )),
            retry: sql(format!(
                "WITH {HELD}, failed AS (UPDATE {{schema}}.messages m SET attempts = least(m.attempts, 2147483646) + 1, \
                 due_at = clock_timestamp() + f.wait * interval '1 microsecond', failures = f.failures \
                 FROM unnest($3::bigint[], $4::text[], $5::bigint[]) AS f (position, failures, wait) \
                 WHERE m.position = f.position AND {IS_HELD}) SELECT {NO_WAIT}"
            )),
            dead_letter: sql(format!(
                "WITH {HELD}, gone AS (DELETE FROM {{schema}}.messages m \
                 USING unnest($3::bigint[], $4::text[]) AS f (dead, why) \
                 WHERE m.position = f.dead AND {IS_HELD} RETURNING m.*, f.why), \
                 kept AS (INSERT INTO {{schema}}.dead_letters ({MOVED}, attempts, failures) \
                 SELECT {MOVED}, attempts, why FROM gone) SELECT {NO_WAIT}"
            )),
            // Without a row there are fewer of them.
            reached: sql("SELECT min(position) FROM ( \
                 (SELECT position FROM {schema}.messages WHERE position > $1 AND $2 ORDER BY position LIMIT 1 OFFSET $4) UNION ALL \
                 (SELECT position FROM {schema}.dead_letters WHERE position > $1 AND $3 ORDER BY position LIMIT 1 OFFSET $4)) l"
                .to_owned()),
            list: sql(format!(
                "SELECT * FROM (\
                 (SELECT {COLUMNS}, {WAIT}, details, body, false AS dead, key_hash IS NOT NULL AND EXISTS ( \
                 SELECT FROM {{schema}}.messages e WHERE e.key_hash = m.key_hash AND e.position < m.position) AS behind \
                 FROM {{schema}}.messages m WHERE position > $1 AND position <= $9 AND $3 AND {condition} ORDER BY position LIMIT $2) \
                 UNION ALL \
                 (SELECT {COLUMNS}, 0::bigint, details, body, true, false \
                 FROM {{schema}}.dead_letters WHERE position > $1 AND position <= $9 AND $4 AND {condition} ORDER BY position LIMIT $2) \
                 ) l ORDER BY position LIMIT $2"
            )),
            lock_dead: sql("SELECT position FROM {schema}.dead_letters WHERE position = ANY ($1) FOR UPDATE".to_owned()),
            lock_waiting: sql("SELECT position FROM {schema}.messages \
                 WHERE position = ANY ($1) AND attempts > 0 AND due_at > now() FOR UPDATE"
                .to_owned()),
            requeue_dead: sql(format!(
                "WITH revived AS (DELETE FROM {{schema}}.dead_letters d USING unnest($1::bigint[], $2::bigint[]) AS r (revived, wait) \
                 WHERE d.position = r.revived RETURNING d.*, r.wait) \
                 INSERT INTO {{schema}}.messages ({MOVED}, due_at, attempts, failures) \
                 SELECT {MOVED}, clock_timestamp() + wait * interval '1 microsecond', 0, failures FROM revived"
            )),
            requeue_waiting: sql("UPDATE {schema}.messages m SET due_at = clock_timestamp() + r.wait * interval '1 microsecond' \
                 FROM unnest($1::bigint[], $2::bigint[]) AS r (position, wait) WHERE m.position = r.position"
                .to_owned()),
            delete: sql("WITH m AS (DELETE FROM {schema}.messages WHERE position = ANY ($1) RETURNING size), \
                 d AS (DELETE FROM {schema}.dead_letters WHERE position = ANY ($1) RETURNING size) \
                 SELECT (SELECT count(*) FROM m), (SELECT count(*) FROM d), \
                 (SELECT coalesce(sum(size), 0)::bigint FROM (SELECT size FROM m UNION ALL SELECT size FROM d) s)"
                .to_owned()),
            record: sql(format!(
                "INSERT INTO {{schema}}.inbox (source, id) SELECT $1, * FROM unnest($2::uuid[]) WHERE {MARKED} \
                 ON CONFLICT DO NOTHING RETURNING id"
            )),
            forget: sql(format!(
                "DELETE FROM {{schema}}.inbox WHERE ctid = ANY (ARRAY( \
                 SELECT ctid FROM {{schema}}.inbox WHERE handled_at < now() - make_interval(secs => $1) \
                 ORDER BY handled_at LIMIT {FORGET_AT_ONCE} FOR UPDATE SKIP LOCKED))"
            )),
            counts: sql("SELECT m.count, d.count, m.size + d.size, \
                 (SELECT details FROM {schema}.messages ORDER BY position LIMIT 1) \
                 FROM (SELECT count(*) AS count, coalesce(sum(size), 0)::bigint AS size FROM {schema}.messages) m, \
                 (SELECT count(*) AS count, coalesce(sum(size), 0)::bigint AS size FROM {schema}.dead_letters) d"
                .to_owned()),
        }
    }
}
