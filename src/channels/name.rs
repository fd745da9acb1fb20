//! Names of channels, and patterns of names.

use std::fmt;
use std::sync::Arc;

use crate::util::error::debug_as_display;

/// The longest name, in bytes.
const LONGEST: usize = 1_024;

/// The name of a channel: dotted words without wildcards. A clone is cheap.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelName(Arc<str>);

impl ChannelName {
    /// Checks a name.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn new(name: impl AsRef<str>) -> Result<Self, NameError> {
        let name = name.as_ref();
        if name.contains(['*', '>']) {
            return Err(NameError::Wildcard);
        }
        check(name)?;
        Ok(Self(name.into()))
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name as shared text.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name, or a pattern of names: `*` stands for one word, `>` at the end for one word or more. A clone is cheap.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// Checks a pattern. A wildcard counts only as a whole word; `>` only as the last one.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn new(pattern: impl AsRef<str>) -> Result<Self, NameError> {
        let pattern = pattern.as_ref();
        check(pattern)?;
        Ok(Self(pattern.into()))
    }

    /// Returns the pattern.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern has no wildcard, so that it matches one name.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        let mut words = self.0.split('.').peekable();
        while let Some(word) = words.next() {
            if word == "*" || word == ">" && words.peek().is_none() {
                return false;
            }
        }
        true
    }

    /// Whether a name matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let (mut words, mut named) = (self.0.split('.').peekable(), name.split('.'));
        loop {
            match (words.next(), named.next()) {
                (None, None) => return true,
                (Some(">"), Some(_)) if words.peek().is_none() => return true,
                (Some("*"), Some(_)) => {}
                (Some(word), Some(name)) if word == name => {}
                _ => return false,
            }
        }
    }
}

impl From<ChannelName> for Pattern {
    fn from(name: ChannelName) -> Self {
        Self(name.0)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The rule that the name of a channel breaks.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The name is empty.
    #[error("the name of a channel is empty")]
    Empty,
    /// The name has a wildcard. Only subscribers to events and requests may use one.
    #[error(
        "the name of a channel has a wildcard, * or >: only subscribers to events and requests may use one"
    )]
    Wildcard,
    /// The name has white space or a control character.
    #[error("the name of a channel has white space or a control character")]
    Blank,
    /// The name ends with a dot.
    #[error("the name of a channel ends with a dot")]
    TrailingDot,
    /// The name is longer than 1,024 bytes.
    #[error("the name of a channel is longer than 1,024 bytes")]
    TooLong,
}

debug_as_display!(NameError);

fn check(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        Err(NameError::Empty)
    } else if name.len() > LONGEST {
        Err(NameError::TooLong)
    } else if name.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        Err(NameError::Blank)
    } else if name.ends_with('.') {
        Err(NameError::TrailingDot)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_refused_by_the_first_rule_it_breaks() {
        for (name, fault) in [
            ("", NameError::Empty),
            ("a.*", NameError::Wildcard),
            ("a b", NameError::Blank),
            ("a\u{7}", NameError::Blank),
            ("a.", NameError::TrailingDot),
            (&"x".repeat(1_025), NameError::TooLong),
        ] {
            assert_eq!(ChannelName::new(name).err(), Some(fault), "{name}");
        }
        assert_eq!(ChannelName::new("orders.new-1").unwrap().as_str(), "orders.new-1");
    }

    #[test]
    fn wildcards_match_whole_words() {
        for (pattern, name, matches) in [
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("*.b", "a.b", true),
            ("a.*.c", "a.b.c", true),
            ("a.>", "a.b", true),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a.b.c", true),
            ("a*", "ab", false),
            ("a.>.c", "a.b.c", false),
        ] {
            let pattern = Pattern::new(pattern).unwrap();
            assert_eq!(pattern.matches(name), matches, "{pattern} {name}");
        }
    }
}
