//! Consumers, paused and resumed.

use axum::Router as App;
use axum::routing::post;
use http::StatusCode;
use tower_outbox::{Bus, Message, Settings};

use super::BASE;
use crate::admin::until;
use crate::support::text;

use axum::body::Body;
use http::Request;
use tower::ServiceExt;

async fn shown(router: &App, request: Request<Body>) -> (StatusCode, String) {
    let response = router.clone().oneshot(request).await.unwrap();
    (response.status(), text(response).await)
}

#[tokio::test]
async fn a_consumer_is_paused_and_resumed() {
    let settings: Settings = toml::from_str("BACKEND = 'memory'\n[CONSUMERS.users]").unwrap();
    let bus = Bus::start(&settings).await.unwrap();
    let handler: App = App::new().route("/user/created", post(async || {}));
    tokio::spawn(bus.consumer("users", handler).unwrap().into_future());
    let router = App::new().nest(BASE, bus.dashboard().without_guard());
    let page = async || {
        shown(&router, Request::get(format!("{BASE}/consumers")).body(Body::empty()).unwrap()).await.1
    };
    let press = async |paused: bool| {
        let request = Request::post(format!("{BASE}/consumers")).header("sec-fetch-site", "same-origin");
        shown(&router, request.body(format!("name=users&paused={paused}").into()).unwrap()).await.0
    };
    let message = || vec![Message::json("user.created", &1).unwrap()];
    assert!(page().await.contains("running"), "{}", page().await);
    assert_eq!(press(true).await, StatusCode::SEE_OTHER);
    assert!(page().await.contains("paused") && page().await.contains("Resume"));
    bus.messenger().send(message()).await.unwrap();
    assert!(page().await.contains("data-label=\"Acknowledged\">0<"));
    // One that is paused has a lag.
    until("it waits", async || page().await.contains("data-label=\"Waiting\">1<")).await;
    assert_eq!(press(false).await, StatusCode::SEE_OTHER);
    until("it is handled", async || page().await.contains("data-label=\"Acknowledged\">1<")).await;
    let request = Request::post(format!("{BASE}/consumers")).header("sec-fetch-site", "same-origin");
    let wrong = shown(&router, request.body("name=nobody&paused=true".into()).unwrap()).await;
    assert_eq!(wrong.0, StatusCode::NOT_FOUND, "{}", wrong.1);
}
