//! Requests whose callers wait in vain, or go away.

use std::sync::Arc;

use axum_core::body::Body;
use http::{Request, StatusCode};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout};

use super::harness::{RequesterHarness, Responder, SHORT, call, echo, post, text, within};
use crate::consumer::ConsumerSettings;
use crate::reply::RequestError;
use crate::testing::support::stores::STUCK;

pub async fn no_reply_in_time_is_504(harness: RequesterHarness) {
    struct Ended(mpsc::UnboundedSender<()>);
    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let (ended, mut ends) = mpsc::unbounded_channel();
    let handler = move |_| {
        let ended = Ended(ended.clone());
        async move {
            let _ended = ended;
            std::future::pending().await
        }
    };
    let _responder = harness.responder(handler).await;
    let begun = Instant::now();
    let response = call(&harness.client(), within(post("/never", ""), SHORT)).await;
    assert!((SHORT..STUCK).contains(&begun.elapsed()));
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(matches!(response.extensions().get(), Some(RequestError::NoReply(wait)) if *wait == SHORT));
    timeout(STUCK, ends.recv()).await.expect("the handler outlives its caller").unwrap();
}

pub async fn no_responder_is_503(harness: RequesterHarness) {
    let begun = Instant::now();
    let client = harness.client();
    let refused = async {
        loop {
            let response = call(&client, within(post("/order/7", ""), SHORT)).await;
            match response.status() {
                status if status == harness.no_responder() => return response,
                status => assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "after {:?}", begun.elapsed()),
            }
        }
    };
    let response = timeout(STUCK, refused).await.expect("the transport does not know");
    let error = response.extensions().get::<RequestError>().expect("the response has its error");
    match response.status() {
        StatusCode::SERVICE_UNAVAILABLE => {
            assert!(matches!(error, RequestError::NoResponder), "{error}");
            assert_eq!(response.headers()["retry-after"], "1");
        }
        _ => assert!(matches!(error, RequestError::NoReply(_)), "{error}"),
    }
}

/// A responder whose handler says that it was called, and never ends.
async fn stuck(harness: &RequesterHarness) -> (Responder, mpsc::UnboundedReceiver<()>) {
    let (called, calls) = mpsc::unbounded_channel();
    let handler = move |_| {
        called.send(()).unwrap();
        std::future::pending()
    };
    (harness.responder(handler).await, calls)
}

pub async fn a_killed_responder_is_no_reply(harness: RequesterHarness) {
    let (responder, mut calls) = stuck(&harness).await;
    let client = harness.client();
    let calling = tokio::spawn(async move { call(&client, within(post("/order/7", ""), 4 * SHORT)).await });
    timeout(STUCK, calls.recv()).await.unwrap().unwrap();
    drop(responder);
    let response = timeout(STUCK, calling).await.unwrap().unwrap();
    assert!(matches!(response.status().as_u16(), 503 | 504), "{}", response.status());
}

/// Nothing is checked without [`RequesterHarness::with_redelivery`].
pub async fn another_responder_answers_for_a_killed_one(harness: RequesterHarness) {
    if !harness.redelivers {
        return;
    }
    let (responder, mut calls) = stuck(&harness).await;
    let client = harness.client();
    let calling = tokio::spawn(async move { call(&client, within(post("/order/7", "seven"), STUCK)).await });
    timeout(STUCK, calls.recv()).await.unwrap().unwrap();
    drop(responder);
    let _another = harness.responder(echo).await;
    let response = timeout(STUCK, calling).await.unwrap().unwrap();
    assert_eq!(text(response.into_body()).await, "seven");
}

/// A handler that says which body it got, and answers with it when it gets a permit.
fn gated(
    called: mpsc::UnboundedSender<String>,
    gate: &Arc<Semaphore>,
) -> impl Fn(Request<Body>) -> std::pin::Pin<Box<dyn Future<Output = axum_core::response::Response> + Send>>
+ Send
+ Sync
+ 'static {
    let gate = Arc::clone(gate);
    move |request| {
        let (gate, called) = (Arc::clone(&gate), called.clone());
        Box::pin(async move {
            let body = text(request.into_body()).await;
            called.send(body.clone()).unwrap();
            gate.acquire().await.unwrap().forget();
            echo(Request::new(body.into())).await
        })
    }
}

pub async fn a_caller_that_goes_away_harms_no_other(harness: RequesterHarness) {
    let (called, mut calls) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let _responder = harness.responder(gated(called, &gate)).await;
    let client = harness.client();
    let gone = {
        let client = client.clone();
        tokio::spawn(async move { call(&client, within(post("/order/1", "gone"), STUCK)).await })
    };
    timeout(STUCK, calls.recv()).await.unwrap().unwrap();
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    let stays = tokio::spawn(async move { call(&client, within(post("/order/2", "stays"), STUCK)).await });
    timeout(STUCK, calls.recv()).await.unwrap().unwrap();
    gate.add_permits(2);
    let response = timeout(STUCK, stays).await.unwrap().unwrap();
    assert_eq!(text(response.into_body()).await, "stays");
}

pub async fn an_expired_request_is_not_handled(harness: RequesterHarness) {
    let (called, mut calls) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let settings = ConsumerSettings::default().with_concurrency(1);
    let _responder = harness.responder_with(settings, gated(called, &gate)).await;
    let client = harness.client();
    let calling = |body: &'static str, wait| {
        let client = client.clone();
        tokio::spawn(async move { call(&client, within(post("/order/7", body), wait)).await })
    };
    let first = calling("first", STUCK);
    assert_eq!(timeout(STUCK, calls.recv()).await.unwrap().unwrap(), "first");
    assert_eq!(calling("expired", SHORT).await.unwrap().status(), 504);
    // A responder without the clock of the caller counts from the arrival of the request, which may come late.
    sleep(SHORT).await;
    gate.add_permits(3);
    assert_eq!(timeout(STUCK, first).await.unwrap().unwrap().status(), 200);
    let last = timeout(STUCK, calling("last", STUCK)).await.unwrap().unwrap();
    assert_eq!(timeout(STUCK, calls.recv()).await.unwrap().unwrap(), "last");
    assert_eq!(last.status(), 200);
}
