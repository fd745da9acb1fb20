//! Replies on the wire: an HTTP response as a response of KubeMQ, and back.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

use crate::kubemq_wire::Response;
use crate::message::headers::start_of;
use crate::reply::Reply;
use crate::util::error::BoxError;

/// The tag with the status.
const STATUS: &str = "tower-outbox-status";
/// The tag with the headers: JSON, `[["content-type", "application/json"]]`.
const HEADERS: &str = "tower-outbox-headers";
/// The most headers of a received reply.
const MOST: usize = 1_000;
/// The longest error text, in bytes.
const ERROR_LEN: usize = 500;

/// The response of KubeMQ. A status that is no success is an error to clients of KubeMQ's own.
pub(super) fn encode(reply: Reply, client_id: &str, request_id: &str, reply_channel: &str) -> Response {
    let (head, body) = reply.into_parts();
    let headers: Vec<_> =
        head.headers.iter().filter_map(|(name, value)| Some([name.as_str(), value.to_str().ok()?])).collect();
    let tags = [
        (STATUS, head.status.as_u16().to_string()),
        (HEADERS, serde_json::to_string(&headers).unwrap_or_default()),
    ];
    let executed = head.status.is_success();
    let error = if executed { String::new() } else { error(head.status, &body) };
    Response {
        client_id: client_id.to_owned(),
        request_id: request_id.to_owned(),
        reply_channel: reply_channel.to_owned(),
        metadata: String::new(),
        body,
        executed,
        error,
        tags: tags.map(|(name, value)| (name.to_owned(), value)).into(),
        ..Response::default()
    }
}

fn error(status: StatusCode, body: &Bytes) -> String {
    match std::str::from_utf8(body) {
        Ok(text) if !text.is_empty() => format!("{status}: {}", start_of(text, ERROR_LEN)),
        _ => status.to_string(),
    }
}

/// The HTTP response in one of KubeMQ. Without our tags it is that of another client: 200, or 500 with its error.
pub(super) fn decode(response: Response) -> Result<Reply, BoxError> {
    let Response { body, executed, error, tags, .. } = response;
    let Some(status) = tags.get(STATUS) else {
        let mut reply = Reply::new(if executed { body } else { error.into() });
        if !executed {
            *reply.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        }
        return Ok(reply);
    };
    let mut reply = Reply::new(body);
    *reply.status_mut() = status.parse()?;
    for [name, value] in headers(&tags)? {
        let (name, value) = (name.parse::<HeaderName>()?, value.parse::<HeaderValue>()?);
        reply.headers_mut().try_append(name, value)?;
    }
    Ok(reply)
}

fn headers(tags: &BTreeMap<String, String>) -> Result<Vec<[String; 2]>, BoxError> {
    let headers: Vec<[String; 2]> =
        tags.get(HEADERS).map_or(Ok(Vec::new()), |text| serde_json::from_str(text))?;
    match headers.len() <= MOST {
        true => Ok(headers),
        false => Err(format!("it has {} headers; {MOST} are the most", headers.len()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_survives_the_wire() {
        let mut reply = Reply::new(Bytes::from_static(b"gone"));
        *reply.status_mut() = StatusCode::GONE;
        reply.headers_mut().append("set-cookie", HeaderValue::from_static("a=1"));
        reply.headers_mut().append("set-cookie", HeaderValue::from_static("b=2"));
        let sent = encode(reply.clone(), "me", "7", "_INBOX.x");
        assert_eq!((sent.executed, sent.error.as_str()), (false, "410 Gone: gone"));
        let got = decode(sent).unwrap();
        assert_eq!(
            (got.status(), got.body(), got.headers()),
            (reply.status(), reply.body(), reply.headers())
        );
    }

    #[test]
    fn a_response_of_another_client_is_200_or_500() {
        let response = |executed, error: &str| {
            decode(Response { executed, error: error.to_owned(), body: "b".into(), ..Response::default() })
                .unwrap()
        };
        assert_eq!(
            (response(true, "").status(), response(true, "").into_body()),
            (StatusCode::OK, "b".into())
        );
        let failed = response(false, "boom");
        assert_eq!((failed.status(), failed.into_body()), (StatusCode::INTERNAL_SERVER_ERROR, "boom".into()));
    }

    #[test]
    fn odd_tags_are_an_error() {
        for (status, headers) in [("x", "[]"), ("99", "[]"), ("200", "7"), ("200", r#"[["a b", "c"]]"#)] {
            let tags = [(STATUS, status), (HEADERS, headers)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert!(
                decode(Response { tags: tags.into(), ..Response::default() }).is_err(),
                "{status} {headers}"
            );
        }
    }
}
