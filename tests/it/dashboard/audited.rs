//! The operations of operators are kept with the store.

use axum::Router;
use axum::body::Body;
use axum::extract::Request as Asked;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use http::{Request, StatusCode};
use std::time::Duration;
use tower::ServiceExt;
use tower_outbox::admin::Operator;

use super::{BASE, Kind, Ops, attributes, on_every_store};
use crate::admin::Does;

on_every_store! {
    the_audit_says_who_did_what
    the_audit_says_who_asked_for_a_drop_and_who_undid_it
    a_drop_that_is_refused_leaves_no_row
}

async fn operators(mut request: Asked, next: Next) -> Response {
    request.extensions_mut().insert(Operator::new("jo@<example>"));
    next.run(request).await
}

async fn the_audit_says_who_did_what(kind: Kind) {
    let mut ops = Ops::with_dead(kind, ["a", "b", "c"]).await;
    assert!(ops.page("audit").await.contains("Nobody has done anything"));
    ops.done("act=drop-all&state=dead&topic=a").await;
    let dashboard = ops.bus.dashboard().with_undo_window(Duration::ZERO);
    ops.router = Router::new().nest(BASE, dashboard.guarded_by(from_fn(operators)));
    ops.backend.set(Does::Take);
    ops.done("act=requeue-all&state=dead&rate=1000").await;
    ops.until(0, 0).await;
    let page = ops.page("audit").await;
    for part in [
        "jo@&lt;example&gt;",
        "<span>requeue</span>",
        "the app did not say",
        "<span>drop</span>",
        "<span>state dead, topic a, 1 message</span>",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let operations = ops.outbox().operations(10).await.unwrap();
    let done: Vec<_> =
        operations.iter().map(|one| (one.action.as_str(), one.messages, one.by.as_deref())).collect();
    assert_eq!(done, [("requeue", 2, Some("jo@<example>")), ("drop", 1, None)]);
    // The JSON API keeps the same.
    let admin = Router::new().nest(BASE, ops.bus.admin().layer(from_fn(operators)));
    let body = r#"{"topic": "d", "body": 1}"#;
    let request = Request::post(format!("{BASE}/messages")).header("content-type", "application/json");
    assert!(admin.oneshot(request.body(Body::from(body)).unwrap()).await.unwrap().status().is_success());
    let last = ops.outbox().operations(1).await.unwrap();
    assert_eq!((last[0].action.as_str(), last[0].by.as_deref()), ("append", Some("jo@<example>")));
}

async fn the_audit_says_who_asked_for_a_drop_and_who_undid_it(kind: Kind) {
    let ops = Ops::with_dead(kind, ["a", "b"]).await.with_undo(Duration::from_secs(600));
    let asked = ops.done("act=drop-all&state=dead&topic=a").await;
    // Nothing of it is in memory only: it is there after a restart.
    let actions = async || -> Vec<_> {
        let operations = ops.outbox().operations(10).await.unwrap();
        operations.into_iter().map(|one| (one.action, one.messages, one.by, one.which)).collect()
    };
    let which = r#"{"state":"dead","topic":"a"}"#.to_owned();
    let ask = ("ask to drop".to_owned(), 1, None, which.clone());
    assert_eq!(actions().await, std::slice::from_ref(&ask));
    let id = attributes(&asked, "name=\"id\" value=\"")[0];
    let undo = Router::new().nest(BASE, ops.bus.dashboard().guarded_by(from_fn(operators)));
    let request = Request::post(format!("{BASE}/undo")).header("sec-fetch-site", "same-origin");
    let request = request.body(Body::from(format!("id={id}"))).unwrap();
    assert_eq!(undo.oneshot(request).await.unwrap().status(), StatusCode::SEE_OTHER);
    let undone = ("undo drop".to_owned(), 1, Some("jo@<example>".to_owned()), which);
    assert_eq!(actions().await, [undone, ask.clone()]);
    // The notice names who asked.
    let request = Request::post(format!("{BASE}/act")).header("sec-fetch-site", "same-origin");
    let named = ops.bus.dashboard().with_undo_window(Duration::from_secs(600));
    let named = Router::new().nest(BASE, named.guarded_by(from_fn(operators)));
    let request = request.body(Body::from("act=drop-all&state=dead&topic=b")).unwrap();
    assert_eq!(named.oneshot(request).await.unwrap().status(), StatusCode::SEE_OTHER);
    let page = ops.page("overview").await;
    assert!(page.contains("Asked for by <bdi>jo@&lt;example&gt;</bdi>"), "{page}");
    ops.submit("undo", &format!("id={}", attributes(&page, "name=\"id\" value=\"")[0])).await;
    // A drop that happens has both rows too.
    let ops = ops.with_undo(Duration::from_millis(1));
    ops.done("act=drop-all&state=dead&topic=a").await;
    ops.until(0, 1).await;
    let page = loop {
        let page = ops.page("audit").await;
        if page.contains("<span>drop</span>") {
            break page;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(page.matches("<span>ask to drop</span>").count(), 3, "{page}");
}

async fn a_drop_that_is_refused_leaves_no_row(kind: Kind) {
    let ops = Ops::with_dead(kind, ["a"]).await.with_undo(Duration::from_secs(600));
    for _ in 0..100 {
        assert_eq!(ops.send("act", "act=drop-all&state=dead").await.status, StatusCode::SEE_OTHER);
    }
    for fields in ["act=drop-all&state=dead", "act=drop&position=1"] {
        let refused = ops.submit("act", fields).await;
        assert_eq!(refused.status, StatusCode::CONFLICT);
        assert!(refused.text.contains("too many drops wait already"), "{}", refused.text);
    }
    assert_eq!(ops.outbox().operations(200).await.unwrap().len(), 100);
    // Each drop that ends makes room for one.
    let page = ops.page("messages").await;
    ops.submit("undo", &format!("id={}", attributes(&page, "name=\"id\" value=\"")[0])).await;
    assert_eq!(ops.send("act", "act=drop-all&state=dead").await.status, StatusCode::SEE_OTHER);
    assert_eq!(ops.send("act", "act=drop-all&state=dead").await.status, StatusCode::CONFLICT);
    assert_eq!(ops.outbox().operations(200).await.unwrap().len(), 102);
}
