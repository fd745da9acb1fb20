//! Addresses of confirmations: the own one, and those that a consumer may write to.

use crate::message::{Topic, TopicError};

/// The segments of an address: MQTT writes `/` between them, other protocols `.`.
const SEPARATORS: [char; 2] = ['/', '.'];

/// The address at which a sender awaits confirmations: a topic as it is written on the wire, `orders/ack` or `orders.ack`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AckAddress {
    written: String,
    topic: Topic,
}

impl AckAddress {
    /// Makes an address of a topic with `/` or `.` between its segments.
    ///
    /// # Errors
    /// [`TopicError`] when it is no topic.
    pub fn new(address: impl Into<String>) -> Result<Self, TopicError> {
        let written = address.into();
        let topic = topic(&written)?;
        Ok(Self { written, topic })
    }

    /// Returns the address as it is written on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// Returns the topic of confirmations.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }
}

/// The topic of an address.
pub(super) fn topic(address: &str) -> Result<Topic, TopicError> {
    // Before it is copied: it is foreign, and may be of any length.
    if address.len() > Topic::MAX_LEN {
        return Topic::new(address.chars().take(Topic::MAX_LEN + 1).collect::<String>());
    }
    Topic::new(address.replace(SEPARATORS[0], "."))
}

/// The addresses that a consumer may send confirmations to: patterns such as `*/ack`. `*` is one segment, `#` any number.
///
/// By default `*/ack`; without a pattern nothing is confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedAddresses(Vec<String>);

impl Default for AllowedAddresses {
    fn default() -> Self {
        Self(vec!["*/ack".to_owned()])
    }
}

impl AllowedAddresses {
    /// Allows the addresses that match one of the patterns.
    pub fn new<P: Into<String>>(patterns: impl IntoIterator<Item = P>) -> Self {
        Self(patterns.into_iter().map(Into::into).collect())
    }

    /// Whether no address is allowed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the topic of an address, if it is allowed.
    pub(super) fn topic(&self, address: &str) -> Option<Topic> {
        let topic = topic(address).ok()?;
        let segments: Vec<&str> = topic.as_str().split('.').collect();
        let is_allowed = self.0.iter().any(|pattern| {
            let pattern: Vec<&str> = pattern.split(SEPARATORS).collect();
            matches(&pattern, &segments)
        });
        is_allowed.then_some(topic)
    }
}

fn matches(pattern: &[&str], segments: &[&str]) -> bool {
    match (pattern.split_first(), segments.split_first()) {
        (None, None) => true,
        (Some((&"#", rest)), _) => (0..=segments.len()).any(|skipped| matches(rest, &segments[skipped..])),
        (Some((&("*" | "+"), pattern)), Some((_, segments))) => matches(pattern, segments),
        (Some((wanted, pattern)), Some((segment, segments))) => {
            wanted == segment && matches(pattern, segments)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_topic_in_either_form() {
        for written in ["orders/ack", "orders.ack"] {
            let address = AckAddress::new(written).unwrap();
            assert_eq!((address.as_str(), address.topic().as_str()), (written, "orders.ack"));
        }
        for written in ["", "/", "orders/#", "a//b", "a b/ack", "a/ack\0"] {
            assert!(AckAddress::new(written).is_err(), "{written:?}");
        }
        assert!(AckAddress::new("x".repeat(1_000_000)).is_err());
    }

    #[test]
    fn only_addresses_of_the_patterns_are_allowed() {
        let allowed = AllowedAddresses::default();
        for address in ["mq/ack", "orders.ack", "orders-1a2b/ack"] {
            assert!(allowed.topic(address).is_some(), "{address}");
        }
        for address in
            ["ack", "a/b/ack", "orders/created", "orders/ack/x", "*/ack", "#", "", "/ack", "a/\u{7}/ack"]
        {
            assert!(allowed.topic(address).is_none(), "{address}");
        }
        let allowed = AllowedAddresses::new(["acks/#", "+/reply", "#.end"]);
        for (address, is_allowed) in [
            ("acks", true),
            ("acks/a/b", true),
            ("x/reply", true),
            ("end", true),
            ("a.b.end", true),
            ("x/y/reply", false),
        ] {
            assert_eq!(allowed.topic(address).is_some(), is_allowed, "{address}");
        }
        assert!(AllowedAddresses::new([""; 0]).topic("mq/ack").is_none());
    }
}
