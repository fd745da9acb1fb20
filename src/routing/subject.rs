//! Subjects: who a grant is for.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};

use crate::util::error::debug_as_display;

/// The SHA-256 of a credential: the bytes of a client's entity, or the certificate of a router. Its text is `sha256:` and 64
/// hexadecimal digits, which is no secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject([u8; 32]);

impl Subject {
    /// Returns the subject with this credential.
    #[must_use]
    pub fn of(credential: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, credential).as_ref());
        Self(bytes)
    }

    /// Returns the hash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for Subject {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("sha256:").ok_or(SubjectError)?;
        if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(SubjectError);
        }
        let mut bytes = [0; 32];
        for (n, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * n..2 * n + 2], 16).map_err(|_| SubjectError)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no [`Subject`].
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not a subject: write sha256: and 64 hexadecimal digits, or \"*\" for anyone")]
pub struct SubjectError;

debug_as_display!(SubjectError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_read_as_it_is_written() {
        let subject = Subject::of(b"abc");
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((subject.to_string().as_str(), text.parse()), (text, Ok(subject)));
        for other in ["", "ba78", "sha256:ba", &text.replace('b', "x"), &text.replace("ba", "☃")] {
            assert!(other.parse::<Subject>().is_err(), "{other}");
        }
    }
}
