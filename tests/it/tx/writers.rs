//! SQLite has one writer at a time: those of this process take turns.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::routing::any;
use http::{Request, StatusCode};
use sqlx::Sqlite;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower_outbox::dummy::Dummy;
use tower_outbox::outbox::{Outbox, RelaySettings};
use tower_outbox::store::StoreError;
use tower_outbox::{MessageQueue, MessagingLayer, Tx};

use super::place::{Lite, Place, ask, both, created, insert, post};
use crate::support::stores::{STUCK, batch, confirm, depth, lease};

/// Of each kind.
const WRITERS: usize = 64;

pub async fn writers_of_all_kinds_at_once_wait_for_their_turns(place: Lite) {
    // A request that finds another writing gives up at once, more or less.
    let place = place.with_pool(32, STUCK, Duration::from_millis(10)).await;
    let store = place.store().await;
    // On the same file.
    let other = place.store().await;
    let outbox = Outbox::new(Dummy::new(), Arc::clone(&store), RelaySettings::default()).0;
    let handler = async |Path(name): Path<String>, mut tx: Tx<Sqlite>, queue: MessageQueue| {
        insert::<Lite>(&mut tx, &name).await;
        created(&queue);
    };
    let app = Router::new().route("/{name}", any(handler)).layer(MessagingLayer::new(outbox));
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        let (app, store) = (app.clone(), Arc::clone(if number % 2 == 0 { &store } else { &other }));
        writers.spawn(async move {
            let request = Request::post(format!("/{number}")).body(Body::empty()).unwrap();
            assert_eq!(ask(&app, request).await.status(), StatusCode::OK);
        });
        writers.spawn(async move { store.append(batch("a", 1)).await.unwrap() });
    }
    writers.spawn({
        let store = Arc::clone(&store);
        async move {
            let mut settled = 0;
            while settled < 2 * WRITERS {
                let out = lease(&*store, 8).await;
                confirm(&*store, &out).await;
                settled += out.len();
            }
        }
    });
    timeout(STUCK, writers.join_all()).await.expect("all get their turn");
    assert_eq!((place.rows().await, depth(&*store).await), (WRITERS as i64, (0, 0)));
}

pub async fn a_writer_blocks_others_no_longer_than_the_acquire_timeout(place: Lite) {
    let place = place.with_pool(8, Duration::from_millis(500), 10 * STUCK).await;
    let store = place.store().await;
    let layer =
        MessagingLayer::new(Outbox::new(Dummy::new(), Arc::clone(&store), RelaySettings::default()).0);
    let inner = Router::new().route("/", any(async |_: Tx<Sqlite>| {})).layer(layer.clone());
    let handler = {
        let (inner, store) = (inner.clone(), Arc::clone(&store));
        move |mut tx: Tx<Sqlite>, queue: MessageQueue| async move {
            both::<Lite>(&mut tx, &queue).await;
            // Both would wait for this request, which waits for them.
            assert_eq!(post(&inner).await.status(), StatusCode::SERVICE_UNAVAILABLE);
            let unstored = store.append(batch("a", 1)).await.unwrap_err();
            assert!(matches!(unstored.source, StoreError::Unavailable(_)), "{unstored:?}");
        }
    };
    let app = Router::new().route("/", any(handler)).layer(layer);
    assert_eq!(post(&app).await.status(), StatusCode::OK);
    place.assert(true, "the one that had its turn").await;
    assert_eq!(post(&inner).await.status(), StatusCode::OK);
    store.append(batch("a", 1)).await.unwrap();
}
