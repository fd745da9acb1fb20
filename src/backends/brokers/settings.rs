//! Settings that every backend with several brokers has.

use serde::{Deserialize, Deserializer};

/// The SASL mechanism (AMQP 1.0, part 5.3; AMQP 0-9-1, `connection.start`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Sasl {
    /// EXTERNAL with a client certificate, PLAIN with credentials in the URL, else ANONYMOUS: in AMQP 1.0 the
    /// first of these that the broker offers (one that breaks off during EXTERNAL is tried again with
    /// ANONYMOUS); in AMQP 0-9-1 PLAIN as `guest` in place of ANONYMOUS.
    #[default]
    Auto,
    /// Who we are is in the client certificate.
    External,
    /// The user and password of the URL.
    Plain,
    /// We do not say.
    Anonymous,
}

/// A list, or one text with commas or blanks between.
pub(crate) fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(urls) => {
            urls.split([',', ' ']).filter(|url| !url.is_empty()).map(str::to_owned).collect()
        }
        OneOrMany::Many(urls) => urls,
    })
}
