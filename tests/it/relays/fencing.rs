//! A holder that has lost its part without noticing.

use std::time::Duration;

use tower_outbox::message::Settlement;
use tower_outbox::store::{Lease, PostgresStore, SqlStoreSettings, SqliteStore, Store};

use crate::support::databases::{Schema, sqlite};
use crate::support::stores::{dead, keyed, lease_all, retry};
use crate::support::tables::Tables;

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
async fn a_stale_owner_changes_no_row_in_postgres() {
    let schema = Schema::new().await;
    PostgresStore::migrate(&schema.pool, &schema.settings).await.unwrap();
    let store = PostgresStore::open(schema.pool.clone(), &schema.settings).await.unwrap();
    let settled = lease_some(&store).await;
    let tables = schema.tables();
    tables.steal_partitions().await;
    let before = tables.rows().await;
    assert_eq!((before.1, before.2), (10, 0));
    let _ = store.settle(&settled).await;
    assert_eq!(tables.rows().await, before);
    store.close().await;
    assert_eq!(tables.rows().await, before);
    schema.drop().await;
}

#[tokio::test]
async fn a_stale_owner_changes_no_row_in_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let pool = sqlite(folder.path()).await;
    let settings = SqlStoreSettings::default();
    SqliteStore::migrate(&pool, &settings).await.unwrap();
    let store = SqliteStore::open(pool.clone(), &settings).await.unwrap();
    let settled = lease_some(&store).await;
    let tables = Tables::sqlite(&pool, &settings);
    tables.steal_partitions().await;
    let before = tables.rows().await;
    assert_eq!((before.1, before.2), (10, 0));
    let _ = store.settle(&settled).await;
    assert_eq!(tables.rows().await, before);
    store.close().await;
    assert_eq!(tables.rows().await, before);
}
