//! The topic of a message: a dotted name.

use std::borrow::Cow;
use std::fmt;

use crate::util::error::debug_as_display;

/// The name that a message is published under: dotted segments, such as `compose.created`.
///
/// Segments are not empty and hold no blanks, control characters or wildcards (`*`, `#`, `+`, `>`);
/// the topic has at most [`Topic::MAX_LEN`] bytes. One leading dot, as in PDC's topics, is removed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Cow<'static, str>);

impl Topic {
    /// The longest topic, in bytes: the limit of a short string in AMQP 0-9-1.
    pub const MAX_LEN: usize = 255;

    /// Makes a topic of a valid name. A `&'static str` is not copied.
    ///
    /// # Errors
    /// [`TopicError`], with the fault of the name.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Result<Self, TopicError> {
        let name = match name.into() {
            Cow::Borrowed(name) => Cow::Borrowed(name.strip_prefix('.').unwrap_or(name)),
            Cow::Owned(mut name) => {
                if name.starts_with('.') {
                    name.remove(0);
                }
                Cow::Owned(name)
            }
        };
        match fault(&name) {
            None => Ok(Self(name)),
            Some(reason) => Err(TopicError { topic: name.chars().take(Self::MAX_LEN).collect(), reason }),
        }
    }

    /// Returns the name, without a leading dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("it is empty");
    }
    if name.len() > Topic::MAX_LEN {
        return Some("it is longer than 255 bytes");
    }
    if is_plain(name.as_bytes()) {
        return None;
    }
    let mut after_dot = true;
    for c in name.chars() {
        match c {
            '.' if after_dot => return Some("it has an empty segment"),
            '*' | '#' | '+' | '>' => return Some("it has a wildcard"),
            c if c.is_whitespace() || c.is_control() => return Some("it has a blank or control character"),
            _ => {}
        }
        after_dot = c == '.';
    }
    after_dot.then_some("it ends with a dot")
}

/// Whether there is nothing in the name but ASCII letters, digits, `-`, `_`, and dots between them.
fn is_plain(name: &[u8]) -> bool {
    let mut after_dot = true;
    for &byte in name {
        match byte {
            b'.' if after_dot => return false,
            b'.' => after_dot = true,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => after_dot = false,
            _ => return false,
        }
    }
    !after_dot
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl AsRef<str> for Topic {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

/// A name that cannot be a [`Topic`].
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{topic:?} is not a topic: {reason}; write dotted segments such as \"compose.created\"")]
pub struct TopicError {
    topic: String,
    reason: &'static str,
}

debug_as_display!(TopicError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotted_names_are_topics() {
        for name in ["a", "compose.created", "a-b_c.d.e1", "größe.neu", "build-images.added"] {
            assert_eq!(Topic::new(name).unwrap().as_str(), name);
        }
        assert_eq!(Topic::new("x".repeat(255)).unwrap().as_str().len(), 255);
    }

    #[test]
    fn one_leading_dot_is_stripped() {
        assert_eq!(Topic::new(".products.added").unwrap().as_str(), "products.added");
        assert_eq!(Topic::new(".products.added".to_owned()).unwrap().as_str(), "products.added");
        assert_eq!(Topic::new(format!(".{}", "x".repeat(255))).unwrap().as_str().len(), 255);
    }

    #[test]
    fn anything_else_is_refused_with_its_reason() {
        for (name, reason) in [
            ("", "empty"),
            (".", "empty"),
            ("..a", "empty segment"),
            ("a..b", "empty segment"),
            ("a.", "ends with a dot"),
            ("a b", "blank"),
            ("a\tb", "blank"),
            ("a.\u{a0}b", "blank"),
            ("a\0", "control"),
            ("a.*", "wildcard"),
            ("#", "wildcard"),
            ("a.>", "wildcard"),
            ("+.a", "wildcard"),
        ] {
            let error = Topic::new(name).unwrap_err().to_string();
            assert!(error.contains(reason), "{name:?}: {error}");
        }
        assert!(Topic::new("x".repeat(256)).unwrap_err().to_string().contains("255 bytes"));
    }
}
