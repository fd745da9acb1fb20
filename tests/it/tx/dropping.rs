//! Requests dropped at every one of their await points.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Body;
use axum::routing::any;
use http::{Request, StatusCode};
use tokio::task::yield_now;
use tokio::time::timeout;
use tower::ServiceExt;
use tower_outbox::{MessageQueue, Tx};

use super::place::{Place, both, quiet};
use crate::support::fuse::fuse_woken;
use crate::support::stores::STUCK;

/// Drops a request to `app` after so many polls; gives its status if it was answered before.
async fn drop_request(app: &Router, polls: usize) -> Option<StatusCode> {
    let request = app.clone().oneshot(Request::post("/").body(Body::empty()).unwrap());
    let response = timeout(STUCK, fuse_woken(polls, request)).await.expect("it is answered");
    response.map(|response| response.unwrap().status())
}

/// The database answers when it likes: each place is tried several times.
async fn dropped_anywhere<P: Place>(place: &P, status: StatusCode) {
    for _ in 0..4 {
        dropped_once_anywhere(place, status).await;
    }
    place.assert_nothing_is_left_open().await;
}

async fn dropped_once_anywhere<P: Place>(place: &P, status: StatusCode) {
    let layer = place.layer().await;
    let done = Arc::new(AtomicBool::new(false));
    let handler = {
        let done = Arc::clone(&done);
        move |mut tx: Tx<P::Kind>, queue: MessageQueue| {
            let done = Arc::clone(&done);
            async move {
                yield_now().await;
                both::<P>(&mut tx, &queue).await;
                yield_now().await;
                done.store(true, Ordering::SeqCst);
                status
            }
        }
    };
    let app = Router::new().route("/", any(handler)).layer(layer.clone());
    for polls in 0.. {
        done.store(false, Ordering::SeqCst);
        // Connecting alone takes hundreds of polls: only those of a request on an open connection are of interest.
        place.warm().await;
        let answered = drop_request(&app, polls).await;
        let both = done.load(Ordering::SeqCst) && status.is_success();
        if answered.is_some() {
            assert_eq!(answered, Some(status));
            place.assert(both, "the head went out before the commit").await;
        }
        quiet(&layer).await;
        place.assert(both, &format!("dropped after {polls} polls")).await;
        place.clear().await;
        if answered.is_some() {
            assert!(polls > 2, "{polls} polls are too few to have seen every await point");
            break;
        }
    }
}

pub async fn a_request_dropped_anywhere_leaves_both_or_neither<P: Place>(place: P) {
    dropped_anywhere(&place, StatusCode::OK).await;
}

pub async fn a_request_that_fails_dropped_anywhere_leaves_neither<P: Place>(place: P) {
    dropped_anywhere(&place, StatusCode::CONFLICT).await;
}

pub async fn a_persist_dropped_anywhere_leaves_both_or_neither<P: Place>(place: P) {
    let layer = place.layer().await;
    for polls in 0.. {
        let (give, mut given) = tokio::sync::mpsc::unbounded_channel();
        let handler = move |mut tx: Tx<P::Kind>, queue: MessageQueue| {
            let give = give.clone();
            async move {
                both::<P>(&mut tx, &queue).await;
                let persisted = fuse_woken(polls, queue.persist(&mut *tx)).await;
                let persisted = persisted.map(|persisted| persisted.unwrap());
                assert_eq!(queue.len(), 1 - persisted.unwrap_or_default());
                give.send(persisted.is_some()).unwrap();
                // As the docs say.
                if persisted.is_some() { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }
            }
        };
        let app = Router::new().route("/", any(handler)).layer(layer.clone());
        let status = drop_request(&app, usize::MAX).await.unwrap();
        quiet(&layer).await;
        place.assert(status.is_success(), &format!("dropped after {polls} polls")).await;
        place.clear().await;
        if given.recv().await.unwrap() {
            assert!(polls > 0, "{polls} polls are too few to have seen every await point");
            break;
        }
    }
}
