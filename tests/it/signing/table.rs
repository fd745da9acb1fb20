//! The table of trusted keys in a database, Postgres and SQLite.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use tokio::sync::mpsc;
use tower_outbox::signing::{KeyKind, Signer, SigningKey, TrustedTable, Verified, Verifier};
use tower_outbox::store::{PostgresStore, SqlStoreSettings, SqliteStore};
use tower_outbox::{Bus, Delivery, Messenger, Settings};

use super::{STUCK, key, message, settings, signed_by};
use crate::support::databases::{Database, Schema, sqlite};
use crate::support::stores::until;
use crate::support::tables::Tables;

fn signer(key: &SigningKey) -> Signer {
    Signer::with_key(SigningKey::from_pem(&key.to_pem().unwrap()).unwrap(), &settings()).unwrap()
}

async fn verified(verifier: &Verifier, key: &SigningKey) -> Result<(), String> {
    match verifier.verify(&signer(key).sign(&message(7)).unwrap()).await {
        Ok(Verified::Signed(message, _)) => {
            assert_eq!(signed_by(&message), Some("host-1"));
            Ok(())
        }
        Ok(Verified::Refused(reason)) => Err(reason),
        Ok(unsigned) => panic!("{unsigned:?}"),
        Err(error) => Err(format!("not now: {error}")),
    }
}

fn fingerprints(keys: &[(String, Arc<[tower_outbox::signing::TrustedKey]>)]) -> Vec<(String, Vec<String>)> {
    let of = |(origin, keys): &(String, Arc<[tower_outbox::signing::TrustedKey]>)| {
        (origin.clone(), keys.iter().map(|key| key.fingerprint().to_owned()).collect())
    };
    keys.iter().map(of).collect()
}

/// `table` is a second handle, as another process has it.
async fn keys_are_added_replaced_and_revoked(table: TrustedTable, other: TrustedTable) {
    let verifier = Verifier::with_keys(table.clone(), &settings()).unwrap();
    let (old, new) = (key(KeyKind::Ed25519), key(KeyKind::Rsa));
    assert!(verified(&verifier, &old).await.unwrap_err().contains("host-1 is not trusted"));
    other.trust("host-1", &old.public_pem().unwrap()).await.unwrap();
    until("it is trusted", || async { verified(&verifier, &old).await.is_ok() }).await;
    // Both at once, and once more without an effect.
    for _ in 0..2 {
        let both =
            other.trust("host-1", &(old.public_pem().unwrap() + &new.public_pem().unwrap())).await.unwrap();
        assert_eq!(both.len(), 2);
    }
    until("the new one is trusted", || async { verified(&verifier, &new).await.is_ok() }).await;
    verified(&verifier, &old).await.unwrap();
    let mut listed = fingerprints(&table.list().await.unwrap());
    listed.iter_mut().for_each(|(_, keys)| keys.sort());
    let mut expected: Vec<_> =
        [&old, &new].iter().map(|key| key.public().unwrap().fingerprint().to_owned()).collect();
    expected.sort();
    assert_eq!(listed, [("host-1".to_owned(), expected)]);
    let of_old = old.public().unwrap();
    assert_eq!(other.revoke("host-1", Some(of_old.fingerprint())).await.unwrap(), 1);
    until("the old one is revoked", || async { verified(&verifier, &old).await.is_err() }).await;
    verified(&verifier, &new).await.unwrap();
    assert_eq!(other.revoke("host-1", None).await.unwrap(), 1);
    until("none is trusted", || async { verified(&verifier, &new).await.is_err() }).await;
    assert_eq!(other.revoke("host-1", None).await.unwrap(), 0);
    for (origin, pem) in [
        ("../host", old.public_pem().unwrap()),
        ("host-1", old.to_pem().unwrap()),
        ("host-1", "no key".to_owned()),
    ] {
        other.trust(origin, &pem).await.unwrap_err();
    }
    assert!(table.list().await.unwrap().is_empty());
}

