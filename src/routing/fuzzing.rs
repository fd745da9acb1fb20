//! Patterns and URIs of strangers.

use super::app::message;
use super::message::RoutedMessage;
use super::pattern::Pattern;
use super::subscriptions::SubscriptionTree;
use super::uri::Uri;
use super::values::ValueTree;
use crate::message::headers::MOST;

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

/// A message that an app receives. Its headers are bounded; a message of this crate is written as it was read.
pub(crate) fn app(routed: &RoutedMessage) {
    let Ok(read) = message::read(routed) else { return };
    // Its own headers, and those of a message of others.
    assert!(read.headers().count() <= MOST + 4);
    if let Ok(written) = message::write(&read, &routed.namespace) {
        let again =
            message::read(&written).map(|again| (again.id(), again.topic().clone(), again.body().clone()));
        assert!(again.is_ok_and(|again| again == (read.id(), read.topic().clone(), read.body().clone())));
    }
}
