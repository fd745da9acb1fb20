//! Patterns and URIs of strangers.

use super::pattern::Pattern;
use super::subscriptions::SubscriptionTree;
use super::uri::Uri;
use super::values::ValueTree;

/// Lines: the first is a URI, the others are patterns.
pub(crate) fn uris(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('\n');
    let uri = lines.next().and_then(|line| Uri::new(line).ok());
    let patterns: Vec<_> = lines.filter_map(|line| Pattern::new(line).ok()).take(50).collect();
    for pattern in &patterns {
        assert_eq!(Pattern::new(pattern.as_str()).as_ref(), Ok(pattern));
        assert!(Pattern::all().covers(pattern) && pattern.as_str().len() <= Uri::MAX_LEN);
    }
    let Some(uri) = uri else { return };
    let (mut tree, mut values) = (SubscriptionTree::default(), ValueTree::default());
    values.insert(&uri, ());
    (0..).zip(&patterns).for_each(|(n, pattern)| tree.insert(pattern, n));
    let wanted: Vec<i32> = (0..).zip(&patterns).filter(|(_, it)| it.matches(&uri)).map(|(n, _)| n).collect();
    assert_eq!(tree.matches(&uri), wanted);
    for (n, pattern) in (0..).zip(&patterns) {
        assert_eq!(values.matches(pattern).len(), usize::from(wanted.contains(&n)));
        let covers = |other: &&Pattern| pattern.covers(other) && other.matches(&uri);
        assert!(!patterns.iter().any(|other| covers(&other)) || wanted.contains(&n));
        tree.remove(pattern, n);
    }
    assert!(tree.matches(&uri).is_empty());
}
