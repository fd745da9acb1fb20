//! From a message to the request for its handler.

use axum_core::body::Body;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use uuid::Uuid;

use crate::message::headers::{METHOD, MOST, QUERY};
use crate::message::of_http::is_of_http;
use crate::message::{Message, Scalar};
use crate::source::delivery::Delivery;
use crate::util::rfc3339;

/// How many bytes the names and values of the headers may have.
const MOST_BYTES: usize = 64 << 10;

const CE_ID: HeaderName = HeaderName::from_static("ce-id");
const CE_SOURCE: HeaderName = HeaderName::from_static("ce-source");
const CE_SPECVERSION: HeaderName = HeaderName::from_static("ce-specversion");
const CE_TIME: HeaderName = HeaderName::from_static("ce-time");
const CE_TYPE: HeaderName = HeaderName::from_static("ce-type");

/// `POST /` and the topic with its dots as slashes; the headers of the message, and the attributes of CloudEvents by its
/// HTTP binding (1.0, binary mode); the body as it came; the delivery as an extension.
///
/// A message with a reply address may name another method and a query, and has no attributes of CloudEvents: it is no event, and its
/// handler gets what it would get over HTTP. Or why it cannot be a request.
pub(crate) fn request(delivery: &Delivery, source: &HeaderValue) -> Result<Request<Body>, NoRequest> {
    let message = delivery.message();
    let of_caller = |name| delivery.reply_to().and_then(|_| message.header(name)?.as_str());
    let mut request = Request::new(Body::from(message.body().clone()));
    *request.method_mut() = match of_caller(METHOD) {
        None => Method::POST,
        Some(method) => Method::from_bytes(method.as_bytes()).map_err(|_| NoRequest::Method)?,
    };
    *request.uri_mut() = uri(message.topic().as_str(), of_caller(QUERY)).ok_or(NoRequest::Topic)?;
    *request.headers_mut() = headers(delivery, source)?;
    request.extensions_mut().insert(delivery.clone());
    Ok(request)
}

/// Why a message cannot be a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoRequest {
    #[error("the topic and the query cannot be a path")]
    Topic,
    #[error("its method is none of HTTP")]
    Method,
    #[error("it has more than {MOST} headers")]
    ManyHeaders,
    #[error("its headers are larger than {MOST_BYTES} bytes")]
    LargeHeaders,
}

fn uri(topic: &str, query: Option<&str>) -> Option<Uri> {
    let mut path = String::with_capacity(topic.len() + 1);
    path.push('/');
    for byte in topic.bytes() {
        match byte {
            b'.' => path.push('/'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => path.push(char::from(byte)),
            other => percent(&mut path, other),
        }
    }
    if let Some(query) = query {
        path.push('?');
        path.push_str(query);
    }
    Uri::try_from(path).ok()
}

/// The name of a source as the attribute `source`, which must not be empty.
pub(crate) fn source(name: &str) -> HeaderValue {
    encoded(name).filter(|value| !value.is_empty()).unwrap_or(HeaderValue::from_static("/"))
}

fn headers(delivery: &Delivery, source: &HeaderValue) -> Result<HeaderMap, NoRequest> {
    let message = delivery.message();
    if message.headers().len() > MOST {
        return Err(NoRequest::ManyHeaders);
    }
    let size: usize = message.headers().map(|(name, value)| name.len() + value.size()).sum();
    if size > MOST_BYTES {
        return Err(NoRequest::LargeHeaders);
    }
    let is_event = delivery.reply_to().is_none();
    let own = if is_event { 6 } else { 1 };
    let mut headers = HeaderMap::with_capacity(own + message.headers().len());
    if is_event {
        insert_attributes(&mut headers, message, source);
    }
    for (name, value) in message.headers() {
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { continue };
        if is_of_http(name.as_str()) || is_ours(name.as_str(), delivery) {
            continue;
        }
        match value {
            Scalar::Null => {}
            Scalar::String(text) if name.as_str().starts_with("ce-") => insert(&mut headers, name, text),
            Scalar::String(text) => {
                if let Ok(value) =
                    HeaderValue::from_str(text).or_else(|_| HeaderValue::from_bytes(text.as_bytes()))
                {
                    headers.insert(name, value);
                }
            }
            other => insert(&mut headers, name, &other.to_string()),
        }
    }
    let content_type = match message.content_type() {
        "application/json" => Ok(HeaderValue::from_static("application/json")),
        other => HeaderValue::from_str(other),
    };
    if let Ok(content_type) = content_type {
        headers.insert(CONTENT_TYPE, content_type);
    }
    Ok(headers)
}

fn insert_attributes(headers: &mut HeaderMap, message: &Message, source: &HeaderValue) {
    let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
    headers.insert(CE_SOURCE, source.clone());
    insert(headers, CE_ID, hyphenated(message.id(), &mut id));
    insert(headers, CE_TYPE, message.topic().as_str());
    headers.insert(CE_SPECVERSION, HeaderValue::from_static("1.0"));
    // Times after 9999 cannot be written so.
    if let Ok(time) = rfc3339::write(message.time()) {
        insert(headers, CE_TIME, &time);
    }
}

/// Whether only we may set a header. Only an event names its source itself.
fn is_ours(name: &str, delivery: &Delivery) -> bool {
    match name {
        "ce-id" | "ce-specversion" | "ce-time" | "ce-type" | METHOD | QUERY => true,
        "ce-source" => !delivery.is_event(),
        _ => false,
    }
}

fn hyphenated(id: Uuid, buffer: &mut [u8; uuid::fmt::Hyphenated::LENGTH]) -> &str {
    id.hyphenated().encode_lower(buffer)
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Some(value) = encoded(value) {
        headers.insert(name, value);
    }
}

/// As the HTTP binding of CloudEvents writes attributes (1.0, 3.1.3.2): all but printable ASCII percent-encoded.
fn encoded(value: &str) -> Option<HeaderValue> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'%';
    if value.bytes().all(is_plain) {
        return HeaderValue::from_str(value).ok();
    }
    let mut encoded = String::with_capacity(value.len() * 3);
    for byte in value.bytes() {
        if is_plain(byte) { encoded.push(char::from(byte)) } else { percent(&mut encoded, byte) }
    }
    HeaderValue::try_from(encoded).ok()
}

