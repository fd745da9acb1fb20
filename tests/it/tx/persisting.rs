//! Messages in a transaction that the app has begun itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::any;
use http::StatusCode;
use tower_outbox::dummy::Dummy;
use tower_outbox::outbox::{Outbox, RelaySettings};
use tower_outbox::store::{Store, WhenFull};
use tower_outbox::testing::Sent;
use tower_outbox::tx::PersistError;
use tower_outbox::{Bus, Message, MessageQueue, MessagingLayer, Settings, Tx};

use super::place::{Place, both, created, insert, post, quiet, strings};
use crate::support::enqueue;
use crate::support::messengers::recording;
use crate::support::stores::{STUCK, depth, limits, retry, settle, until};

/// An app that persists its event with a row, in a transaction that ends so, and answers so.
fn app<P: Place>(place: &P, layer: MessagingLayer, commit: bool, status: StatusCode) -> Router {
    let place = place.clone();
    let handler = move |queue: MessageQueue| async move {
        created(&queue);
        assert_eq!(place.own(&queue, commit).await.unwrap(), 1);
        assert!(queue.is_empty());
        status
    };
    Router::new().route("/", any(handler)).layer(layer)
}

pub async fn what_is_persisted_leaves_with_the_transaction_of_the_app<P: Place>(place: P) {
    // The app has committed, whatever the response is.
    let app = app(&place, place.layer().await, true, StatusCode::IM_A_TEAPOT);
    assert_eq!(post(&app).await.status(), StatusCode::IM_A_TEAPOT);
    place.assert(true, "committed by the app").await;
}

async fn bus<P: Place>(place: &P) -> (Bus, Sent) {
    let settings = format!("DELIVERY = 'transactional'\nOUTBOX.SCHEMA = '{}'", place.schema());
    let settings: Settings = toml::from_str(&settings).unwrap();
    let (recording, sent) = recording();
    (place.bus(&settings, recording).await, sent)
}

pub async fn a_bus_persists_outside_a_request<P: Place>(place: P) {
    let (bus, sent) = bus(&place).await;
    let event = || vec![Message::new("user.created", "Jo").unwrap()];
    assert_eq!(place.own_of_bus(&bus, false, Duration::ZERO, event()).await.unwrap(), 1);
    place.assert(false, "rolled back by the app").await;
    assert_eq!(place.own_of_bus(&bus, true, Duration::ZERO, event()).await.unwrap(), 1);
    until("it is sent", async || sent.topics() == ["user.created"]).await;
    assert_eq!(place.rows().await, 1);
    assert!(bus.shutdown(STUCK).await.is_clean());
}

pub async fn a_commit_long_after_persist_is_sent_at_once<P: Place>(place: P) {
    let (bus, sent) = bus(&place).await;
    let event = vec![Message::new("user.created", "Jo").unwrap()];
    assert_eq!(place.own_of_bus(&bus, true, P::LONG, event).await.unwrap(), 1);
    let committed = Instant::now();
    until("it is sent", async || sent.topics() == ["user.created"]).await;
    // The sweep of an idle store comes after 30 seconds.
    assert!(committed.elapsed() < Duration::from_secs(3), "{:?}", committed.elapsed());
    assert!(bus.shutdown(STUCK).await.is_clean());
}

pub async fn what_is_persisted_goes_with_a_rollback<P: Place>(place: P) {
    let app = app(&place, place.layer().await, false, StatusCode::OK);
    assert_eq!(post(&app).await.status(), StatusCode::OK);
    place.assert(false, "rolled back by the app").await;
}

pub async fn persist_works_in_the_transaction_of_the_request<P: Place>(place: P) {
    let layer = place.layer().await;
    for status in [StatusCode::CONFLICT, StatusCode::OK] {
        let handler = move |mut tx: Tx<P::Kind>, queue: MessageQueue| async move {
            both::<P>(&mut tx, &queue).await;
            assert_eq!(queue.persist(&mut *tx).await.unwrap(), 1);
            assert_eq!(queue.persist(&mut *tx).await.unwrap(), 0);
            status
        };
        assert_eq!(post(&Router::new().route("/", any(handler)).layer(layer.clone())).await.status(), status);
        quiet(&layer).await;
        place.assert(status == StatusCode::OK, "persisted early").await;
    }
}

pub async fn what_leaves_always_is_not_persisted<P: Place>(place: P) {
    let handler = {
        let place = place.clone();
        move |queue: MessageQueue| async move {
            enqueue(&queue.always(), ["audit.1"]);
            created(&queue);
            enqueue(&queue.always(), ["audit.2"]);
            assert_eq!(place.own(&queue, false).await.unwrap(), 1);
            assert_eq!(queue.len(), 2);
            enqueue(&queue, ["late"]);
            StatusCode::CONFLICT
        }
    };
    let app = Router::new().route("/", any(handler)).layer(place.layer().await);
    assert_eq!(post(&app).await.status(), StatusCode::CONFLICT);
    assert_eq!((place.rows().await, place.events().await), (0, strings(&["audit.1", "audit.2"])));
}

