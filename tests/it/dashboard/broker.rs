//! The broker's own queues of dead letters.

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use http::{Request, StatusCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tower::ServiceExt;
use tower_outbox::{Bus, Message, Settings};

use super::hostile::assert_harmless;
use super::{BASE, attributes, target};
use crate::admin::until;
use crate::peers::{Brokers, unique};
use crate::support::text;

/// The pages of an app whose consumer gives messages up.
struct Pages {
    router: Router,
    bus: Bus,
    refuses: Arc<AtomicBool>,
}

impl Pages {
    /// An app of these settings, which name a consumer `orders`.
    async fn of(settings: &str) -> Self {
        let settings: Settings = toml::from_str(settings).unwrap();
        let bus = Bus::start(&settings).await.unwrap();
        let refuses = Arc::new(AtomicBool::new(true));
        let refusing = Arc::clone(&refuses);
        let handler = async move || match refusing.load(Ordering::SeqCst) {
            true => (StatusCode::BAD_REQUEST, "<b>no such order</b>"),
            false => (StatusCode::OK, ""),
        };
        let app: Router = Router::new().fallback(post(handler));
        tokio::spawn(bus.consumer("orders", app).unwrap().into_future());
        let router = Router::new().nest(BASE, bus.dashboard().without_guard());
        Self { router, bus, refuses }
    }

    async fn call(&self, request: Request<Body>) -> (StatusCode, String) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        (response.status(), text(response).await)
    }

    async fn page(&self, name: &str) -> String {
        let (status, text) =
            self.call(Request::get(format!("{BASE}/{name}")).body(Body::empty()).unwrap()).await;
        assert_eq!(status, StatusCode::OK, "{name}: {text}");
        text
    }

    async fn submit(&self, fields: &str) -> (StatusCode, String) {
        let request = Request::post(format!("{BASE}/broker")).header("sec-fetch-site", "same-origin");
        let request = request.body(Body::from(fields.to_owned())).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        match response.status() {
            StatusCode::SEE_OTHER => (StatusCode::OK, self.page(target(response.headers())).await),
            status => (status, text(response).await),
        }
    }

    /// Waits until the page shows so many dead letters in the broker.
    async fn until(&self, dead: u64) {
        until("the number of dead letters", async || {
            let page = self.page("dead-letters").await;
            page.contains(&format!(">{dead}</a>"))
        })
        .await;
    }
}

/// An operator looks, requeues one after the cause is mended, and drops the others.
async fn an_operator_empties(pages: &Pages, topic: &str) {
    let message = |number: usize| Message::json(topic.to_owned(), &number).unwrap();
    for number in 0..3 {
        // A queue that is not bound yet refuses them.
        until("it is sent", async || pages.bus.messenger().send(vec![message(number)]).await.is_ok()).await;
    }
    pages.until(3).await;
    let page = pages.page("dead-letters").await;
    assert!(page.contains("In the broker"), "{page}");
    let address = attributes(&page, "<a href=\"broker?")[0].replace("&amp;", "&");
    let list = pages.page(&format!("broker?{address}")).await;
    assert!(list.contains("3 dead letters in") && list.contains("no such order"), "{list}");
    assert_harmless("broker", &list);
    let ids = attributes(&list, "name=\"id\" value=\"");
    assert_eq!(ids.len(), 3);
    let one = pages.page(&format!("broker-message?{address}&id={}", ids[1])).await;
    assert!(one.contains("&lt;b&gt;no such order") && one.contains("<pre"), "{one}");
    // Looking settles nothing.
    pages.until(3).await;
    pages.refuses.store(false, Ordering::SeqCst);
    let question = pages.page(&format!("broker-confirm?{address}&act=requeue&id={}", ids[1])).await;
    assert!(question.contains("Requeue 1 message?"), "{question}");
    let (_, answer) = pages.submit(&format!("{address}&act=requeue&id={}&rate=1000", ids[1])).await;
    assert!(answer.contains("Requeued 1 message."), "{answer}");
    until("it is handled", async || pages.page("consumers").await.contains("data-label=\"Acknowledged\">1<"))
        .await;
    pages.until(2).await;
    let question = pages.page(&format!("broker-confirm?{address}&act=drop-all&first=2")).await;
    assert!(question.contains("Drop 2 messages?") && question.contains("for good"), "{question}");
    for left in [1, 0] {
        let (_, answer) = pages.submit(&format!("{address}&act=drop-all&first=1")).await;
        assert!(answer.contains("Dropped 1 message."), "{answer}");
        pages.until(left).await;
    }
    pages.until(0).await;
}

