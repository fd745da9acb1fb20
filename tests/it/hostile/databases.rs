//! Values that a database refuses, rows that somebody changed, and ids that strangers chose.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use http::header::RETRY_AFTER;
use http::{Request, StatusCode};
use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgPool, PgPoolOptions, Postgres};
use sqlx::sqlite::Sqlite;
use tokio::time::timeout;
use tower::ServiceExt;
use tower_outbox::amqp091::{Amqp091Settings, Amqp091Source, Amqp091Subscription};
use tower_outbox::consumer::ConsumerSettings;
use tower_outbox::dummy::Dummy;
use tower_outbox::outbox::{Outbox, RelaySettings};
use tower_outbox::store::{Filter, PostgresStore, SqlStoreSettings, SqliteStore, Store, StoreError};
use tower_outbox::{Consumer, MessageQueue, MessagingLayer, Tx};
use uuid::Uuid;

use crate::peers::{Brokers, unique};
use crate::support::databases::{self, Database, Schema};
use crate::support::enqueue;
use crate::support::messengers::recording;
use crate::support::stores::{STUCK, batch, confirm, depth, ids, lease_all, until};
use crate::support::tables::Tables;

const AMQP: &str = "RABBIT1_AMQP";

// ---- names

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_schema_may_be_a_word_of_sql_or_have_upper_case() {
    let database = Database::new().await;
    let pool = PgPoolOptions::new().max_connections(4).connect(&database.url).await.unwrap();
    for name in ["user", "select", "Group", "public"] {
        let settings = SqlStoreSettings::default().with_schema(name);
        PostgresStore::migrate(&pool, &settings).await.unwrap();
        PostgresStore::migrate(&pool, &settings).await.unwrap();
        let store = Arc::new(PostgresStore::open(pool.clone(), &settings).await.unwrap()) as Arc<dyn Store>;
        store.append(batch("a", 3)).await.unwrap();
        confirm(&*store, &lease_all(&*store, 3).await).await;
        assert_eq!(depth(&*store).await, (0, 0), "{name}");
        store.close().await;
        let there = AssertSqlSafe(format!("SELECT version FROM \"{name}\".version"));
        assert!(sqlx::query_scalar::<_, i32>(there).fetch_one(&pool).await.unwrap() > 0);
    }
    pool.close().await;
    database.drop().await;
}

#[tokio::test]
async fn a_schema_that_is_no_name_is_refused_with_its_cure() {
    let folder = tempfile::tempdir().unwrap();
    let pool = databases::sqlite(folder.path()).await;
    for name in
        ["", "a b", "a.b", "a\"b", "a'; DROP TABLE x; --", "a\0b", "1a", "sqlite_x", "pg_x", &"x".repeat(64)]
    {
        let settings = SqlStoreSettings::default().with_schema(name);
        let Err(StoreError::Unavailable(error)) = SqliteStore::migrate(&pool, &settings).await else {
            panic!("{name:?} is taken")
        };
        let said = error.to_string();
        assert!(said.contains("OUTBOX.SCHEMA") && said.contains(&format!("{name:?}")), "{said}");
    }
    let settings = SqlStoreSettings::default().with_schema("select");
    SqliteStore::migrate(&pool, &settings).await.unwrap();
    SqliteStore::open(pool, &settings).await.unwrap();
}

// ---- rows that others have changed

