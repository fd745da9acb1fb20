//! The tables of a store in a database: the only place in the tests that has statements on them.

use sqlx::postgres::{PgConnection, PgPool};
use sqlx::sqlite::SqlitePool;
use sqlx::{AssertSqlSafe, FromRow};
use tower_outbox::store::SqlStoreSettings;
use uuid::Uuid;

/// The tables of one schema in Postgres, or with one prefix in an SQLite file.
#[derive(Clone, Debug)]
pub enum Tables {
    Postgres(PgPool, String),
    Sqlite(SqlitePool, String),
}

use Tables::{Postgres, Sqlite};

/// All rows of a store: the pending ones as one text, how many those are, and how many dead letters there are.
pub type Rows = (String, i64, i64);

impl Tables {
    pub fn postgres(pool: &PgPool, settings: &SqlStoreSettings) -> Self {
        Postgres(pool.clone(), settings.schema.clone())
    }

    pub fn sqlite(pool: &SqlitePool, settings: &SqlStoreSettings) -> Self {
        Sqlite(pool.clone(), settings.schema.clone())
    }

    /// A statement in which `{}` precedes the name of a table, and `{schema}` is the schema.
    fn statement(&self, text: &str) -> AssertSqlSafe<String> {
        let (Postgres(_, schema) | Sqlite(_, schema)) = self;
        let separator = if matches!(self, Postgres(..)) { '.' } else { '_' };
        AssertSqlSafe(text.replace("{}", &format!("{schema}{separator}")).replace("{schema}", schema))
    }

    async fn run(&self, text: &str) {
        let statement = self.statement(text);
        match self {
            Postgres(pool, _) => drop(sqlx::raw_sql(statement).execute(pool).await.unwrap()),
            Sqlite(pool, _) => drop(sqlx::raw_sql(statement).execute(pool).await.unwrap()),
        }
    }

    async fn row<T>(&self, text: &str) -> T
    where
        T: for<'r> FromRow<'r, sqlx::postgres::PgRow> + for<'r> FromRow<'r, sqlx::sqlite::SqliteRow>,
        T: Send + Unpin,
    {
        let statement = self.statement(text);
        match self {
            Postgres(pool, _) => sqlx::query_as(statement).fetch_one(pool).await.unwrap(),
            Sqlite(pool, _) => sqlx::query_as(statement).fetch_one(pool).await.unwrap(),
        }
    }

    async fn number(&self, text: &str) -> i64 {
        self.row::<(i64,)>(text).await.0
    }

    async fn texts(&self, text: &str) -> Vec<String> {
        let statement = self.statement(text);
        match self {
            Postgres(pool, _) => sqlx::query_scalar(statement).fetch_all(pool).await.unwrap(),
            Sqlite(pool, _) => sqlx::query_scalar(statement).fetch_all(pool).await.unwrap(),
        }
    }
}

/// Messages.
impl Tables {
    /// The topics of the pending messages, in order.
    pub async fn topics(&self) -> Vec<String> {
        self.texts("SELECT topic FROM {}messages ORDER BY position").await
    }

    pub async fn delete_messages(&self) {
        self.run("DELETE FROM {}messages").await;
    }

    pub async fn rows(&self) -> Rows {
        let dead = "(SELECT count(*) FROM {}dead_letters)";
        self.row(&match self {
            Postgres(..) => format!(
                "SELECT md5(string_agg(m::text, ';' ORDER BY position)), count(*), {dead} FROM {{}}messages m"
            ),
            Sqlite(..) => format!(
                "SELECT group_concat(concat_ws(',', position, hex(id), due_at, attempts, failures), ';'), count(*),
                     {dead}
                 FROM {{}}messages ORDER BY position"
            ),
        })
        .await
    }

    /// Hides the messages from every reader.
    pub async fn hide_messages(&self) {
        match self {
            Postgres(..) => self.run("ALTER TABLE {}messages RENAME TO hidden").await,
            Sqlite(..) => self.run("ALTER TABLE {}messages RENAME TO {}hidden").await,
        }
    }

