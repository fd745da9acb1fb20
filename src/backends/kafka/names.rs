//! The names that Kafka accepts.

/// The longest name of a topic.
pub(super) const MOST_OF_NAME: usize = 249;

/// The fault of the name of a topic.
pub(super) fn fault_of_topic(name: &str) -> Option<String> {
    if name.is_empty() || name.len() > MOST_OF_NAME {
        return Some(format!("has {} bytes: Kafka takes 1 to {MOST_OF_NAME}", name.len()));
    }
    if name == "." || name == ".." {
        return Some("is \".\" or \"..\", which Kafka does not take".to_owned());
    }
    let odd = |c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c));
    let found = name.chars().find(|c| odd(*c))?;
    Some(format!("has the character {found:?}: Kafka takes ASCII letters, digits, '.', '_' and '-'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_broker_refuses_are_at_fault() {
        for good in ["a", "order.created", "A-1_b", &"x".repeat(249)] {
            assert_eq!(fault_of_topic(good), None, "{good}");
        }
        for bad in ["", ".", "..", "a b", "größe", "a/b", "a\0", "a:b", &"x".repeat(250)] {
            assert!(fault_of_topic(bad).is_some(), "{bad:?}");
        }
    }
}