/// A row that holds no key harms no other row; while the table is away messages wait.
async fn bad_rows_are_ignored_and_without_a_table_messages_wait(table: TrustedTable, tables: &Tables) {
    let verifier = Verifier::with_keys(table.clone(), &settings()).unwrap();
    let good = key(KeyKind::Ed25519);
    tables.add_trusted_key("host-1", "-----BEGIN PUBLIC KEY-----\nAAAA").await;
    table.trust("host-1", &good.public_pem().unwrap()).await.unwrap();
    until("it is trusted", || async { verified(&verifier, &good).await.is_ok() }).await;
    tables.rename_trusted_keys("trusted_keys", "moved").await;
    let is_away = async || verified(&verifier, &good).await.is_err_and(|error| error.starts_with("not now"));
    until("they wait", || async { is_away().await }).await;
    tables.rename_trusted_keys("moved", "trusted_keys").await;
    verified(&verifier, &good).await.unwrap();
}

#[tokio::test]
async fn the_keys_of_sqlite_are_added_replaced_and_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let (pool, database) = (sqlite(folder.path()).await, SqlStoreSettings::default());
    let error = TrustedTable::open(pool.clone(), &database).await.unwrap_err().to_string();
    assert!(error.contains("call `migrate`"), "{error}");
    SqliteStore::migrate(&pool, &database).await.unwrap();
    let open = async || TrustedTable::open(sqlite(folder.path()).await, &database).await.unwrap();
    keys_are_added_replaced_and_revoked(open().await, open().await).await;
    let tables = Tables::sqlite(&pool, &database);
    bad_rows_are_ignored_and_without_a_table_messages_wait(open().await, &tables).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn the_keys_of_postgres_are_added_replaced_and_revoked() {
    let schema = Schema::new().await;
    PostgresStore::migrate(&schema.pool, &schema.settings).await.unwrap();
    let open = async || TrustedTable::open(schema.pool.clone(), &schema.settings).await.unwrap();
    keys_are_added_replaced_and_revoked(open().await, open().await).await;
    bad_rows_are_ignored_and_without_a_table_messages_wait(open().await, &schema.tables()).await;
    schema.drop().await;
}

/// The consumer of a bus gets a message whose key is in the database.
async fn a_bus_trusts_the_keys_of_its_database(url: &str) {
    let folder = tempfile::tempdir().unwrap();
    let made = key(KeyKind::Ed25519);
    std::fs::write(folder.path().join("key.pem"), made.to_pem().unwrap()).unwrap();
    let text = format!(
        "BACKEND = 'memory'\nOUTBOX.DATABASE_URL = '{url}'\n[CONSUMERS.users]\n[SIGNING]\nORIGIN = 'host-1'\n\
         KEY = '{}'\nTRUSTED = 'Database'",
        folder.path().join("key.pem").display()
    );
    let settings: Settings = toml::from_str(&text).unwrap();
    let bus = Bus::start(&settings).await.unwrap();
    let database = SqlStoreSettings::default();
    let table = match url.strip_prefix("sqlite:") {
        Some(_) => TrustedTable::open(sqlx::SqlitePool::connect(url).await.unwrap(), &database).await,
        None => TrustedTable::open(sqlx::PgPool::connect(url).await.unwrap(), &database).await,
    };
    table.unwrap().trust("host-1", &made.public_pem().unwrap()).await.unwrap();
    let sent = message(7);
    bus.messenger().send(vec![sent.clone()]).await.unwrap();
    let (called, mut calls) = mpsc::unbounded_channel();
    let handler = move |delivery: Delivery| async move { called.send(delivery.message().clone()).unwrap() };
    let app = Router::new().route("/user/created", post(handler));
    tokio::spawn(bus.consumer("users", app).unwrap().into_future());
    let got = tokio::time::timeout(STUCK, calls.recv()).await.unwrap().unwrap();
    assert_eq!((got.id(), signed_by(&got)), (sent.id(), Some("host-1")));
    assert!(bus.shutdown(Duration::from_secs(30)).await.is_clean());
}

#[tokio::test]
async fn a_bus_trusts_the_keys_in_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("app.db").display());
    a_bus_trusts_the_keys_of_its_database(&url).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_bus_trusts_the_keys_in_postgres() {
    let database = Database::new().await;
    a_bus_trusts_the_keys_of_its_database(&database.url).await;
    database.drop().await;
}
