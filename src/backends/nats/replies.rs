//! Replies on the wire: an HTTP response as a message of NATS, and back.

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue};
use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE as HTTP_CONTENT_TYPE;

use super::outgoing::{CONTENT_TYPE, is_of_server};
use crate::message::headers::{MOST, STATUS};
use crate::reply::Reply;
use crate::util::error::BoxError;

/// The headers with an error of the services framework of NATS.
const SERVICE_ERROR_CODE: &str = "Nats-Service-Error-Code";
const SERVICE_ERROR: &str = "Nats-Service-Error";

/// Whether a reply may go to this subject: one of these filters takes it.
///
/// Whoever may publish names a subject, and the reply is published with the rights of this client.
pub(super) fn is_allowed(subject: &str, filters: &[String]) -> bool {
    !subject.starts_with('$') && filters.iter().any(|filter| matches(filter, subject))
}

fn matches(filter: &str, subject: &str) -> bool {
    let mut parts = subject.split('.');
    for wanted in filter.split('.') {
        match (wanted, parts.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (wanted, Some(part)) if wanted == part => {}
            _ => return false,
        }
    }
    parts.next().is_none()
}

/// The reply as headers and a body.
pub(super) fn encode(reply: Reply) -> (HeaderMap, Bytes) {
    let (head, body) = reply.into_parts();
    let mut map = HeaderMap::new();
    map.insert(HeaderName::from_static(STATUS), head.status.as_u16().to_string());
    for (name, value) in &head.headers {
        let text = std::str::from_utf8(value.as_bytes()).ok();
        let Some(value) = text.and_then(|text| text.parse::<HeaderValue>().ok()) else { continue };
        if name == HTTP_CONTENT_TYPE {
            map.append(HeaderName::from_static(CONTENT_TYPE), value);
        } else if let Ok(name) = name.as_str().parse::<HeaderName>() {
            map.append(name, value);
        }
    }
    (map, body)
}

/// The HTTP response in a message. Without our status it is that of another program: 200, or the error of a service of NATS.
pub(super) fn decode(headers: Option<&HeaderMap>, body: Bytes) -> Result<Reply, BoxError> {
    let first = |wanted: &str| {
        let (_, values) = headers?.iter().find(|(name, _)| AsRef::<str>::as_ref(*name) == wanted)?;
        values.first().map(HeaderValue::as_str)
    };
    let status = match (first(STATUS), first(SERVICE_ERROR_CODE)) {
        (Some(status), _) => status
            .parse()
            .ok()
            .filter(|status| (200..600).contains(status))
            .ok_or("its status is none of HTTP")?,
        (None, Some(code)) => code.parse().ok().filter(|code| (400..600).contains(code)).unwrap_or(500),
        (None, None) => 200,
    };
    let body = match first(SERVICE_ERROR) {
        Some(error) if body.is_empty() => Bytes::copy_from_slice(error.as_bytes()),
        _ => body,
    };
    let mut reply = Reply::new(body);
    *reply.status_mut() = StatusCode::from_u16(status)?;
    for (name, values) in headers.into_iter().flat_map(HeaderMap::iter) {
        let text = std::str::from_utf8(name.as_ref()).unwrap_or_default();
        if is_of_server(text) || text == STATUS {
            continue;
        }
        for value in values {
            let name = http::HeaderName::from_bytes(text.as_bytes());
            let value = http::HeaderValue::from_bytes(value.as_str().as_bytes());
            let (Ok(name), Ok(value)) = (name, value) else { continue };
            if reply.headers().len() >= MOST {
                return Err(format!("it has more than {MOST} headers").into());
            }
            reply.headers_mut().append(name, value);
        }
    }
    Ok(reply)
}

/// The bytes of a message that count against the `max_payload` of a server.
pub(super) fn size(headers: &HeaderMap, body: &Bytes) -> usize {
    let of_headers = headers.iter().flat_map(|(name, values)| {
        values.iter().map(move |value| AsRef::<[u8]>::as_ref(name).len() + value.as_str().len() + 4)
    });
    "NATS/1.0\r\n\r\n".len() + of_headers.sum::<usize>() + body.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_survives_the_wire() {
        let mut reply = Reply::new(Bytes::from_static(b"gone"));
        *reply.status_mut() = StatusCode::GONE;
        reply.headers_mut().append(HTTP_CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
        reply.headers_mut().append("set-cookie", http::HeaderValue::from_static("a=1"));
        reply.headers_mut().append("set-cookie", http::HeaderValue::from_static("b=2"));
        let (headers, body) = encode(reply.clone());
        assert_eq!(headers.get(CONTENT_TYPE).unwrap().as_str(), "text/plain");
        let got = decode(Some(&headers), body).unwrap();
        assert_eq!(
            (got.status(), got.body(), got.headers()),
            (reply.status(), reply.body(), reply.headers())
        );
    }

    #[test]
    fn a_reply_of_another_program_has_a_status() {
        let got = decode(None, Bytes::from_static(b"5 EUR")).unwrap();
        assert_eq!((got.status(), &got.body()[..]), (StatusCode::OK, &b"5 EUR"[..]));
        for (code, status) in [("404", 404), ("0", 500), ("x", 500), ("200", 500)] {
            let mut headers = HeaderMap::new();
            headers.insert(SERVICE_ERROR_CODE, code);
            headers.insert(SERVICE_ERROR, "no stock");
            let got = decode(Some(&headers), Bytes::new()).unwrap();
            assert_eq!((got.status().as_u16(), &got.body()[..]), (status, &b"no stock"[..]));
            assert!(got.headers().is_empty());
        }
        for status in ["101", "700", "x"] {
            let mut headers = HeaderMap::new();
            headers.insert(STATUS, status);
            assert!(decode(Some(&headers), Bytes::new()).is_err(), "{status}");
        }
    }

    #[test]
    fn replies_go_to_allowed_subjects_only() {
        let allowed = ["_INBOX.>".to_owned(), "replies.*".to_owned()];
        for (subject, is_so) in [
            ("_INBOX.a", true),
            ("_INBOX.a.b", true),
            ("_INBOX", false),
            ("replies.a", true),
            ("replies.a.b", false),
            ("order.created", false),
            ("$JS.ACK.a", false),
        ] {
            assert_eq!(is_allowed(subject, &allowed), is_so, "{subject}");
        }
        assert!(!is_allowed("$JS.API.STREAM.DELETE.orders", &[">".to_owned()]));
    }
}
