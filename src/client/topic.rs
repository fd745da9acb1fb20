//! From a path to a topic.

use std::borrow::Cow;

use crate::message::{Topic, TopicError};

/// Why a path cannot be a topic.
#[derive(Debug, thiserror::Error)]
pub(super) enum PathFault {
    #[error("the path has an empty segment; write /order/quote")]
    Empty,
    #[error("a segment of the path has a dot, which separates segments of a topic")]
    Dot,
    #[error("the path is not UTF-8")]
    NotUtf8,
    #[error(transparent)]
    Topic(#[from] TopicError),
}

/// Returns the topic `order.quote` of the path `/order/quote`. A consumer turns it back into the path.
pub(super) fn topic(path: &str) -> Result<Topic, PathFault> {
    let mut topic = String::with_capacity(path.len());
    for (index, segment) in path.strip_prefix('/').unwrap_or(path).split('/').enumerate() {
        let segment = decoded(segment)?;
        if segment.is_empty() {
            return Err(PathFault::Empty);
        }
        if segment.contains('.') {
            return Err(PathFault::Dot);
        }
        if index > 0 {
            topic.push('.');
        }
        topic.push_str(&segment);
    }
    Ok(Topic::new(topic)?)
}

/// Decodes the percent-encoding (RFC 3986, 2.1). A percent sign without two hexadecimal digits stays as it is.
fn decoded(segment: &str) -> Result<Cow<'_, str>, PathFault> {
    if !segment.contains('%') {
        return Ok(Cow::Borrowed(segment));
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [first, after @ ..] = rest {
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| PathFault::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_topic() {
        for (path, name) in [
            ("/order/quote", "order.quote"),
            ("/a", "a"),
            ("/gr%C3%B6%C3%9Fe/a%2Fb/50%25%3F", "größe.a/b.50%?"),
            ("/50%/%zz", "50%.%zz"),
        ] {
            assert_eq!(topic(path).unwrap().as_str(), name);
        }
    }

    #[test]
    fn a_path_that_is_no_topic_is_refused_with_its_reason() {
        let long = format!("/{}", "x".repeat(256));
        for (path, reason) in [
            ("/", "empty segment"),
            ("", "empty segment"),
            ("//a", "empty segment"),
            ("/a/", "empty segment"),
            ("/v1.0/a", "has a dot"),
            ("/v1%2e0/a", "has a dot"),
            ("/a/*", "wildcard"),
            ("/a%20b", "blank"),
            ("/%FF", "not UTF-8"),
            (long.as_str(), "255 bytes"),
        ] {
            let fault = topic(path).unwrap_err().to_string();
            assert!(fault.contains(reason), "{path:?}: {fault}");
        }
    }
}
