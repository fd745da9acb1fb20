//! The order in which several instances handle messages.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use tokio::time::timeout;
use tower_outbox::{Consumer, Messenger};

use super::raw::{Place, SOON};

/// Handles messages in several instances; every third message fails at its first attempt. Gives the bodies in the order of success.
async fn handled(place: &Place, max_ack_pending: u32, count: usize) -> Vec<String> {
    let subscription = place.subscription().with_max_ack_pending(max_ack_pending);
    let done = Arc::<Mutex<Vec<String>>>::default();
    let failed = Arc::<Mutex<Vec<String>>>::default();
    let handler = {
        let (done, failed) = (Arc::clone(&done), Arc::clone(&failed));
        async move |body: String| {
            let mut failed = failed.lock().unwrap();
            if body.parse::<usize>().unwrap().is_multiple_of(3) && !failed.contains(&body) {
                failed.push(body);
                let soon = HeaderMap::from_iter([(axum::http::header::RETRY_AFTER, "0".parse().unwrap())]);
                return (StatusCode::SERVICE_UNAVAILABLE, soon);
            }
            done.lock().unwrap().push(body);
            (StatusCode::OK, HeaderMap::new())
        }
    };
    let router: Router = Router::new().route(&format!("/{}", place.topic), post(handler));
    let instances: Vec<_> = (0..3)
        .map(|_| tokio::spawn(Consumer::new(place.source(&subscription), router.clone()).into_future()))
        .collect();
    let all = async {
        while done.lock().unwrap().len() < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(SOON, all).await.expect("some are not handled");
    instances.iter().for_each(tokio::task::JoinHandle::abort);
    let done = done.lock().unwrap();
    done.clone()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn one_unsettled_message_keeps_the_order_over_retries() {
    let place = Place::new().await;
    let numbers: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    let messages = numbers.iter().map(|n| place.message(n)).collect();
    place.messenger().send(messages).await.unwrap();
    assert_eq!(handled(&place, 1, numbers.len()).await, numbers);
}
