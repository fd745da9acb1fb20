//! Messages of JetStream as its API returns them: as JSON, which any bytes fit in.

use std::str;
use std::time::SystemTime;

use async_nats::StatusCode;
use async_nats::header::HeaderName;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::util::rfc3339;

/// A message of a stream.
#[derive(Deserialize)]
pub(crate) struct Stored {
    pub(crate) subject: String,
    #[serde(rename = "seq")]
    pub(crate) sequence: u64,
    #[serde(default)]
    data: String,
    #[serde(default)]
    hdrs: String,
    time: String,
}

/// The answer to a request for a message.
#[derive(Deserialize)]
pub(crate) struct StoredAnswer {
    pub(crate) message: Stored,
}

impl Stored {
    pub(crate) fn payload(&self) -> Result<Vec<u8>, base64::DecodeError> {
        STANDARD.decode(&self.data)
    }

    /// The headers as they were written; empty if there are none.
    pub(crate) fn headers(&self) -> Result<Vec<u8>, base64::DecodeError> {
        STANDARD.decode(&self.hdrs)
    }

    pub(crate) fn time(&self) -> SystemTime {
        rfc3339::read(&self.time).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Why the client library cannot read it.
    pub(crate) fn fault(&self) -> Option<String> {
        if self.subject.contains(is_odd) {
            return Some(format!("its subject {:?} has a blank, or is no UTF-8", self.subject));
        }
        fault_of_headers(&self.headers().ok()?)
    }

    /// Its subject, with `=` in place of what cannot be read.
    #[cfg(feature = "channels")]
    pub(crate) fn readable_subject(&self) -> String {
        self.subject.replace(is_odd, "=")
    }
}

fn is_odd(c: char) -> bool {
    c.is_whitespace() || c == char::REPLACEMENT_CHARACTER
}

fn fault_of_headers(headers: &[u8]) -> Option<String> {
    if headers.is_empty() {
        return None;
    }
    let Ok(text) = str::from_utf8(headers) else {
        return Some("its headers are no UTF-8".to_owned());
    };
    let mut lines = text.lines();
    let Some(status) = lines.next().and_then(|line| line.strip_prefix("NATS/1.0")) else {
        return Some("its headers do not begin with NATS/1.0".to_owned());
    };
    let code = status.trim().split(' ').next().unwrap_or_default();
    if !code.is_empty() && code.parse::<StatusCode>().is_err() {
        return Some(format!("{code:?} in its headers is no status"));
    }
    let mut can_go_on = false;
    for line in lines {
        if line.contains('\r') {
            return Some("its headers have a carriage return within a line".to_owned());
        }
        let goes_on = can_go_on && line.starts_with(char::is_whitespace);
        let name = line.split_once(':').and_then(|(name, _)| name.parse::<HeaderName>().ok());
        if !line.is_empty() && !goes_on && name.is_none() {
            return Some("a line of its headers does not begin with a name and a colon".to_owned());
        }
        can_go_on = !line.is_empty();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_end_a_connection_are_found() {
        for good in [
            "",
            "NATS/1.0\r\n\r\n",
            "NATS/1.0 503\r\n\r\n",
            "NATS/1.0\r\na: b\r\n c\r\nd:\r\n\r\n",
            "NATS/1.0\na:b",
        ] {
            assert_eq!(fault_of_headers(good.as_bytes()), None, "{good:?}");
        }
        for bad in [
            &b"NATS/1.0\r\na: \xff\r\n\r\n"[..],
            b"HTTP/1.1\r\n\r\n",
            b"NATS/1.0 x\r\n\r\n",
            b"NATS/1.0\r\nno colon\r\n\r\n",
            b"NATS/1.0\r\n\x01: x\r\n\r\n",
            b"NATS/1.0\r\na: b\rc\r\n\r\n",
            b"NATS/1.0\r\n c\r\n\r\n",
            b"NATS/1.0\r\na: b\r\n\r\n c\r\n",
            b"\r\n",
        ] {
            assert!(fault_of_headers(bad).is_some(), "{bad:?}");
        }
        for (subject, is_good) in [("a.b", true), ("a.\u{a0}b", false), ("a.\u{fffd}", false)] {
            let stored = Stored {
                subject: subject.to_owned(),
                sequence: 1,
                data: String::new(),
                hdrs: String::new(),
                time: String::new(),
            };
            assert_eq!(stored.fault().is_none(), is_good, "{subject:?}");
        }
    }
}
