//! A holder that has lost its part without noticing.

use std::time::Duration;

use sqlx::AssertSqlSafe;
use tower_outbox::message::Settlement;
use tower_outbox::store::{Lease, Store};
use tower_outbox::store::{PostgresStore, SqlStoreSettings, SqliteStore};

use crate::support::databases::{Schema, sqlite};
use crate::support::stores::{dead, keyed, lease_all, retry};

/// Leases messages, and gives what settles each in another way.
async fn lease_some(store: &(impl Store + ?Sized)) -> Vec<(Lease, Settlement)> {
    let mut batch = crate::support::messages(["a", "a", "a", "a", "a"]);
    batch.extend(["k", "l", "m", "n", "o"].map(|key| keyed("a", key)));
    store.append(batch).await.unwrap();
    let settlements = [
        Settlement::Ack,
        Settlement::Release,
        retry(Duration::from_secs(1)),
        dead("for a test"),
        Settlement::Discard,
    ];
    let leased = lease_all(store, 10).await;
    leased.iter().map(|one| one.lease).zip(settlements.into_iter().cycle()).collect()
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn who_has_lost_its_part_changes_no_row() {
    let schema = Schema::new().await;
    PostgresStore::migrate(&schema.pool, &schema.settings).await.unwrap();
    let store = PostgresStore::open(schema.pool.clone(), &schema.settings).await.unwrap();
    let settled = lease_some(&store).await;
    schema
        .run(
            "INSERT INTO {schema}.relays VALUES ('00000000-0000-0000-0000-000000000001', now() + interval '1 hour');
             UPDATE {schema}.buckets SET token = token + 1, owner = '00000000-0000-0000-0000-000000000001'",
        )
        .await;
    let rows = || async {
        let name = &schema.settings.schema;
        let sql = format!(
            "SELECT md5(string_agg(m::text, ';' ORDER BY position)), count(*), (SELECT count(*) FROM {name}.dead_letters)
             FROM {name}.messages m"
        );
        sqlx::query_as::<_, (String, i64, i64)>(AssertSqlSafe(sql)).fetch_one(&schema.pool).await.unwrap()
    };
    let before = rows().await;
    assert_eq!((before.1, before.2), (10, 0));
    let _ = store.settle(&settled).await;
    assert_eq!(rows().await, before);
    store.close().await;
    assert_eq!(rows().await, before);
    schema.drop().await;
}

#[tokio::test]
async fn who_has_lost_its_file_changes_no_row() {
    let folder = tempfile::tempdir().unwrap();
    let pool = sqlite(folder.path()).await;
    let settings = SqlStoreSettings::default();
    SqliteStore::migrate(&pool, &settings).await.unwrap();
    let store = SqliteStore::open(pool.clone(), &settings).await.unwrap();
    let settled = lease_some(&store).await;
    let name = &settings.schema;
    let lose = format!(
        "INSERT INTO {name}_relays VALUES (x'01', (unixepoch() + 3600) * 1000);
         UPDATE {name}_buckets SET token = token + 1, owner = x'01'"
    );
    sqlx::raw_sql(AssertSqlSafe(lose)).execute(&pool).await.unwrap();
    let rows = || async {
        let sql = format!(
            "SELECT group_concat(concat_ws(',', position, hex(id), due_at, attempts, failures), ';'), count(*),
                 (SELECT count(*) FROM {name}_dead_letters)
             FROM {name}_messages ORDER BY position"
        );
        sqlx::query_as::<_, (String, i64, i64)>(AssertSqlSafe(sql)).fetch_one(&pool).await.unwrap()
    };
    let before = rows().await;
    assert_eq!((before.1, before.2), (10, 0));
    let _ = store.settle(&settled).await;
    assert_eq!(rows().await, before);
    store.close().await;
    assert_eq!(rows().await, before);
}