#[tokio::test]
async fn dead_letters_in_channels_are_requeued_and_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("channels");
    let settings =
        format!("BACKEND = 'channels'\nPATH = {path:?}\n[CONSUMERS.orders]\nCHANNEL = 'order.created'");
    an_operator_empties(&Pages::of(&settings).await, "order.created").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs brokers: ./scripts/test"]
async fn dead_letters_in_rabbitmq_are_requeued_and_dropped() {
    let brokers = Brokers::running();
    let queue = unique("pages");
    let settings = format!(
        "BACKEND = 'amqp091'\nURLS = '{}'\nMANDATORY = true\n[CONSUMERS.orders]\nQUEUE = '{queue}'\nBINDINGS = ['{queue}']",
        brokers.get("RABBIT1_AMQP")
    );
    let pages = Pages::of(&settings).await;
    // The first dead letter creates the queue.
    pages.until(0).await;
    an_operator_empties(&pages, &queue).await;
}

#[tokio::test]
async fn messages_without_a_way_back_stay_and_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("channels");
    let settings =
        format!("BACKEND = 'channels'\nPATH = {path:?}\n[CONSUMERS.orders]\nCHANNEL = 'order.created'");
    let pages = Pages::of(&settings).await;
    let send = async |topic: &str| {
        let message = Message::json(topic.to_owned(), &1).unwrap();
        pages.bus.messenger().send(vec![message]).await.unwrap();
    };
    send("order.created").await;
    pages.until(1).await;
    let page = pages.page("dead-letters").await;
    let address = attributes(&page, "<a href=\"broker?")[0].replace("&amp;", "&");
    let queue = address.split("queue=").nth(1).unwrap().split('&').next().unwrap().to_owned();
    // Strangers in the queue of dead letters.
    send(&queue).await;
    send(&queue).await;
    pages.until(3).await;
    pages.refuses.store(false, Ordering::SeqCst);
    let (_, answer) = pages.submit(&format!("{address}&act=requeue-all&first=3&rate=1000")).await;
    assert!(answer.contains("Requeued 1 message.") && answer.contains("2 messages stayed: "), "{answer}");
    pages.until(2).await;
}

#[tokio::test]
async fn only_queues_of_the_settings_are_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("channels");
    let settings =
        format!("BACKEND = 'channels'\nPATH = {path:?}\n[CONSUMERS.orders]\nCHANNEL = 'order.created'");
    let pages = Pages::of(&settings).await;
    pages.bus.messenger().send(vec![Message::json("other", &1).unwrap()]).await.unwrap();
    let page = Request::get(format!("{BASE}/broker?queue=other")).body(Body::empty()).unwrap();
    let (status, shown) = pages.call(page).await;
    assert!(status == StatusCode::NOT_FOUND && shown.contains("no consumer of the settings"), "{shown}");
    let (status, _) = pages.submit("queue=other&act=drop-all&first=1").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    for (fields, why) in [
        ("queue=order.created.dead&act=drop", "no message is selected"),
        ("queue=order.created.dead&act=drop-all", "no number"),
        ("act=drop-all&first=1", "no queue"),
        ("queue=order.created.dead", "no operation"),
    ] {
        let (status, shown) = pages.submit(fields).await;
        assert!(status.is_client_error() && shown.contains(why), "{fields}: {shown}");
    }
}