/// Every second row is changed as `changes` say; the others leave, and those that cannot be read are dead letters.
async fn changed_rows_harm_only_themselves<S: Store>(
    changes: &[(&str, bool)],
    open: impl AsyncFn() -> S,
    change: impl AsyncFn(&str, Uuid),
) {
    let store = open().await;
    let all = batch("a", 2 * changes.len() + 1);
    store.append(all.clone()).await.unwrap();
    store.close().await;
    let odd: Vec<_> = ids(all.iter().skip(1).step_by(2));
    for (id, (how, _)) in odd.iter().zip(changes) {
        change(how, *id).await;
    }
    let (recording, sent) = recording();
    let (outbox, relay) = Outbox::new(recording, Arc::new(open().await), RelaySettings::default());
    let handle = outbox.handle();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(relay.with_graceful_shutdown(async { drop(stopped.await) }, STUCK));
    let good: HashSet<_> = ids(&all).into_iter().filter(|id| !odd.contains(id)).collect();
    until("all others leave", async || good.is_subset(&ids(&sent.messages()).into_iter().collect())).await;
    let dead = changes.iter().filter(|(_, is_dead)| *is_dead).count();
    until("what cannot be read is dead", async || handle.status().await.unwrap().counts.dead == dead as u64)
        .await;
    let listed = handle.list(&Filter::default(), None, 1_000).await.unwrap().entries;
    let positions = listed.iter().filter(|entry| entry.explain().contains("can no longer be read"));
    let unreadable: Vec<_> = positions.map(|entry| changes[(entry.position as usize - 2) / 2]).collect();
    let expected: Vec<_> = changes.iter().filter(|(_, is_dead)| *is_dead).copied().collect();
    assert_eq!(unreadable, expected);
    stop.send(()).unwrap();
    timeout(STUCK, running).await.unwrap().unwrap();
}

/// The value that a column is set to, and whether the message becomes a dead letter over it.
const CHANGES: [(&str, bool); 15] = [
    ("details = ''", true),
    ("details = '[1]'", true),
    ("details = '{\"content_type\":\"a\",\"time\":[9223372036854775807,4294967295]}'", true),
    (
        "details = '{\"content_type\":\"a\",\"time\":[1,0],\"expiry\":[18446744073709551615,4294967295]}'",
        true,
    ),
    ("details = '{\"content_type\":\"a\",\"time\":[1,0],\"delay\":[18446744073709551615,4294967295]}'", true),
    ("topic = ''", true),
    ("topic = 'a b'", true),
    ("key_hash = 1", false),
    ("failures = 'none', attempts = 3", false),
    ("attempts = -1", false),
    ("attempts = 2147483647", false),
    ("size = -1", false),
    ("size = -2147483648", false),
    ("size = 2147483647", false),
    ("key = 'x', key_hash = NULL", false),
];

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn rows_that_somebody_changed_harm_only_themselves_in_postgres() {
    let more = [
        ("due_at = 'infinity'", false),
        ("due_at = '-infinity'", false),
        ("due_at = '294276-12-31'", false),
        ("due_at = '4713-01-01 BC'", false),
        ("partition = 99", false),
    ];
    let schema = Schema::new().await;
    PostgresStore::migrate(&schema.pool, &schema.settings).await.unwrap();
    let open = async || PostgresStore::open(schema.pool.clone(), &schema.settings).await.unwrap();
    let change = async |how: &str, id: Uuid| {
        schema.tables().change_message(id, how).await;
    };
    changed_rows_harm_only_themselves(&[&CHANGES[..], &more].concat(), open, change).await;
    schema.drop().await;
}

/// A column of SQLite holds values of any type.
#[tokio::test]
async fn rows_that_somebody_changed_harm_only_themselves_in_sqlite() {
    let more = [
        ("details = x'ff'", true),
        ("details = 7", true),
        ("topic = x'ff'", true),
        ("id = 'x'", true),
        ("id = x'00'", true),
        ("key = x'ff'", true),
        ("body = 7", true),
        ("size = 'x'", true),
        ("attempts = 'x'", true),
        ("attempts = 9223372036854775807", true),
        ("failures = x'ff'", true),
        ("due_at = 9223372036854775807", false),
        ("due_at = -9223372036854775808", false),
        ("due_at = 'x'", false),
        ("key_hash = 'x'", true),
    ];
    let folder = tempfile::tempdir().unwrap();
    let pool = databases::sqlite(folder.path()).await;
    let settings = SqlStoreSettings::default();
    SqliteStore::migrate(&pool, &settings).await.unwrap();
    let open = async || SqliteStore::open(pool.clone(), &settings).await.unwrap();
    let change = async |how: &str, id: Uuid| {
        Tables::sqlite(&pool, &settings).change_message(id, how).await;
    };
    changed_rows_harm_only_themselves(&[&CHANGES[..], &more].concat(), open, change).await;
}

// ---- a database that refuses for now

