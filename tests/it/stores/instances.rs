//! The instances of an app that share a store, as operators see them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tower_outbox::store::{Instance, PostgresStore, SqlStoreSettings, SqliteStore, Store};

use crate::support::databases::{Schema, sqlite};
use crate::support::stores::until;
use crate::support::tables::Tables;

fn named(settings: &SqlStoreSettings, name: &str) -> SqlStoreSettings {
    settings.clone().with_instance_name(name).with_lease(Duration::from_secs(6))
}

async fn instances(store: &Arc<dyn Store>) -> Vec<Instance> {
    let mut instances = store.instances().await.unwrap();
    instances.sort_by(|one, other| one.name.cmp(&other.name));
    instances
}

/// Two instances, of which the second leaves; with the numbers of partitions that they have together, and that the first has then.
async fn they_are_listed(first: Arc<dyn Store>, second: Arc<dyn Store>, tables: Tables, partitions: u64) {
    let begun = SystemTime::now();
    let mut leasing = Vec::new();
    for store in [&first, &second] {
        let store = Arc::clone(store);
        leasing.push(tokio::spawn(async move { store.lease(1).await }));
    }
    until("both have joined and share", async || {
        let all = instances(&first).await;
        all.len() == 2 && all.iter().map(|one| one.partitions).sum::<u64>() == partitions
    })
    .await;
    let all = instances(&first).await;
    assert_eq!(all.iter().map(|one| one.name.as_deref()).collect::<Vec<_>>(), [Some("web-1"), Some("web-2")]);
    for one in &all {
        let since = one.since.unwrap();
        assert!(
            since > begun - Duration::from_secs(120) && since <= SystemTime::now() + Duration::from_secs(1)
        );
        assert!(one.heartbeat_age.unwrap() <= Duration::from_secs(6), "{one:?}");
        assert!(one.expires_in.unwrap() <= Duration::from_secs(6), "{one:?}");
        assert!(one.version.as_deref().is_some_and(|version| version.starts_with("0.")), "{one:?}");
    }
    // As an instance of an earlier version has it, whose heartbeats leave the columns empty.
    tables.forget_instance("web-2").await;
    let all = instances(&first).await;
    let older = all.iter().find(|one| one.name.is_none()).unwrap();
    assert_eq!((&older.version, older.since, older.heartbeat_age), (&None, None, None));
    second.close().await;
    until("it has left", async || {
        let all = instances(&first).await;
        all.len() == 1 && all[0].partitions == partitions
    })
    .await;
    first.close().await;
    leasing.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn those_of_an_sqlite_file_are_listed_with_names() {
    let folder = tempfile::tempdir().unwrap();
    let settings = SqlStoreSettings::default();
    let mut stores = Vec::<Arc<dyn Store>>::new();
    for name in ["web-1", "web-2"] {
        let pool = sqlite(folder.path()).await;
        SqliteStore::migrate(&pool, &settings).await.unwrap();
        stores.push(Arc::new(SqliteStore::open(pool, &named(&settings, name)).await.unwrap()));
    }
    let tables = Tables::sqlite(&sqlite(folder.path()).await, &settings);
    let [first, second] = <[_; 2]>::try_from(stores).ok().unwrap();
    they_are_listed(first, second, tables, 1).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn those_of_a_postgres_schema_are_listed_with_names() {
    let schema = Schema::new().await;
    PostgresStore::migrate(&schema.pool, &schema.settings).await.unwrap();
    let open = async |name| {
        let settings = named(&schema.settings, name);
        Arc::new(PostgresStore::open(schema.pool.clone(), &settings).await.unwrap()) as Arc<dyn Store>
    };
    they_are_listed(open("web-1").await, open("web-2").await, schema.tables(), 16).await;
    schema.drop().await;
}
