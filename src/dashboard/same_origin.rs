//! Requests that change something must come from the dashboard itself, and answers are framed and read by nobody else.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderName, ORIGIN, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::error::PageError;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
    form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Refuses requests of other sites, and adds the headers of security.
pub(super) async fn guard(request: Request, next: Next) -> Response {
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    let mut response = if changes && !is_same_origin(request.headers()) {
        PageError::new(StatusCode::FORBIDDEN, "the request did not come from a page of this dashboard")
            .into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    let fixed = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Without a referrer browsers send no origin.
        (REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Whether the browser says so. Over plain HTTP browsers send `Origin` alone.
fn is_same_origin(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin";
    }
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let origin = text(ORIGIN).and_then(|origin| origin.split_once("://"));
    origin.zip(text(HOST)).is_some_and(|((_, origin), host)| origin.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_same(headers: &[(&'static str, &str)]) -> bool {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
        is_same_origin(&headers.collect())
    }

    #[test]
    fn only_the_same_origin_may_change_something() {
        assert!(is_same(&[("sec-fetch-site", "same-origin"), ("origin", "https://proxy"), ("host", "app")]));
        assert!(is_same(&[("origin", "http://ops:3000"), ("host", "ops:3000")]));
        for others in [
            &[("sec-fetch-site", "cross-site"), ("origin", "http://ops"), ("host", "ops")][..],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "none")],
            &[("origin", "http://evil"), ("host", "ops")],
            &[("origin", "http://ops:1"), ("host", "ops")],
            &[("origin", "null"), ("host", "ops")],
            &[("host", "ops")],
            &[],
        ] {
            assert!(!is_same(others), "{others:?}");
        }
    }
}