/// An app whose handler enqueues in a transaction.
async fn app(pool: &PgPool) -> Router {
    let settings = SqlStoreSettings::default();
    PostgresStore::migrate(pool, &settings).await.unwrap();
    let store = PostgresStore::open(pool.clone(), &settings).await.unwrap();
    let outbox = Outbox::new(Dummy::new(), Arc::new(store), RelaySettings::default()).0;
    let handler = async |_: Tx<Postgres>, queue: MessageQueue| enqueue(&queue, ["a"]);
    Router::new().route("/", post(handler)).layer(MessagingLayer::new(outbox))
}

/// The status of a response, and whether it says when to come again.
async fn ask(app: &Router) -> (StatusCode, bool) {
    let request = Request::post("/").body(axum::body::Body::empty()).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    (response.status(), response.headers().contains_key(RETRY_AFTER))
}

const AGAIN: (StatusCode, bool) = (StatusCode::SERVICE_UNAVAILABLE, true);

async fn run(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await.unwrap();
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_database_that_has_become_read_only_is_503_and_its_connections_are_closed() {
    let database = Database::new().await;
    let name = database.url.rsplit_once('/').unwrap().1.to_owned();
    let pool = PgPoolOptions::new().max_connections(3).connect(&database.url).await.unwrap();
    let operator = PgPool::connect(Brokers::running().get("POSTGRES")).await.unwrap();
    let app = app(&pool).await;
    assert_eq!(ask(&app).await.0, StatusCode::OK);
    run(&operator, &format!("ALTER DATABASE \"{name}\" SET default_transaction_read_only = on")).await;
    let others = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
    run(&operator, &others).await;
    until("it refuses to write", async || ask(&app).await.0 != StatusCode::OK).await;
    for _ in 0..10 {
        assert_eq!(ask(&app).await, AGAIN);
    }
    run(&operator, &format!("ALTER DATABASE \"{name}\" RESET default_transaction_read_only")).await;
    // Nobody ends the connections that were made meanwhile.
    until("it writes again", async || ask(&app).await.0 == StatusCode::OK).await;
    until("all connections write", async || {
        for _ in 0..10 {
            if ask(&app).await.0 != StatusCode::OK {
                return false;
            }
        }
        true
    })
    .await;
    pool.close().await;
    database.drop().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_time_limit_of_the_database_is_503() {
    for limit in ["statement_timeout", "lock_timeout"] {
        let database = Database::new().await;
        let pool = PgPoolOptions::new().max_connections(1).connect(&database.url).await.unwrap();
        let app = app(&pool).await;
        let other = PgPool::connect(&database.url).await.unwrap();
        let mut lock = other.begin().await.unwrap();
        Tables::postgres(&other, &SqlStoreSettings::default()).lock_messages(&mut lock).await;
        run(&pool, &format!("SET {limit} = '200ms'")).await;
        assert_eq!(ask(&app).await, AGAIN, "{limit}");
        lock.rollback().await.unwrap();
        until("it stores", async || ask(&app).await.0 == StatusCode::OK).await;
        pool.close().await;
        other.close().await;
        database.drop().await;
    }
}

#[tokio::test]
async fn a_database_file_that_cannot_be_written_is_503() {
    let folder = tempfile::tempdir().unwrap();
    databases::sqlite(folder.path()).await.close().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.path().join("app.db"));
    let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    let settings = SqlStoreSettings::default();
    SqliteStore::migrate(&pool, &settings).await.unwrap();
    let store = SqliteStore::open(pool.clone(), &settings).await.unwrap();
    let outbox = Outbox::new(Dummy::new(), Arc::new(store), RelaySettings::default()).0;
    let handler = async |_: Tx<Sqlite>, queue: MessageQueue| enqueue(&queue, ["a"]);
    let app = Router::new().route("/", post(handler)).layer(MessagingLayer::new(outbox));
    assert_eq!(ask(&app).await.0, StatusCode::OK);
    // The file system refuses likewise when it was mounted anew, as after a fault of the disk.
    sqlx::query("PRAGMA query_only = on").execute(&pool).await.unwrap();
    assert_eq!(ask(&app).await, AGAIN);
    sqlx::query("PRAGMA query_only = off").execute(&pool).await.unwrap();
    assert_eq!(ask(&app).await.0, StatusCode::OK);
}

// ---- a pooler

/// PgBouncer before the Postgres of the tests, in this mode, with one connection to the server.
struct PgBouncer {
    process: std::process::Child,
    _folder: tempfile::TempDir,
    url: String,
}

impl PgBouncer {
    async fn start(database: &str, mode: &str) -> Self {
        let server = url::Url::parse(database).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let name = server.path().trim_start_matches('/');
        // It does not run as root.
        let is_root = std::os::unix::fs::MetadataExt::uid(&folder.path().metadata().unwrap()) == 0;
        let config = format!(
            "[databases]\n{name} = host=127.0.0.1 port={} user={} password={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nauth_type = any\npool_mode = {mode}\nunix_socket_dir =\n{}",
            server.port().unwrap(),
            server.username(),
            server.password().unwrap(),
            if is_root { "user = nobody\n" } else { "" },
        );
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, config).unwrap();
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let process = std::process::Command::new("/usr/sbin/pgbouncer").arg("-q").arg(&file).spawn();
        let process = process.expect("PgBouncer is installed");
        let url = format!("postgres://{}@127.0.0.1:{port}/{name}", server.username());
        until("PgBouncer listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        Self { process, _folder: folder, url }
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn bus_over(url: &str) -> Result<tower_outbox::Bus, String> {
    let text = format!("DELIVERY = \"transactional\"\n[OUTBOX]\nDATABASE_URL = \"{url}\"");
    let started = tower_outbox::Bus::start(&toml::from_str(&text).unwrap()).await;
    started.map_err(|error| {
        let (mut text, mut cause) = (error.to_string(), std::error::Error::source(&error));
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        text
    })
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_pooler_that_lends_connections_for_a_transaction_is_refused_with_the_cure() {
    let database = Database::new().await;
    for mode in ["transaction", "statement"] {
        let pooler = PgBouncer::start(&database.url, mode).await;
        let said = bus_over(&pooler.url).await.unwrap_err();
        assert!(said.contains("pool_mode = session") && said.contains("OUTBOX.DATABASE_URL"), "{said}");
    }
    let pooler = PgBouncer::start(&database.url, "session").await;
    let bus = bus_over(&pooler.url).await.unwrap();
    tower_outbox::Messenger::send(&*bus.messenger(), vec![crate::support::message("a")]).await.unwrap();
    let _ = bus.shutdown(STUCK).await;
    database.drop().await;
}

// ---- an encoding

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_database_that_does_not_hold_every_text_is_refused_with_the_cure() {
    let of = async |encoding: &str| {
        let locale = "TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'";
        Database::made_with(&format!("ENCODING '{encoding}' {locale}")).await
    };
    let database = of("LATIN1").await;
    let said = bus_over(&database.url).await.unwrap_err();
    assert!(said.contains("LATIN1") && said.contains("ENCODING 'UTF8'"), "{said}");
    database.drop().await;

    let database = of("SQL_ASCII").await;
    let bus = bus_over(&database.url).await.unwrap();
    let message = crate::support::message("a").with_header("x", "☃").with_key("☃");
    tower_outbox::Messenger::send(&*bus.messenger(), vec![message]).await.unwrap();
    assert!(bus.shutdown(STUCK).await.is_clean());
    database.drop().await;
}

// ---- ids

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn the_same_id_of_another_publisher_or_topic_is_another_message() {
    let brokers = Brokers::running();
    let (queue, topic, other) = (unique("inbox"), unique("topic"), unique("topic"));
    let url = brokers.get(AMQP);
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pool = databases::sqlite(folder.path()).await;
    let settings = SqlStoreSettings::default();
    SqliteStore::migrate(&pool, &settings).await.unwrap();
    let store = SqliteStore::open(pool, &settings).await.unwrap();
    let outbox = Outbox::new(Dummy::new(), Arc::new(store), RelaySettings::default()).0;
    let calls = Arc::new(AtomicUsize::default());
    let handler = {
        let calls = Arc::clone(&calls);
        // Each message fails once: it comes again with the id it had.
        move |mut tx: Tx<Sqlite>, delivery: tower_outbox::Delivery| async move {
            sqlx::query("SELECT 1").execute(&mut *tx).await.unwrap();
            if delivery.attempt() == 1 {
                return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "0")]);
            }
            calls.fetch_add(1, Ordering::SeqCst);
            (StatusCode::OK, [(RETRY_AFTER, "0")])
        }
    };
    let app = Router::new().fallback(handler).layer(MessagingLayer::new(outbox));
    let subscription = Amqp091Subscription::new(&queue).with_binding(&topic).with_binding(&other);
    let source = Amqp091Source::new(&Amqp091Settings::new([url]), &subscription).unwrap();
    let consumer = Consumer::new(source, app).with_settings(ConsumerSettings::default().with_concurrency(1));
    let handle = consumer.handle();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(consumer.with_graceful_shutdown(
        async {
            let _ = stopped.await;
        },
        STUCK,
    ));
    let publish = async |topic: &str, app: Option<&str>, id: &str| {
        let properties = BasicProperties::default().with_message_id(id.into());
        let properties = match app {
            Some(app) => properties.with_app_id(app.into()),
            None => properties,
        };
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        channel.basic_publish("amq.topic".into(), topic.into(), options, b"{}", properties).await.unwrap();
    };
    until("the queue is consumed", async || {
        let channel = connection.create_channel().await.unwrap();
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared = channel.queue_declare(queue.clone().into(), options, Default::default()).await;
        declared.is_ok_and(|queue| queue.consumer_count() == 1)
    })
    .await;
    for (topic, app, id) in [
        (&topic, Some("a"), "1"),
        (&topic, Some("b"), "1"),
        (&topic, None, "1"),
        (&other, None, "1"),
        (&other, None, "2"),
    ] {
        publish(topic, app, id).await;
    }
    until("all are handled", async || handle.status().acked == 5).await;
    assert_eq!(calls.load(Ordering::SeqCst), 5);
    // Messages that come again are not.
    publish(&topic, Some("b"), "1").await;
    publish(&other, None, "1").await;
    until("they are acknowledged", async || handle.status().acked == 7).await;
    assert_eq!(calls.load(Ordering::SeqCst), 5);
    stop.send(()).unwrap();
    timeout(STUCK, running).await.unwrap().unwrap();
    for name in [queue.clone(), format!("{queue}.dead")] {
        channel.queue_delete(name.into(), Default::default()).await.unwrap();
    }
}

#[tokio::test]
async fn the_same_id_of_another_event_source_is_another_message() {
    let folder = tempfile::tempdir().unwrap();
    let pool = databases::sqlite(folder.path()).await;
    let settings = SqlStoreSettings::default();
    SqliteStore::migrate(&pool, &settings).await.unwrap();
    let store = SqliteStore::open(pool, &settings).await.unwrap();
    let outbox = Outbox::new(Dummy::new(), Arc::new(store), RelaySettings::default()).0;
    let calls = Arc::new(AtomicUsize::default());
    let handler = {
        let calls = Arc::clone(&calls);
        move |_: Tx<Sqlite>| async move {
            calls.fetch_add(1, Ordering::SeqCst);
        }
    };
    let app = Router::new().fallback(handler).layer(MessagingLayer::new(outbox));
    let bus = tower_outbox::testing::Memory::new();
    let message = crate::support::message("user.asked");
    let long = "x".repeat(10_000);
    let sources = ["/a", "/b", "\0", &long, "/a", &long, "\0"];
    let messages = sources.map(|source| message.clone().with_header("ce-source", source.to_owned()));
    tower_outbox::Messenger::send(&bus, messages.to_vec()).await.unwrap();
    let consumer =
        Consumer::new(bus.clone(), app).with_settings(ConsumerSettings::default().with_concurrency(1));
    let handle = consumer.handle();
    let idle = {
        let bus = bus.clone();
        async move { bus.wait_idle().await }
    };
    timeout(Duration::from_secs(60), consumer.with_graceful_shutdown(idle, STUCK)).await.unwrap();
    assert_eq!((handle.status().acked, calls.load(Ordering::SeqCst)), (7, 4));
}