    pub async fn show_messages(&self) {
        match self {
            Postgres(..) => self.run("ALTER TABLE {}hidden RENAME TO messages").await,
            Sqlite(..) => self.run("ALTER TABLE {}hidden RENAME TO {}messages").await,
        }
    }

    /// A statement, for a transaction of a test, after which messages cannot be stored.
    pub fn rename_messages(&self) -> String {
        self.statement("ALTER TABLE {}messages RENAME TO moved").0
    }

    /// Sets columns of a message: `assignments` as in UPDATE.
    pub async fn change_message(&self, id: Uuid, assignments: &str) {
        let quote = if matches!(self, Postgres(..)) { "" } else { "x" };
        let id = id.simple();
        self.run(&format!("UPDATE {{}}messages SET {assignments} WHERE id = {quote}'{id}'")).await;
    }

    /// Makes the message at a position unreadable.
    pub async fn damage_message(&self, position: u64) {
        self.run(&format!("UPDATE {{}}messages SET details = '{{' WHERE position = {position}")).await;
    }
}

/// Partitions and members.
impl Tables {
    /// Gives all partitions to another instance, which stays a member for an hour.
    pub async fn steal_partitions(&self) {
        self.run(match self {
            Postgres(..) => {
                "INSERT INTO {}members (id, expires_at) VALUES ('00000000-0000-0000-0000-000000000001', now() + interval '1 hour');
                 UPDATE {}partitions SET fencing_token = fencing_token + 1, owner = '00000000-0000-0000-0000-000000000001'"
            }
            Sqlite(..) => {
                "INSERT INTO {}members (id, expires_at) VALUES (x'01', (unixepoch() + 3600) * 1000);
                 UPDATE {}partitions SET fencing_token = fencing_token + 1, owner = x'01'"
            }
        })
        .await;
    }

    /// Gives all partitions to an instance that is no member: their owner may take them back.
    pub async fn orphan_partitions(&self) {
        self.run("UPDATE {}partitions SET owner = gen_random_uuid(), fencing_token = fencing_token + 1")
            .await;
    }

    /// Whether members own all partitions again after [`orphan_partitions`](Self::orphan_partitions).
    pub async fn are_partitions_owned_again(&self) -> bool {
        let free = "SELECT count(*) FROM {}partitions
            WHERE fencing_token <= 2 OR owner IS NULL OR owner NOT IN (SELECT id FROM {}members)";
        self.number(free).await == 0
    }

    /// How many instances own exactly so many partitions.
    pub async fn owners_of(&self, partitions: usize) -> i64 {
        self.number(&format!(
            "SELECT count(*) FROM
                (SELECT FROM {{}}partitions WHERE owner IS NOT NULL GROUP BY owner HAVING count(*) = {partitions}) AS fair"
        ))
        .await
    }

    /// How many instances send, or in SQLite wait to send.
    pub async fn instances(&self) -> i64 {
        match self {
            Postgres(..) => self.number("SELECT count(DISTINCT owner) FROM {}partitions").await,
            Sqlite(..) => self.number("SELECT count(*) FROM {}members").await,
        }
    }
}

/// The instances.
impl Tables {
    /// Makes the row of an instance as an earlier version writes it.
    pub async fn forget_instance(&self, name: &str) {
        self.run(&format!(
            "UPDATE {{}}members SET name = NULL, version = NULL, opened_at = NULL, heartbeat_at = NULL WHERE name = '{name}'"
        ))
        .await;
    }
}

/// The inbox and the version.
impl Tables {
    /// How many handled messages are known.
    pub async fn handled(&self) -> i64 {
        self.number("SELECT count(*) FROM {}inbox").await
    }

    /// The sources of the handled messages.
    pub async fn handled_from(&self) -> Vec<String> {
        self.texts("SELECT source FROM {}inbox ORDER BY source").await
    }

