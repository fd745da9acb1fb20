//! Files of settings and certificates.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The largest file that is read.
const LARGEST: u64 = 16 << 20;

/// Reads a file of at most 16 MiB, without a byte order mark.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    let fault = |problem| Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    if bytes.len() as u64 > LARGEST {
        return fault("it is larger than 16 MiB, so it cannot be the file that is meant");
    }
    match bytes.as_slice() {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..] => {
            fault("it is in UTF-16, or no text at all: save it as UTF-8")
        }
        [0xef, 0xbb, 0xbf, ..] => Ok(bytes.split_off(3)),
        _ => Ok(bytes),
    }
}

/// Why a text is no TOML: where and what, but not the line itself, which may hold a password.
#[cfg(any(feature = "settings", feature = "amqp091"))]
pub(crate) fn toml_fault(text: &str, error: &toml::de::Error) -> String {
    let message = crate::util::secret::redacted(error.message());
    let before = error.span().and_then(|span| text.get(..span.start));
    let Some(before) = before else { return message };
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}: {message}")
}
