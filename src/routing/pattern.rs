//! Patterns: the URIs that a subscription, a query or a grant means.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::uri::{Uri, UriError, check};

/// A URI with wildcards: `+` is one level, `*` is any number of levels, also none, anywhere.
///
/// A wildcard is a whole level; inside a longer level `+` and `*` are letters. The limits are those of a [`Uri`]. A clone
/// shares the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(Arc<str>);

/// A level of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level<'a> {
    Exact(&'a str),
    /// `+`
    One,
    /// `*`
    Any,
}

impl Pattern {
    /// Makes a pattern. Several `*` in a row become one, which means the same.
    ///
    /// # Errors
    /// [`UriError`], with the fault of the text.
    pub fn new(text: &str) -> Result<Self, UriError> {
        check(text)?;
        let mut levels: Vec<&str> = text.split('/').collect();
        levels.dedup_by(|next, level| *next == "*" && *level == "*");
        Ok(Self(levels.join("/").into()))
    }

    /// The pattern of all URIs, `*`.
    #[must_use]
    pub fn all() -> Self {
        Self("*".into())
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern means this URI.
    #[must_use]
    pub fn matches(&self, uri: &Uri) -> bool {
        let levels: Vec<_> = uri.levels().map(Level::Exact).collect();
        covers(&self.levels().collect::<Vec<_>>(), &levels)
    }

    /// Whether the pattern means every URI that `other` means. A few pairs that only look different, such as `+/*` and
    /// `*/+`, are taken as different.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        covers(&self.levels().collect::<Vec<_>>(), &other.levels().collect::<Vec<_>>())
    }

    pub(super) fn levels(&self) -> impl Iterator<Item = Level<'_>> {
        self.0.split('/').map(|level| match level {
            "+" => Level::One,
            "*" => Level::Any,
            exact => Level::Exact(exact),
        })
    }
}

/// Row by row: `row[n]` is whether the levels of `wide` read so far cover the first `n` of `narrow`.
fn covers(wide: &[Level<'_>], narrow: &[Level<'_>]) -> bool {
    let mut row = vec![false; narrow.len() + 1];
    row[0] = true;
    for level in wide {
        let mut next = vec![false; row.len()];
        for n in 0..row.len() {
            next[n] = match level {
                Level::Any => row[n] || n > 0 && next[n - 1],
                Level::One => n > 0 && row[n - 1] && narrow[n - 1] != Level::Any,
                exact @ Level::Exact(_) => n > 0 && row[n - 1] && narrow[n - 1] == *exact,
            };
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

impl From<&Uri> for Pattern {
    /// The pattern of this URI alone.
    fn from(uri: &Uri) -> Self {
        Self(uri.as_str().into())
    }
}

impl FromStr for Pattern {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::model::{self, Random};

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text).unwrap()
    }

    #[test]
    fn a_star_means_any_number_of_levels_anywhere() {
        for (text, meant, others) in [
            ("a/+/c", &["a/b/c"][..], &["a/c", "a/b/b/c", "a/b"][..]),
            ("a/*", &["a", "a/b", "a/b/c"], &["b", "b/a"]),
            ("*/c", &["c", "b/c", "a/b/c"], &["c/d"]),
            ("a/*/d", &["a/d", "a/b/d", "a/b/c/d", "a/d/d"], &["a", "a/b", "d"]),
            ("*", &["a", "a/b"], &[]),
            ("*/+", &["a", "a/b"], &[]),
            ("*/x/*", &["x", "a/x", "x/a", "a/x/b/x"], &["a", "a/b"]),
        ] {
            for uri in meant {
                assert!(pattern(text).matches(&Uri::new(uri).unwrap()), "{text} {uri}");
            }
            for uri in others {
                assert!(!pattern(text).matches(&Uri::new(uri).unwrap()), "{text} {uri}");
            }
        }
        assert_eq!(pattern("a/*/*/*/b").as_str(), "a/*/b");
    }

    #[test]
    fn a_pattern_matches_as_the_model_does() {
        let mut random = Random(1);
        for _ in 0..20_000 {
            let (text, uri) = (model::pattern(&mut random), model::uri(&mut random));
            let matched = pattern(&text).matches(&Uri::new(&uri).unwrap());
            assert_eq!(matched, model::matches(&text, &uri), "{text} {uri}");
        }
    }

    #[test]
    fn a_pattern_that_covers_another_means_all_its_uris() {
        let mut random = Random(2);
        let mut covered = 0;
        for _ in 0..20_000 {
            let (wide, narrow) = (model::pattern(&mut random), model::pattern(&mut random));
            let uri = model::uri(&mut random);
            if pattern(&wide).covers(&pattern(&narrow)) && model::matches(&narrow, &uri) {
                covered += 1;
                assert!(model::matches(&wide, &uri), "{wide} covers {narrow}, but {uri}");
            }
        }
        assert!(covered > 100, "{covered}");
        for (wide, narrow, covers) in [
            ("a/*", "a/b/*", true),
            ("a/*", "a", true),
            ("*", "*/a/+", true),
            ("a/+", "a/b", true),
            ("a/+", "a/+", true),
            ("a/+", "a/*", false),
            ("a/b", "a/+", false),
            ("a/*/c", "a/b/*/c", true),
            ("a/*", "*", false),
        ] {
            assert_eq!(pattern(wide).covers(&pattern(narrow)), covers, "{wide} {narrow}");
        }
    }
}
