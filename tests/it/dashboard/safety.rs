//! Nobody else acts, frames or reads.

use axum::Router;
use axum::body::Body;
use axum::extract::Request as Asked;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use http::{Request, StatusCode};
use tower::ServiceExt;

use super::{BASE, Kind, Ops, positions};

#[tokio::test]
async fn a_form_of_another_site_does_nothing() {
    let ops = Ops::with_dead(Kind::Durable, ["a"]).await;
    let position = positions(&ops.page("messages").await)[0].to_owned();
    for headers in [
        &[("sec-fetch-site", "cross-site"), ("origin", "http://ops")][..],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "http://evil.example")],
        &[("origin", "null")],
        &[],
    ] {
        let mut request = Request::post(format!("{BASE}/act"))
            .header("host", "ops")
            .header("content-type", "application/x-www-form-urlencoded");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let shown = ops.call(request.body(format!("act=drop&position={position}").into()).unwrap()).await;
        assert_eq!(shown.status, StatusCode::FORBIDDEN, "{headers:?}");
        ops.until(0, 1).await;
    }
    // Over plain HTTP browsers send Origin alone.
    let request =
        Request::post(format!("{BASE}/act")).header("host", "ops:8080").header("origin", "http://ops:8080");
    let shown = ops.call(request.body(format!("act=drop&position={position}").into()).unwrap()).await;
    assert_eq!(shown.status, StatusCode::SEE_OTHER);
    ops.until(0, 0).await;
}

#[tokio::test]
async fn looking_changes_nothing() {
    let ops = Ops::with_dead(Kind::Durable, ["a"]).await;
    let position = positions(&ops.page("messages").await)[0].to_owned();
    assert_eq!(
        ops.get(&format!("act?act=drop&position={position}")).await.status,
        StatusCode::METHOD_NOT_ALLOWED
    );
    ops.page(&format!("confirm?act=drop&position={position}")).await;
    ops.until(0, 1).await;
}

#[tokio::test]
async fn every_answer_has_a_strict_policy() {
    let ops = Ops::new(Kind::Durable, crate::admin::Does::Take).await;
    for page in ["overview", "messages", "nothing", "message", "act"] {
        let shown = ops.get(page).await;
        let policy = shown.headers["content-security-policy"].to_str().unwrap();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self'") && !policy.contains("unsafe"),
            "{page}"
        );
        assert!(policy.contains("frame-ancestors 'none'"), "{page}");
        assert_eq!(shown.headers["x-content-type-options"], "nosniff", "{page}");
        assert_eq!(shown.headers["cache-control"], "no-store", "{page}");
    }
}

#[tokio::test]
async fn a_guard_is_before_every_page() {
    async fn refuse(_: Asked, _: Next) -> Result<Response, StatusCode> {
        Err(StatusCode::UNAUTHORIZED)
    }
    let ops = Ops::new(Kind::Durable, crate::admin::Does::Take).await;
    let guarded = Router::new().nest(BASE, ops.bus.dashboard().guarded_by(from_fn(refuse)));
    for page in ["", "/overview", "/messages", "/message?position=1", "/body?position=1", "/nothing"] {
        let request = Request::get(format!("{BASE}{page}")).body(Body::empty()).unwrap();
        let response = guarded.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{page}");
    }
}
