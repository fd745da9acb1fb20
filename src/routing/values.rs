//! The last value of each exact URI, and queries with wildcards.

use std::collections::BTreeMap;

use super::pattern::{Level, Pattern};
use super::uri::Uri;

/// A value for each exact URI.
#[derive(Debug)]
pub(super) struct ValueTree<T> {
    children: BTreeMap<Box<str>, Self>,
    value: Option<T>,
}

impl<T> Default for ValueTree<T> {
    fn default() -> Self {
        Self { children: BTreeMap::new(), value: None }
    }
}

impl<T> ValueTree<T> {
    /// Sets the value of a URI; returns the previous one.
    pub(super) fn insert(&mut self, uri: &Uri, value: T) -> Option<T> {
        let mut at = self;
        for level in uri.levels() {
            at = at.children.entry(level.into()).or_default();
        }
        at.value.replace(value)
    }

    /// Returns the values of the URIs that a pattern means, in the order of the URIs' levels.
    pub(super) fn matches(&self, pattern: &Pattern) -> Vec<&T> {
        let levels: Vec<_> = pattern.levels().collect();
        let mut found = Vec::new();
        self.find(&levels, &reach(&levels, &[0]), &mut found);
        found
    }

    /// `reached` are the numbers of levels of the pattern that the path so far may have used.
    fn find<'a>(&'a self, levels: &[Level<'_>], reached: &[usize], found: &mut Vec<&'a T>) {
        if reached.contains(&levels.len()) {
            found.extend(&self.value);
        }
        if let [only] = reached
            && let Some(Level::Exact(level)) = levels.get(*only)
        {
            if let Some(child) = self.children.get(*level) {
                child.find(levels, &reach(levels, &[only + 1]), found);
            }
            return;
        }
        for (name, child) in &self.children {
            let next: Vec<_> = reached
                .iter()
                .filter_map(|at| match levels.get(*at)? {
                    Level::Any => Some(*at),
                    Level::One => Some(at + 1),
                    Level::Exact(level) => (*level == &**name).then_some(at + 1),
                })
                .collect();
            if !next.is_empty() {
                child.find(levels, &reach(levels, &next), found);
            }
        }
    }
}

/// Adds what a `*` reaches without a level; sorted, each once.
fn reach(levels: &[Level<'_>], from: &[usize]) -> Vec<usize> {
    let mut reached = from.to_vec();
    for at in from {
        let stars = levels[*at..].iter().take_while(|level| **level == Level::Any).count();
        reached.extend((1..=stars).map(|used| at + used));
    }
    reached.sort_unstable();
    reached.dedup();
    reached
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::model::{self, Random};

    #[test]
    fn the_last_value_of_each_uri_is_found_by_wildcards() {
        let mut tree = ValueTree::default();
        for (value, uri) in ["a/b/c", "a/x/c", "a/b", "b/c", "a/b/c"].into_iter().enumerate() {
            tree.insert(&Uri::new(uri).unwrap(), value);
        }
        for (text, wanted) in [
            ("a/+/c", &[4, 1][..]),
            ("a/*", &[2, 4, 1]),
            ("*/c", &[4, 1, 3]),
            ("a/b", &[2]),
            ("*", &[2, 4, 1, 3]),
            ("x/*", &[]),
        ] {
            let found: Vec<_> = tree.matches(&Pattern::new(text).unwrap()).into_iter().copied().collect();
            assert_eq!(found, wanted, "{text}");
        }
    }

    #[test]
    fn a_query_finds_the_same_values_as_the_model() {
        let mut random = Random(4);
        for _ in 0..200 {
            let (mut tree, mut model) = (ValueTree::default(), BTreeMap::new());
            for value in 0..60 {
                let uri = model::uri(&mut random);
                assert_eq!(tree.insert(&Uri::new(&uri).unwrap(), value), model.insert(uri, value));
            }
            for _ in 0..50 {
                let text = model::pattern(&mut random);
                let mut found: Vec<_> =
                    tree.matches(&Pattern::new(&text).unwrap()).into_iter().copied().collect();
                found.sort_unstable();
                let matching = model.iter().filter(|(uri, _)| model::matches(&text, uri));
                let mut wanted: Vec<_> = matching.map(|(_, value)| *value).collect();
                wanted.sort_unstable();
                assert_eq!(found, wanted, "{text} {model:?}");
            }
        }
    }
}