fn percent(text: &mut String, byte: u8) {
    const HEX: [u8; 16] = *b"0123456789ABCDEF";
    text.push('%');
    text.push(char::from(HEX[usize::from(byte >> 4)]));
    text.push(char::from(HEX[usize::from(byte & 15)]));
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn made_of(message: Message) -> Request<Body> {
        request(&Delivery::new(message, 1, false, "the queue".into(), Vec::new()), &source("the queue"))
            .unwrap()
    }

    #[test]
    fn a_message_becomes_a_post_to_its_topic() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_500_000);
        let message = Message::json("user.created", &7).unwrap().with_time(time).with_header("tries", 3);
        let id = message.id().to_string();
        let request = made_of(message.with_header("x-who", "Jo"));
        assert_eq!((request.method(), request.uri().path()), (&Method::POST, "/user/created"));
        let header = |name: &str| request.headers()[name].to_str().unwrap();
        assert_eq!((header("ce-id"), header("ce-type")), (id.as_str(), "user.created"));
        assert_eq!((header("ce-specversion"), header("ce-source")), ("1.0", "the%20queue"));
        assert_eq!(
            (header("ce-time"), header("content-type")),
            ("1970-01-01T00:00:01.500000Z", "application/json")
        );
        assert_eq!((header("tries"), header("x-who")), ("3", "Jo"));
        assert_eq!(request.extensions().get::<Delivery>().unwrap().source(), "the queue");
    }

    #[test]
    fn what_no_url_can_hold_is_encoded() {
        assert_eq!(
            made_of(Message::new("größe.a/b.50%?", "").unwrap()).uri().path(),
            "/gr%C3%B6%C3%9Fe/a%2Fb/50%25%3F"
        );
    }

    #[test]
    fn headers_of_http_and_those_that_are_none_are_left_out() {
        let message = Message::new("a", "body")
            .unwrap()
            .with_header("Content-Length", "7")
            .with_header("Transfer-Encoding", "chunked")
            .with_header("not a name", 1)
            .with_header("nothing", Scalar::Null)
            .with_header("line", "a\nb")
            .with_header("ce-subject", "/über")
            .with_header("ce-source", "/über");
        let mut delivery = Delivery::new(message, 1, false, "q".into(), Vec::new());
        let request = super::request(&delivery, &source("q")).unwrap();
        assert_eq!(request.headers()["ce-subject"], "/%C3%BCber");
        assert_eq!(request.headers()["ce-source"], "q");
        drop(request);
        delivery.set_event();
        let request = super::request(&delivery, &source("q")).unwrap();
        assert_eq!(request.headers()["ce-source"], "/%C3%BCber");
        for name in ["content-length", "transfer-encoding", "nothing", "line"] {
            assert!(!request.headers().contains_key(name), "{name}");
        }
    }

    #[test]
    fn times_beyond_the_calendar_are_left_out() {
        let ce_time = |time| {
            let request = made_of(Message::new("a", "").unwrap().with_time(time));
            request.headers().get("ce-time").cloned()
        };
        let epoch = SystemTime::UNIX_EPOCH;
        assert_eq!(ce_time(epoch - Duration::from_secs(1)).unwrap(), "1969-12-31T23:59:59.000000Z");
        assert_eq!(ce_time(epoch + Duration::from_secs(253_402_300_800)), None);
    }

    #[test]
    fn more_headers_than_a_request_holds_are_refused() {
        let refused = |message| {
            let delivery = Delivery::new(message, 1, false, "q".into(), Vec::new());
            super::request(&delivery, &source("q")).unwrap_err().to_string()
        };
        let mut many = Message::new("a", "").unwrap();
        (0..1_000).for_each(|n| many.set_header(format!("n-{n}"), n));
        assert_eq!(made_of(many.clone()).headers().len(), 1_000 + 6);
        assert_eq!(refused(many.with_header("one-more", 1)), "it has more than 1000 headers");
        let large = Message::new("a", "").unwrap().with_header("large", "x".repeat(65_536));
        assert_eq!(refused(large), "its headers are larger than 65536 bytes");
    }
}
