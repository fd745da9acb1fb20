//! Pages that keep themselves up to date.

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_outbox::Message;

use super::{BASE, Kind, Ops, attributes};
use crate::admin::Does;
use crate::support::messages;

#[tokio::test]
async fn events_carry_the_parts_that_change() {
    let ops = Ops::new(Kind::Durable, Does::Down).await;
    let page = ops.page("overview").await;
    let address = attributes(&page, "data-live=\"")[0];
    let request = Request::get(format!("{BASE}/{address}")).body(Body::empty()).unwrap();
    let response = ops.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    let mut event = async || {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        String::from_utf8(frame.into()).unwrap()
    };
    let first = event().await;
    assert!(first.starts_with("event: part\n") && first.contains("data-part=\"status\""), "{first}");
    ops.store(messages(["a", "b"])).await;
    loop {
        let next = event().await;
        if next.contains(">2</a></b><span>pending") {
            break;
        }
    }
    assert_eq!(ops.get("events?page=nothing").await.status, 404);
}

#[tokio::test]
async fn a_message_has_a_link_to_its_trace() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "DELIVERY = 'durable'\n[OUTBOX]\nPATH = {:?}\n[DASHBOARD]\nTRACE_URL = 'https://traces/{{trace_id}}?x=1'",
        folder.path().join("outbox")
    );
    let bus = tower_outbox::Bus::builder(&toml::from_str(&text).unwrap())
        .with_backend("dummy", |_| {
            Ok::<_, std::convert::Infallible>(crate::admin::Switched::new(Does::Down).0)
        })
        .start()
        .await
        .unwrap();
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let message = |value: String| Message::json("a", &1).unwrap().with_header("traceparent", value);
    let good = message(format!("00-{trace}-b7ad6b7169203331-01"));
    let evil = message("00-javascript:alert(1)//-x-01".to_owned());
    bus.outbox().unwrap().append(vec![good, evil]).await.unwrap();
    let router = axum::Router::new().nest(BASE, bus.dashboard().without_guard());
    let get = async |page: String| {
        let request = Request::get(format!("{BASE}/{page}")).body(Body::empty()).unwrap();
        crate::support::text(router.clone().oneshot(request).await.unwrap()).await
    };
    let list = get("messages".to_owned()).await;
    let positions = super::positions(&list);
    let first = get(format!("message?position={}", positions[0])).await;
    assert!(first.contains(&format!("href=\"https://traces/{trace}?x=1\"")), "{first}");
    let second = get(format!("message?position={}", positions[1])).await;
    assert!(!second.contains("https://traces"), "{second}");
    let wrong = toml::from_str::<tower_outbox::Settings>("[DASHBOARD]\nTRACE_URL = 'javascript:{trace_id}'");
    assert!(wrong.unwrap_err().to_string().contains("TRACE_URL"));
}
