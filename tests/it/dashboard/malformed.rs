//! Requests that no browser sends for a page of the dashboard.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, StatusCode};
use tower::ServiceExt;

use super::hostile::assert_harmless;
use super::{BASE, Kind, Ops, Shown};
use crate::admin::Does;
use crate::support::text;

/// The pages that take a form, and the names of their fields.
const FORMS: [(&str, &[&str]); 5] = [
    ("act", &["act", "state", "topic", "key", "reason", "older_than", "id", "rate"]),
    ("broker", &["queue", "act", "first", "rate"]),
    ("consumers", &["name", "paused"]),
    ("edit", &["position", "id", "topic", "key", "content_type", "body", "drop"]),
    ("undo", &["id"]),
];

/// The pages with fields in their address.
const ADDRESSES: [(&str, &[&str]); 13] = [
    ("messages", &["state", "topic", "key", "reason", "older_than", "id", "after"]),
    ("message", &["position", "view"]),
    ("body", &["position"]),
    ("dead-letters", &["within"]),
    ("broker", &["queue"]),
    ("broker-message", &["queue", "id"]),
    ("broker-confirm", &["queue", "act", "first", "rate"]),
    ("topics", &["within"]),
    ("consumers", &["of"]),
    ("edit", &["position"]),
    ("events", &["page"]),
    ("confirm", &["act", "state", "topic", "key", "reason", "older_than", "id", "rate"]),
    ("done", &["did", "messages", "drop", "left", "id", "dropped", "queue", "running"]),
];

/// The routes of the JSON API that take a body.
const ROUTES: [&str; 6] = ["messages", "requeue", "drop", "undo", "consumers", "broker-dead-letters"];

/// A body of a GiB, and how many bytes of it were read.
fn endless() -> (Body, Arc<AtomicUsize>) {
    let read = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&read);
    let chunk = Bytes::from(vec![b'a'; 64 << 10]);
    let chunks = (0..(1 << 30) / chunk.len()).map(move |_| {
        counted.fetch_add(chunk.len(), Ordering::Relaxed);
        Ok::<_, std::convert::Infallible>(chunk.clone())
    });
    (Body::from_stream(stream::iter(chunks)), read)
}

/// An answer for a person: a status of the client's fault, and a page that does nothing.
#[track_caller]
fn assert_plain(request: &str, shown: &Shown) {
    assert!(shown.status.is_client_error(), "{request}: {}", shown.status);
    assert!(
        shown.text.starts_with("<!DOCTYPE html>") && shown.text.contains("class=\"note bad\""),
        "{request}: {}",
        shown.text
    );
    assert_harmless(request, &shown.text);
    assert!(shown.text.len() < 10_000, "{request}: {}", shown.text.len());
}

#[tokio::test]
async fn a_huge_form_is_refused_before_it_is_read() {
    let ops = Ops::new(Kind::Durable, Does::Down).await;
    for (page, _) in FORMS {
        let (body, read) = endless();
        let request = Request::post(format!("{BASE}/{page}")).header("sec-fetch-site", "same-origin");
        let shown = ops.call(request.body(body).unwrap()).await;
        assert_eq!(shown.status, StatusCode::PAYLOAD_TOO_LARGE, "{page}");
        assert_plain(page, &shown);
        assert!(read.load(Ordering::Relaxed) < 9 << 20, "{page}: {read:?}");
    }
    let admin = Router::new().nest("/admin", ops.bus.admin());
    for route in ROUTES {
        let (body, read) = endless();
        let request = Request::post(format!("/admin/{route}")).header("content-type", "application/json");
        let response = admin.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE, "{route}");
        assert!(text(response).await.starts_with("{\"error\":"), "{route}");
        assert!(read.load(Ordering::Relaxed) < 65 << 20, "{route}: {read:?}");
    }
}

/// Sends these fields as a form, or in the address.
async fn send(ops: &Ops, method: &Method, page: &str, fields: &str) -> Shown {
    if *method == Method::POST {
        ops.send(page, fields).await
    } else {
        ops.get(&format!("{page}?{fields}")).await
    }
}

