//! The keys that a struct of settings knows.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::forward_to_deserialize_any;

/// The name of the table, and the prefix of the environment variables.
pub(super) const MESSAGE_BUS: &str = "MESSAGE_BUS";

/// How alike two names must be for one to be a typo of the other; 1 is the same.
const NEAR: f64 = 0.75;

/// The names of the fields of a struct, as serde reads them.
pub(super) fn of<'de, T: Deserialize<'de>>() -> Vec<&'static str> {
    let mut names = Vec::new();
    // Deserializing fails on purpose as soon as the names are known.
    let _ = T::deserialize(Names(&mut names));
    names
}

/// The known key that resembles `key` most; `None` if none does.
pub(super) fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let scored = known.iter().map(|name| (strsim::jaro_winkler(key, name), *name));
    scored.filter(|(score, _)| *score > NEAR).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

pub(super) fn is_near(key: &str, other: &str) -> bool {
    strsim::jaro_winkler(key, other) > NEAR
}

struct Names<'a>(&'a mut Vec<&'static str>);

impl<'de> Deserializer<'de> for Names<'_> {
    type Error = Known;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Known> {
        self.0.extend(fields);
        Err(Known)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Known> {
        Err(Known)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[derive(Debug)]
struct Known;

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the names are known")
    }
}

impl std::error::Error for Known {}

impl Error for Known {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}
