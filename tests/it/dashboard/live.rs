//! Pages that keep themselves up to date.

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_outbox::Message;

use super::{BASE, Kind, Ops, attributes, positions};
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

/// Returns the first event of a live page.
async fn first_event(ops: &Ops, page: &str) -> String {
    let page = ops.page(page).await;
    let address = attributes(&page, "data-live=\"")[0].replace("&amp;", "&");
    let request = Request::get(format!("{BASE}/{address}")).body(Body::empty()).unwrap();
    let mut body = ops.router.clone().oneshot(request).await.unwrap().into_body();
    String::from_utf8(body.frame().await.unwrap().unwrap().into_data().unwrap().into()).unwrap()
}

#[tokio::test]
async fn the_events_of_a_list_have_its_filter_and_its_page() {
    let ops = Ops::with_dead(Kind::Durable, ["user.a", "user.b", "order.a"]).await;
    let all = first_event(&ops, "messages").await;
    assert!(all.contains("data-part=\"messages\"") && positions(&all).len() == 3, "{all}");
    let users = first_event(&ops, "messages?state=dead&topic=user.*").await;
    assert!(positions(&users) == positions(&all)[..2] && users.contains("Requeue all 2"), "{users}");
    let later = first_event(&ops, &format!("messages?topic=user.*&after={}", positions(&all)[0])).await;
    assert!(positions(&later) == positions(&all)[1..2] && later.contains("a later page"), "{later}");
    // Each row has a key, by which the script knows it again.
    assert_eq!(attributes(&all, "<tr data-key=\""), positions(&all));
    for wrong in ["older_than=abc", "after=x", "unknown=1", "state=lost"] {
        assert_eq!(ops.get(&format!("events?page=messages&{wrong}")).await.status, 400, "{wrong}");
        assert!(!ops.get(&format!("messages?{wrong}")).await.text.contains("data-live"), "{wrong}");
    }
}

#[tokio::test]
async fn events_tell_of_drops_that_wait() {
    let ops = Ops::with_dead(Kind::Durable, ["a"]).await.with_undo(std::time::Duration::from_secs(600));
    ops.done("act=drop-all&state=dead").await;
    for page in ["overview", "messages", "dead-letters", "topics", "consumers", "audit"] {
        let event = first_event(&ops, page).await;
        assert!(
            event.contains("1 message will be dropped in") && event.contains(">Undo</button>"),
            "{page}: {event}"
        );
    }
}

#[tokio::test]
async fn the_audit_is_live() {
    let ops = Ops::with_dead(Kind::Durable, ["a"]).await;
    assert!(first_event(&ops, "audit").await.contains("Nobody has done anything yet."));
    ops.done("act=drop-all&state=dead").await;
    let event = first_event(&ops, "audit").await;
    assert!(event.contains("data-part=\"audit\"") && event.contains("<span>drop</span>"), "{event}");
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
