//! The topic as a bus knows it.

use crate::topic::Topic;

/// Prefix, exactly one dot, topic.
pub(crate) fn prefixed(prefix: Option<&str>, topic: &Topic) -> String {
    match prefix.map(|prefix| prefix.trim_matches('.')) {
        None | Some("") => topic.as_str().to_owned(),
        Some(prefix) => format!("{prefix}.{topic}"),
    }
}
