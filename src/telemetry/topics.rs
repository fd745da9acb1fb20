//! The label `topic` of metrics, which is off by default.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::message::Topic;
use crate::util::sync::lock;

/// How many topics have a label of their own. Publishers choose topics, and each is a series of its own.
const MOST: usize = 200;

static ON: AtomicBool = AtomicBool::new(false);
static SEEN: Mutex<Option<HashSet<String>>> = Mutex::new(None);

/// Gives metrics the label `topic`, for all buses of the process.
#[cfg(feature = "settings")]
pub(crate) fn label_topics() {
    ON.store(true, Ordering::Relaxed);
}

/// Returns the value of the label, if there is one: the topic, or `other` once there are too many.
pub(super) fn label(topic: &Topic) -> Option<String> {
    if cfg!(not(feature = "metrics")) || !ON.load(Ordering::Relaxed) {
        return None;
    }
    let mut seen = lock(&SEEN);
    let seen = seen.get_or_insert_default();
    if !seen.contains(topic.as_str()) {
        if seen.len() >= MOST {
            return Some("other".to_owned());
        }
        seen.insert(topic.as_str().to_owned());
    }
    Some(topic.as_str().to_owned())
}

#[cfg(all(test, feature = "metrics", feature = "settings"))]
mod tests {
    use super::*;

    #[test]
    fn publishers_cannot_make_series_without_end() {
        let label = |n| label(&Topic::new(format!("topic.{n}")).unwrap());
        assert_eq!(label(0), None);
        label_topics();
        let labels: HashSet<_> = (0..1_000).filter_map(label).collect();
        assert_eq!(labels.len(), MOST + 1);
        assert!(labels.contains("other") && labels.contains("topic.0"));
        assert_eq!(label(0).unwrap(), "topic.0");
    }
}
