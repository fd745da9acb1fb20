//! Which topics are signed.

use super::error::SigningError;
use crate::message::topic::Topic;

/// A rule for topics; the first one that matches decides.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "settings", derive(serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct PolicyRule {
    /// The topics: `+` or `*` is one word, `#` any number of words, and `*` alone every topic.
    pub topic: String,
    /// Whether messages are signed when they are sent, and verified when they are received.
    pub sign: bool,
}

impl PolicyRule {
    /// A rule for these topics.
    pub fn new(topic: impl Into<String>, sign: bool) -> Self {
        Self { topic: topic.into(), sign }
    }
}

/// Rules for topics, of which the first that matches decides. Every other topic is signed.
#[derive(Clone, Debug, Default)]
pub(super) struct Policy(Vec<(Pattern, bool)>);

#[derive(Clone, Debug)]
enum Pattern {
    Every,
    Words(Vec<Word>),
}

#[derive(Clone, Debug, PartialEq)]
enum Word {
    Exactly(String),
    One,
    Any,
}

impl Policy {
    pub(super) fn new(rules: &[PolicyRule]) -> Result<Self, SigningError> {
        let rules = rules.iter().map(|rule| Ok((pattern(&rule.topic)?, rule.sign)));
        rules.collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn signs(&self, topic: &Topic) -> bool {
        let decides = self.0.iter().find(|(pattern, _)| match pattern {
            Pattern::Every => true,
            Pattern::Words(words) => {
                let topic: Vec<_> = topic.as_str().split(SEPARATORS).collect();
                matches(words, &topic)
            }
        });
        decides.is_none_or(|(_, sign)| *sign)
    }
}

/// Topics of MQTT have slashes.
const SEPARATORS: [char; 2] = ['.', '/'];

fn pattern(text: &str) -> Result<Pattern, SigningError> {
    if text == "*" {
        return Ok(Pattern::Every);
    }
    let words = text.split(SEPARATORS).map(|word| match word {
        "+" | "*" => Some(Word::One),
        "#" => Some(Word::Any),
        word if word.is_empty() || word.contains(['+', '*', '#']) => None,
        word => Some(Word::Exactly(word.to_owned())),
    });
    let words: Option<Vec<_>> = words.collect();
    let fault = || {
        SigningError::new(format!(
            "SIGNING.POLICY has the topic {text:?}: write words with dots between them, where `+` is one word and `#` any \
             number of words, or `*` for every topic"
        ))
    };
    let words = words.ok_or_else(fault)?;
    // More than one would take long to match.
    if words.iter().filter(|word| **word == Word::Any).count() > 1 {
        return Err(fault());
    }
    Ok(Pattern::Words(words))
}

fn matches(words: &[Word], topic: &[&str]) -> bool {
    match (words, topic) {
        ([], []) => true,
        ([Word::Any, rest @ ..], topic) => {
            topic.len().checked_sub(rest.len()).is_some_and(|skipped| matches(rest, &topic[skipped..]))
        }
        ([word, words @ ..], [part, topic @ ..]) => {
            let fits = match word {
                Word::Exactly(word) => word == part,
                _ => true,
            };
            fits && matches(words, topic)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = [("public.secret", true), ("public.#", false), ("a/+/c", false), ("#.end", false)];
        let rules = rules.map(|(topic, sign)| PolicyRule::new(topic, sign));
        let policy = Policy::new(&rules).unwrap();
        for (topic, signed) in [
            ("public.secret", true),
            ("public.other", false),
            ("public", false),
            ("publicity", true),
            ("a.b.c", false),
            ("a/b/c", false),
            ("a.c", true),
            ("a.b.b.c", true),
            ("x.y.end", false),
            ("end", false),
        ] {
            assert_eq!(policy.signs(&Topic::new(topic).unwrap()), signed, "{topic}");
        }
        let all = Policy::new(&[PolicyRule::new("*", false)]).unwrap();
        assert!(!all.signs(&Topic::new("a.b").unwrap()));
    }

    #[test]
    fn a_topic_with_other_wildcards_is_an_error() {
        for topic in ["", "a..b", "a.b*", "#.a.#", "a+"] {
            let error = Policy::new(&[PolicyRule::new(topic, true)]).unwrap_err().to_string();
            assert!(error.contains("SIGNING.POLICY"), "{error}");
        }
    }
}