#[tokio::test]
async fn fields_that_are_wrong_unknown_or_there_twice_are_refused() {
    let ops = Ops::with_dead(Kind::Durable, ["a"]).await;
    let forms = FORMS.map(|(page, names)| (Method::POST, page, names));
    let addresses = ADDRESSES.map(|(page, names)| (Method::GET, page, names));
    for (method, page, names) in forms.into_iter().chain(addresses) {
        let all = names.iter().map(|name| format!("{name}=1")).collect::<Vec<_>>().join("&");
        let wrong = [
            (format!("{all}&unknown=%3Cscript%3E"), "does not know"),
            (format!("%3Cscript%3E={}", "1".repeat(9_000)), "does not know"),
            (format!("{}=%ff", names[0]), "no UTF-8 text"),
            (format!("{}=1&%e2%82=2", names[0]), "no UTF-8 text"),
            (format!("{}=%e2%28%a1", names[names.len() - 1]), "no UTF-8 text"),
        ];
        let twice = names.iter().map(|name| (format!("{all}&{name}="), "is there twice"));
        for (fields, why) in wrong.into_iter().chain(twice) {
            let shown = send(&ops, &method, page, &fields).await;
            let request = format!("{method} {page} {}", &fields[..fields.len().min(100)]);
            assert_plain(&request, &shown);
            assert!(shown.text.contains(why), "{request}: {}", shown.text);
        }
    }
    // Nothing came of it, also of those that mean much.
    for fields in [
        "act=drop-all&topics=none",
        "act=drop-all&act=requeue-all",
        "act=drop-all&topic=none&topic=a",
        "act=drop-all&topic=%ff",
    ] {
        assert_plain(fields, &ops.send("act", fields).await);
        assert_plain(fields, &ops.get(&format!("confirm?{fields}")).await);
    }
    ops.until(0, 1).await;
    assert!(ops.outbox().operations(1).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_long_address_and_many_fields_are_refused() {
    let ops = Ops::with_dead(Kind::Durable, ["a"]).await;
    for (page, names) in ADDRESSES {
        let shown = ops.get(&format!("{page}?{}={}", names[0], "a".repeat(60_000))).await;
        assert_eq!(shown.status, StatusCode::URI_TOO_LONG, "{page}");
        assert_plain(page, &shown);
    }
    let many = "&position=1".repeat(1_000);
    let shown = ops.send("act", &format!("act=drop{many}")).await;
    assert_eq!(shown.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_plain("act", &shown);
    ops.until(0, 1).await;
}

#[tokio::test]
async fn a_wrong_method_has_a_page() {
    let ops = Ops::new(Kind::Durable, Does::Down).await;
    for (method, page) in
        [(Method::GET, "act"), (Method::GET, "undo"), (Method::PUT, "messages"), (Method::DELETE, "edit")]
    {
        let request = Request::builder().method(&method).uri(format!("{BASE}/{page}"));
        let shown =
            ops.call(request.header("sec-fetch-site", "same-origin").body(Body::empty()).unwrap()).await;
        assert_eq!(shown.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {page}");
        assert_plain(page, &shown);
    }
}

#[tokio::test]
async fn the_json_api_refuses_what_it_does_not_know() {
    let ops = Ops::with_dead(Kind::Durable, ["a"]).await;
    let admin = Router::new().nest("/admin", ops.bus.admin());
    let deep = format!("{{\"filter\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let bodies = [
        "",
        "{",
        "\u{feff}{}",
        "{\"filter\": {}, \"filter\": {}, \"dry_run\": false}",
        "{\"filter\": {\"topics\": \"b\"}, \"dry_run\": false}",
        "{\"filter\": {\"topic\": \"b\", \"topic\": \"a\"}, \"dry_run\": false}",
        "{\"filter\": {}, \"dry_run\": false, \"x\": 1}",
        &deep,
    ];
    let bodies = bodies.map(|body| body.as_bytes().to_vec()).into_iter();
    let bodies: Vec<_> =
        bodies.chain([b"{\"filter\": {\"topic\": \"\xff\"}, \"dry_run\": false}".to_vec()]).collect();
    let call = async |request: Request<Body>| {
        let response = admin.clone().oneshot(request).await.unwrap();
        (response.status(), text(response).await)
    };
    for route in ROUTES {
        for body in &bodies {
            let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
            let request = Request::post(format!("/admin/{route}")).header("content-type", "application/json");
            let (status, answer) = call(request.body(body.clone().into()).unwrap()).await;
            assert!(
                status.is_client_error() && answer.starts_with("{\"error\":"),
                "{route} {shown}: {status} {answer}"
            );
        }
    }
    for query in [
        "topic=%ff",
        "topic=a&%e2%82=1",
        "topics=a",
        "topic=a&topic=b",
        "limit=-1",
        "after=1e9",
        "within=forever",
    ] {
        for route in ["messages", "count", "groups"] {
            let (status, answer) =
                call(Request::get(format!("/admin/{route}?{query}")).body(Body::empty()).unwrap()).await;
            assert!(
                status.is_client_error() && answer.starts_with("{\"error\":"),
                "{route} {query}: {status} {answer}"
            );
        }
    }
    ops.until(0, 1).await;
}
