//! The answer of JetStream to a message.

use std::borrow::Cow;

use async_nats::jetstream;
use serde::Deserialize;

use super::failure::{Unreadable, refused};
use crate::messenger::Failure;

/// The answer: the stream that has stored the message, or an error.
#[derive(Deserialize)]
pub(super) struct Confirm<'a> {
    #[serde(borrow, default)]
    stream: Option<Cow<'a, str>>,
    error: Option<jetstream::Error>,
}

impl<'a> Confirm<'a> {
    /// Returns the stream that has stored the message.
    pub(super) fn read(answer: &'a [u8]) -> Result<Cow<'a, str>, Failure> {
        match serde_json::from_slice(answer) {
            Ok(Confirm { error: Some(error), .. }) => Err(refused(&error)),
            Ok(Confirm { stream: Some(stream), .. }) => Ok(stream),
            Ok(_) | Err(_) => Err(Failure::transient(Unreadable)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_of_a_stream_confirms_a_message() {
        let confirm = br#"{"stream":"ORDERS","domain":"hub","seq":7,"duplicate":true}"#;
        assert_eq!(Confirm::read(confirm).unwrap(), "ORDERS");
        let full = br#"{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},"stream":"ORDERS","seq":0}"#;
        assert!(Confirm::read(full).unwrap_err().is_transient());
        let stranger =
            br#"{"error":{"code":400,"err_code":10060,"description":"expected stream does not match"}}"#;
        assert!(!Confirm::read(stranger).unwrap_err().is_transient());
        for odd in [&b""[..], b"+OK", b"{}", b"{\"stream\":7}", b"\xff"] {
            assert!(Confirm::read(odd).unwrap_err().is_transient(), "{odd:?}");
        }
    }
}
