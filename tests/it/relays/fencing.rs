//! A holder that has lost its part without noticing.

use std::time::Duration;

use sqlx::AssertSqlSafe;
use tower_outbox::message::Settlement;
use tower_outbox::store::{Lease, Store, WhenFull};
use tower_outbox::store::{PostgresStore, SqlStoreSettings, SqliteStore};

use crate::support::databases::{Schema, sqlite};
use crate::support::stores::{
    assert_nothing_due, batch, dead, depth, keyed, lease_all, limits, list, retry, until,
};

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

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn who_makes_room_leaves_to_others_what_is_theirs_to_send() {
    let Schema { pool, settings } = Schema::new().await;
    PostgresStore::migrate(&pool, &settings).await.unwrap();
    let settings = settings.with_limits(limits(40, WhenFull::DropOldest));
    let [one, two] =
        [PostgresStore::open(pool.clone(), &settings), PostgresStore::open(pool.clone(), &settings)];
    let (one, two) = (one.await.unwrap(), two.await.unwrap());
    let shared = format!("SELECT count(*) FROM {}.buckets GROUP BY owner", settings.schema);
    until("both have their part", async || {
        assert_nothing_due(&one).await;
        assert_nothing_due(&two).await;
        let parts: Vec<i64> =
            sqlx::query_scalar(AssertSqlSafe(shared.clone())).fetch_all(&pool).await.unwrap();
        parts == [8, 8]
    })
    .await;
    // What has no key goes to who stores it.
    one.append(batch("a", 20)).await.unwrap();
    let out = lease_all(&one, 20).await;
    two.append(batch("a", 20)).await.unwrap();
    assert_eq!(depth(&two).await, (40, 0));
    for _ in 0..3 {
        two.append(batch("a", 4)).await.unwrap();
    }
    assert_eq!(depth(&two).await, (40, 0));
    let left: Vec<_> = list(&one).await.iter().map(|entry| entry.position).collect();
    assert!(out.iter().all(|one| left.contains(&one.lease.position)), "what is being sent was dropped");
    // There is nothing else.
    two.append(batch("a", 30)).await.unwrap();
    assert_eq!(depth(&two).await, (40, 0));
    one.close().await;
    two.close().await;
    Schema { pool, settings }.drop().await;
}
