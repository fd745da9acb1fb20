//! URIs: the exact name that a message is published under.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::util::error::debug_as_display;

/// The name of a message inside its namespace: levels with slashes between them, such as `building/floor1/temperature`.
///
/// A level is not empty, has no control characters, and is not a wildcard (`+`, `*`). There are at most 64 levels, and
/// 1,024 bytes. A clone shares the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uri(Arc<str>);

impl Uri {
    /// The largest number of bytes.
    pub const MAX_LEN: usize = 1_024;
    /// The largest number of levels.
    pub const MAX_LEVELS: usize = 64;

    /// Makes a URI.
    ///
    /// # Errors
    /// [`UriError`], with the fault of the text.
    pub fn new(text: &str) -> Result<Self, UriError> {
        check(text)?;
        match text.split('/').any(|level| matches!(level, "+" | "*")) {
            true => {
                Err(UriError::new(text, "it has a wildcard, which only a subscription or query may have"))
            }
            false => Ok(Self(text.into())),
        }
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the levels.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

/// Checks all but wildcards.
pub(super) fn check(text: &str) -> Result<(), UriError> {
    let fault = if text.is_empty() {
        "it is empty"
    } else if text.len() > Uri::MAX_LEN {
        "it is longer than 1,024 bytes"
    } else if text.split('/').count() > Uri::MAX_LEVELS {
        "it has more than 64 levels"
    } else if text.split('/').any(str::is_empty) {
        "it has an empty level; write no slash at its start or end"
    } else if text.chars().any(char::is_control) {
        "it has a control character"
    } else {
        return Ok(());
    };
    Err(UriError::new(text, fault))
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uri({self})")
    }
}

/// A text that is no [`Uri`] and no [`Pattern`](super::Pattern).
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a URI: {reason}")]
pub struct UriError {
    /// The start of the text.
    text: String,
    reason: &'static str,
}

debug_as_display!(UriError);

impl UriError {
    fn new(text: &str, reason: &'static str) -> Self {
        Self { text: text.chars().take(200).collect(), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_with_slashes_between_them_are_a_uri() {
        for text in
            ["a", "a/b/c", "größe/☃", "a b/c", "c++/x*y", &"a/".repeat(63).replace("a/a", "a/b")[..125]]
        {
            assert_eq!(Uri::new(text).unwrap().as_str(), text);
        }
        assert_eq!(Uri::new("a/b").unwrap().levels().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn other_texts_are_refused_with_their_reason() {
        let (long, deep) = ("x".repeat(1_025), ["a"; 65].join("/"));
        for (text, reason) in [
            ("", "empty"),
            ("/a", "empty level"),
            ("a/", "empty level"),
            ("a//b", "empty level"),
            ("a\n", "control"),
            ("a/+", "wildcard"),
            ("*", "wildcard"),
            (&long, "1,024"),
            (&deep, "64 levels"),
        ] {
            let error = Uri::new(text).unwrap_err().to_string();
            assert!(error.contains(reason) && error.len() < 400, "{text:?}: {error}");
        }
    }
}