    /// Turns all handled messages into those of another source.
    pub async fn move_handled_to(&self, source: &str) {
        self.run(&format!("UPDATE {{}}inbox SET source = '{source}'")).await;
    }

    /// Copies one handled message to another source, handled so many seconds ago.
    pub async fn copy_handled_to(&self, source: &str, seconds_ago: u64) {
        let at = match self {
            Postgres(..) => format!("now() - interval '{seconds_ago} seconds'"),
            Sqlite(..) => format!("unixepoch() - {seconds_ago}"),
        };
        let copy = format!("SELECT '{source}', id, {at} FROM {{}}inbox LIMIT 1");
        self.run(&format!("INSERT INTO {{}}inbox (source, id, handled_at) {copy}")).await;
    }

    pub async fn set_version(&self, version: u32) {
        self.run(&format!("UPDATE {{}}version SET version = {version}")).await;
    }

    /// Makes the tables as the first migration left them.
    pub async fn undo_later_migrations(&self) {
        for column in ["name", "version", "opened_at", "heartbeat_at"] {
            self.run(&format!("ALTER TABLE {{}}members DROP COLUMN {column}")).await;
        }
        self.run("DROP TABLE {}audit; DROP TABLE {}trusted_keys; DROP TABLE {}inbox; UPDATE {}version SET version = 1").await;
    }

    /// Adds a row of trusted keys, whatever it holds.
    pub async fn add_trusted_key(&self, origin: &str, pem: &str) {
        self.run(&format!("INSERT INTO {{}}trusted_keys (origin, pem) VALUES ('{origin}', '{pem}')")).await;
    }

    pub async fn rename_trusted_keys(&self, from: &str, to: &str) {
        let to = if matches!(self, Postgres(..)) { to.to_owned() } else { format!("{{}}{to}") };
        self.run(&format!("ALTER TABLE {{}}{from} RENAME TO {to}")).await;
    }

    /// Makes a schema in which the second migration finds its table made by someone else.
    pub async fn make_foreign_inbox(&self) {
        self.run("CREATE SCHEMA {schema}; CREATE TABLE {}inbox (n integer)").await;
    }

    pub async fn drop_foreign_inbox(&self) {
        self.run("DROP TABLE {}inbox").await;
    }
}

/// Concurrent transactions, in Postgres.
impl Tables {
    /// Locks the messages until the transaction of the connection ends.
    pub async fn lock_messages(&self, connection: &mut PgConnection) {
        let statement = self.statement("LOCK TABLE {}messages");
        sqlx::raw_sql(statement).execute(connection).await.unwrap();
    }

    /// How many statements wait for a lock on the messages.
    pub async fn waiting_for_messages(&self) -> i64 {
        self.number("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '{}messages'::regclass")
            .await
    }

    /// Inserts a copy of the first message with another id.
    pub async fn copy_first_message(&self, connection: &mut PgConnection, id: Uuid) {
        let copy = format!(
            "INSERT INTO {{}}messages (partition, id, topic, key, key_hash, details, body, size)
             SELECT partition, '{id}', topic, key, key_hash, details, body, size
             FROM {{}}messages ORDER BY position LIMIT 1"
        );
        sqlx::raw_sql(self.statement(&copy)).execute(connection).await.unwrap();
    }

    /// Lets the next message have the position behind this one.
    pub async fn skip_to(&self, connection: &mut PgConnection, position: u64) {
        let skip = format!("SELECT setval('{{}}messages_position_seq', {position})");
        sqlx::raw_sql(self.statement(&skip)).execute(connection).await.unwrap();
    }

    /// Moves all messages into the transaction of the connection, which makes them visible when it commits.
    pub async fn move_messages_into(&self, connection: &mut PgConnection) {
        self.run(
            "DROP TABLE IF EXISTS {}late; CREATE TABLE {}late AS TABLE {}messages; DELETE FROM {}messages",
        )
        .await;
        let insert = self.statement("INSERT INTO {}messages TABLE {}late");
        sqlx::raw_sql(insert).execute(connection).await.unwrap();
    }
}