pub async fn without_a_transaction_it_is_an_error_and_the_messages_stay<P: Place>(place: P) {
    let handler = {
        let place = place.clone();
        move |queue: MessageQueue| async move {
            created(&queue);
            let error = place.bare(&queue).await.unwrap_err();
            assert!(matches!(error, PersistError::NoTransaction));
            assert!(error.to_string().contains("begin one"), "{error}");
            assert_eq!(queue.len(), 1);
        }
    };
    let app = Router::new().route("/", any(handler)).layer(place.layer().await);
    assert_eq!(post(&app).await.status(), StatusCode::OK);
    assert_eq!(place.events().await, strings(&["user.created"]), "by the layer");
}

pub async fn without_an_outbox_in_this_database_it_is_an_error_and_the_messages_stay<P: Place>(place: P) {
    let (messenger, sent) = recording();
    for layer in [MessagingLayer::new(messenger), MessagingLayer::new(Dummy::new())] {
        let handler = {
            let place = place.clone();
            move |queue: MessageQueue| async move {
                created(&queue);
                let error = place.own(&queue, true).await.unwrap_err();
                assert!(matches!(error, PersistError::NoOutbox { .. }));
                assert!(error.to_string().contains("DELIVERY = \"transactional\""), "{error}");
            }
        };
        assert_eq!(post(&Router::new().route("/", any(handler)).layer(layer)).await.status(), StatusCode::OK);
    }
    assert_eq!(sent.topics(), ["user.created"]);
    place.assert(false, "the app has rolled back").await;
}

pub async fn after_the_response_it_is_an_error<P: Place>(place: P) {
    let (give, mut given) = tokio::sync::mpsc::unbounded_channel();
    let handler = move |queue: MessageQueue| async move { give.send(queue).unwrap() };
    post(&Router::new().route("/", any(handler)).layer(place.layer().await)).await;
    let queue = given.recv().await.unwrap();
    assert!(matches!(place.own(&queue, true).await, Err(PersistError::Closed)));
}

pub async fn in_a_transaction_that_is_over_it_is_an_error_and_nothing_is_stored<P: Place>(place: P) {
    let layer = place.layer().await;
    for end in ["COMMIT", "ROLLBACK"] {
        let handler = move |mut tx: Tx<P::Kind>, queue: MessageQueue| async move {
            both::<P>(&mut tx, &queue).await;
            P::execute(&mut tx, end).await.unwrap();
            let error = queue.persist(&mut *tx).await.unwrap_err();
            assert!(matches!(error, PersistError::Failed(_)), "{error}");
            error
        };
        let app = Router::new().route("/", any(handler)).layer(layer.clone());
        assert_eq!(post(&app).await.status(), StatusCode::INTERNAL_SERVER_ERROR, "{end}");
        quiet(&layer).await;
        assert_eq!((place.rows().await, place.events().await), (i64::from(end == "COMMIT"), vec![]), "{end}");
        place.clear().await;
    }
}

pub async fn messages_that_cannot_be_stored_are_in_the_queue_again<P: Place>(place: P) {
    let handler = async |mut tx: Tx<P::Kind>, queue: MessageQueue| {
        insert::<P>(&mut tx, "Jo").await;
        created(&queue);
        enqueue(&queue.always(), ["audit"]);
        P::execute(&mut tx, P::spoil()).await.unwrap_err();
        let error = queue.persist(&mut *tx).await.unwrap_err();
        assert!(matches!(error, PersistError::Failed(_)), "{error}");
        assert_eq!(queue.len(), 2);
        error
    };
    let layer = place.layer().await;
    let app = Router::new().route("/", any(handler)).layer(layer.clone());
    assert_eq!(post(&app).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    quiet(&layer).await;
    assert_eq!((place.rows().await, place.events().await), (0, strings(&["audit"])));
}

/// A store of this size into which five messages are persisted; and who looks after it, as a relay does.
async fn overfull<P: Place>(place: &P) -> Arc<dyn Store> {
    let place = place.with_limits(limits(3, WhenFull::Refuse));
    let store = place.store().await;
    let looking_after = Arc::clone(&store);
    tokio::spawn(async move {
        loop {
            let out = looking_after.lease(10).await.unwrap();
            settle(&*looking_after, &out, retry(Duration::from_secs(3_600))).await;
        }
    });
    let layer =
        MessagingLayer::new(Outbox::new(Dummy::new(), Arc::clone(&store), RelaySettings::default()).0);
    let handler = move |queue: MessageQueue| async move {
        (0..5).for_each(|_| created(&queue));
        assert_eq!(place.own(&queue, true).await.unwrap(), 5);
    };
    assert_eq!(post(&Router::new().route("/", any(handler)).layer(layer)).await.status(), StatusCode::OK);
    store
}

pub async fn what_is_persisted_takes_room<P: Place>(place: P) {
    let store = overfull(&place).await;
    // Well before the next count that is due anyway.
    until("requests are turned away", async || !store.admission().unwrap().is_open()).await;
    assert_eq!(depth(&*store).await, (5, 0));
}
