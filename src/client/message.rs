//! From an HTTP request to the message that carries it.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};

use super::topic::{PathFault, topic};
use crate::message::Message;
use crate::message::headers::{METHOD, QUERY};
use crate::message::of_http::is_of_http;
use crate::message::trace_context::{TraceContext, is_part};

/// The beginning of the headers that only this crate sets.
const OWN: &str = "tower-outbox-";

/// Makes a message of the topic that the path names, which expires after `wait`.
pub(super) fn message(
    parts: &http::request::Parts,
    body: Bytes,
    wait: Duration,
) -> Result<Message, PathFault> {
    let topic = topic(parts.uri.path())?;
    let content_type = content_type(&parts.headers);
    let mut message = Message::fresh(topic, body, content_type, SystemTime::now()).with_expiry(wait);
    if parts.method != Method::POST {
        message.set_header(METHOD, parts.method.as_str().to_owned());
    }
    if let Some(query) = parts.uri.query() {
        message.set_header(QUERY, query.to_owned());
    }
    // Only the valid parts, as in messages.
    TraceContext::of(&parts.headers).complete(&mut message);
    for name in parts.headers.keys() {
        let is_left_out = is_of_http(name.as_str()) || name.as_str().starts_with(OWN) || is_part(name);
        if name == CONTENT_TYPE || is_left_out {
            continue;
        }
        let mut all = parts.headers.get_all(name).iter().filter_map(text);
        let Some(first) = all.next() else { continue };
        // Fields of one name are one list (RFC 9110, 5.3).
        let value = all.fold(first.to_owned(), |list, next| list + ", " + next);
        message.set_header(name.as_str().to_owned(), value);
    }
    Ok(message)
}

fn content_type(headers: &HeaderMap) -> Cow<'static, str> {
    match headers.get(CONTENT_TYPE).and_then(text) {
        None => Cow::Borrowed("application/octet-stream"),
        Some("application/json") => Cow::Borrowed("application/json"),
        Some(other) => Cow::Owned(other.to_owned()),
    }
}

fn text(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn method_query_and_headers_travel_but_not_facts_about_the_connection() {
        let (parts, ()) = Request::get("/order/7?all=1&b=%20")
            .header("x-tenant", "acme")
            .header("accept", "text/html")
            .header("accept", "*/*")
            .header("authorization", "Bearer x")
            .header("connection", "close")
            .header("tower-outbox-attempt", "7")
            .header("content-type", "text/plain")
            .header("x-bytes", HeaderValue::from_bytes(b"\xff").unwrap())
            .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
            .header("tracestate", "a=1")
            .header("tracestate", "b=2")
            .header("baggage", "not valid")
            .body(())
            .unwrap()
            .into_parts();
        let message = message(&parts, Bytes::from_static(b"x"), Duration::from_secs(5)).unwrap();
        assert_eq!((message.topic().as_str(), message.content_type()), ("order.7", "text/plain"));
        assert_eq!(message.expiry(), Some(Duration::from_secs(5)));
        let mut headers: Vec<_> = message.headers().map(|(name, value)| (name, value.to_string())).collect();
        headers.sort();
        let wanted = [
            ("accept", "text/html, */*"),
            (METHOD, "GET"),
            (QUERY, "all=1&b=%20"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("tracestate", "a=1,b=2"),
            ("x-tenant", "acme"),
        ];
        assert_eq!(headers, wanted.map(|(name, value)| (name, value.to_owned())));
    }
}
