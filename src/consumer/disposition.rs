//! From the response of a handler to the settlement of the message.

use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, Response, StatusCode};
use http_body::Body;

use crate::message::headers::start_of;
use crate::store::admission::RejectedForCapacity;
use crate::util::error::{BoxError, Chain};

/// How many bytes of a response body are kept as the reason.
const START: usize = 300;

/// How long to wait for the body of an unsuccessful response.
const BODY: Duration = Duration::from_secs(1);

/// The result of one attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Disposition {
    /// The message was handled.
    Ack,
    /// The reply to the request was sent.
    Answered,
    /// The attempt failed. The handler may give a wait.
    Retry { after: Option<Duration>, reason: String },
    /// The message must not be tried again.
    Reject { reason: String },
    /// The caller of the request no longer waits.
    Expired,
    /// The message was not tried. It is delivered again after a wait; no attempt is counted.
    NotNow { after: Duration },
}

impl Disposition {
    pub(super) fn failed(reason: impl Into<String>) -> Self {
        Self::Retry { after: None, reason: reason.into() }
    }

    pub(super) fn error(error: impl Into<BoxError>) -> Self {
        Self::failed(Chain(error.into().as_ref()).to_string())
    }

    /// Returns the status of the response, or another word, if the attempt failed.
    pub(super) fn error_type(&self) -> Option<&str> {
        match self {
            Self::Ack | Self::Answered => None,
            Self::Expired => Some("expired"),
            Self::NotNow { .. } => Some("503"),
            // A reason begins with the status, if there was a response.
            Self::Retry { reason, .. } | Self::Reject { reason } => Some(
                reason
                    .get(..3)
                    .filter(|start| start.bytes().all(|byte| byte.is_ascii_digit()))
                    .unwrap_or("failed"),
            ),
        }
    }

    /// The disposition of a status. The start of the body becomes the reason.
    pub(super) async fn of<B>(response: Response<B>) -> Self
    where
        B: Body,
    {
        if response.status().is_success() {
            return Self::Ack;
        }
        // Seldom, and large.
        Box::pin(Self::of_failure(response)).await
    }

    async fn of_failure<B: Body>(response: Response<B>) -> Self {
        let (parts, body) = response.into_parts();
        let (status, after) = (parts.status, retry_after(&parts.headers));
        if parts.extensions.get::<RejectedForCapacity>().is_some() {
            return Self::NotNow { after: after.unwrap_or_default() };
        }
        let body = tokio::time::timeout(BODY, start_of_body(body)).await.unwrap_or_default();
        let reason = match body.is_empty() {
            true if status == StatusCode::NOT_FOUND => "404 Not Found: no handler has this route".to_owned(),
            true => status.to_string(),
            false => format!("{status}: {body}"),
        };
        if may_pass(status) { Self::Retry { after, reason } } else { Self::Reject { reason } }
    }
}

/// Whether another attempt may succeed after this status.
pub(super) fn may_pass(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        )
}

/// Seconds, or a date (RFC 9110, 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

async fn start_of_body<B: Body>(body: B) -> String {
    let mut body = std::pin::pin!(body);
    let mut start = Vec::new();
    while start.len() < START {
        let frame = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await;
        let Some(Ok(frame)) = frame else { break };
        let Ok(mut data) = frame.into_data() else { continue };
        while bytes::Buf::has_remaining(&data) && start.len() < START {
            let chunk = bytes::Buf::chunk(&data);
            let take = chunk.len().min(START - start.len());
            start.extend_from_slice(&chunk[..take]);
            bytes::Buf::advance(&mut data, take);
        }
    }
    start_of(&String::from_utf8_lossy(&start), START).to_owned()
}

#[cfg(test)]
mod tests {
    use axum_core::body::Body;

    use super::*;

    async fn of(status: u16, retry_after: Option<&str>, body: &str) -> Disposition {
        let mut response = Response::builder().status(status);
        if let Some(value) = retry_after {
            response = response.header(RETRY_AFTER, value);
        }
        Disposition::of(response.body(Body::from(body.to_owned())).unwrap()).await
    }

    #[tokio::test]
    async fn a_success_is_an_ack() {
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(of(status, None, "x").await, Disposition::Ack);
        }
    }

    #[tokio::test]
    async fn what_may_pass_later_is_tried_again() {
        for status in [408, 425, 429, 500, 502, 503, 504, 599] {
            let Disposition::Retry { after: None, reason } = of(status, None, "why").await else {
                panic!("{status}")
            };
            assert!(reason.starts_with(&status.to_string()) && reason.ends_with(": why"), "{reason}");
        }
    }

    #[tokio::test]
    async fn anything_else_is_a_dead_letter() {
        for status in [101, 204 + 100, 304, 400, 401, 403, 409, 410, 418, 422] {
            let Disposition::Reject { reason } = of(status, Some("7"), "").await else { panic!("{status}") };
            assert!(reason.starts_with(&status.to_string()), "{reason}");
        }
        assert_eq!(
            of(404, None, "").await,
            Disposition::Reject { reason: "404 Not Found: no handler has this route".to_owned() }
        );
        assert_eq!(
            of(404, None, "no such user").await,
            Disposition::Reject { reason: "404 Not Found: no such user".to_owned() }
        );
    }

    #[tokio::test]
    async fn the_handler_may_say_how_long_to_wait() {
        let after = |disposition| match disposition {
            Disposition::Retry { after, .. } => after,
            other => panic!("{other:?}"),
        };
        assert_eq!(after(of(503, Some("7"), "").await), Some(Duration::from_secs(7)));
        assert_eq!(after(of(429, Some("soon"), "").await), None);
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(90));
        let waited = after(of(503, Some(&date), "").await).unwrap();
        assert!((80..=90).contains(&waited.as_secs()), "{waited:?}");
        assert_eq!(after(of(503, Some("Sun, 06 Nov 1994 08:49:37 GMT"), "").await), Some(Duration::ZERO));
    }

    #[tokio::test]
    async fn only_the_start_of_a_body_is_read() {
        let Disposition::Reject { reason } = of(422, None, &"ü".repeat(10_000)).await else { panic!() };
        assert!(reason.len() < 400, "{}", reason.len());
    }
}
