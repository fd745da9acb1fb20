//! Grants: who may publish, subscribe, query and route where.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer, de::Error as _};

use super::namespace::Namespace;
use super::pattern::Pattern;
use super::subject::Subject;
use crate::util::error::debug_as_display;
use crate::util::rfc3339;

/// An action that a grant allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Publish messages.
    Publish,
    /// Receive messages.
    Subscribe,
    /// Read last values.
    Query,
    /// Connect as a router: hand over messages of others, and receive messages for them.
    Route,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Query => "query",
            Self::Route => "route",
        })
    }
}

/// One row of the table of grants.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "UPPERCASE")]
pub struct Grant {
    /// The subject; `"*"` for anyone.
    #[serde(deserialize_with = "subject")]
    pub subject: Option<Subject>,
    /// The actions.
    pub verbs: Vec<Verb>,
    /// The namespace, in base64url.
    #[serde(deserialize_with = "parsed")]
    pub namespace: Namespace,
    /// The URIs. By default `*`, all.
    #[serde(default = "Pattern::all", deserialize_with = "parsed")]
    pub uri: Pattern,
    /// The end of the grant, such as `"2027-01-01T00:00:00Z"`. By default it has none.
    #[serde(default, deserialize_with = "time")]
    pub expires: Option<SystemTime>,
}

/// Anyone, as `"*"`, is `None`.
fn subject<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Subject>, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "*" => Ok(None),
        text => text.parse().map(Some).map_err(D::Error::custom),
    }
}

fn parsed<'de, T: FromStr<Err: fmt::Display>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
    let text = String::deserialize(deserializer)?;
    rfc3339::read(&text).map(Some).map_err(D::Error::custom)
}

/// The grants of a router at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants(Vec<Grant>);

impl Grants {
    /// Makes a table of these rows.
    #[must_use]
    pub fn new(rows: Vec<Grant>) -> Self {
        Self(rows)
    }

    /// Whether a row allows the action on any URI of the namespace.
    #[must_use]
    pub fn has_any(
        &self,
        subject: Option<&Subject>,
        verb: Verb,
        namespace: &Namespace,
        now: SystemTime,
    ) -> bool {
        self.0.iter().any(|grant| {
            grant.subject.as_ref().is_none_or(|granted| Some(granted) == subject)
                && grant.verbs.contains(&verb)
                && grant.namespace == *namespace
                && grant.expires.is_none_or(|end| end > now)
        })
    }

    /// Checks whether a row allows the action on all URIs of a pattern.
    ///
    /// # Errors
    /// [`Refused`], if no row does, or only rows that have expired.
    pub fn check(
        &self,
        subject: Option<&Subject>,
        verb: Verb,
        namespace: &Namespace,
        uris: &Pattern,
        now: SystemTime,
    ) -> Result<(), Refused> {
        let mut why = Reason::NoGrant;
        for grant in &self.0 {
            let is_meant = grant.subject.as_ref().is_none_or(|granted| Some(granted) == subject)
                && grant.verbs.contains(&verb)
                && grant.namespace == *namespace
                && grant.uri.covers(uris);
            match grant.expires {
                _ if !is_meant => {}
                Some(end) if end <= now => why = Reason::Expired,
                _ => return Ok(()),
            }
        }
        let subject = subject.map_or_else(|| "a client without credentials".to_owned(), ToString::to_string);
        Err(Refused { subject, verb, namespace: namespace.clone(), uris: uris.clone(), why })
    }
}

/// An action that no grant allows.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{subject} may not {verb} on {uris} in the namespace {namespace}: {why}")]
pub struct Refused {
    subject: String,
    verb: Verb,
    namespace: Namespace,
    uris: Pattern,
    why: Reason,
}

debug_as_display!(Refused);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    NoGrant,
    Expired,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoGrant => "it has no grant; add one to the table of grants",
            Self::Expired => "its grant has expired; renew it in the table of grants",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn table() -> Grants {
        #[derive(Deserialize)]
        struct File {
            #[serde(rename = "GRANT")]
            grants: Vec<Grant>,
        }
        let text = format!(
            r#"
            [[GRANT]]
            SUBJECT = "{}"
            VERBS = ["publish", "subscribe"]
            NAMESPACE = "bnM="
            URI = "building/*"
            EXPIRES = "2027-01-01T00:00:00Z"

            [[GRANT]]
            SUBJECT = "*"
            VERBS = ["query"]
            NAMESPACE = "bnM="
            "#,
            Subject::of(b"client")
        );
        Grants::new(toml::from_str::<File>(&text).unwrap().grants)
    }

    fn check(
        subject: Option<&[u8]>,
        verb: Verb,
        namespace: &str,
        uris: &str,
        now: u64,
    ) -> Result<(), String> {
        let (subject, namespace) = (subject.map(Subject::of), Namespace::named(namespace).unwrap());
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now);
        let checked = table().check(subject.as_ref(), verb, &namespace, &Pattern::new(uris).unwrap(), now);
        checked.map_err(|refused| refused.to_string())
    }

    const NOW: u64 = 1_790_000_000;

    #[test]
    fn a_grant_allows_its_verbs_on_its_uris() {
        check(Some(b"client"), Verb::Publish, "ns", "building/floor1", NOW).unwrap();
        check(Some(b"client"), Verb::Subscribe, "ns", "building/+/x/*", NOW).unwrap();
        check(None, Verb::Query, "ns", "*", NOW).unwrap();
    }

    #[test]
    fn anything_else_is_refused_with_its_reason() {
        for (subject, verb, namespace, uris, now, reason) in [
            (Some(&b"client"[..]), Verb::Route, "ns", "building/a", NOW, "no grant"),
            (Some(b"client"), Verb::Publish, "other", "building/a", NOW, "no grant"),
            (Some(b"client"), Verb::Publish, "ns", "street/a", NOW, "no grant"),
            (Some(b"client"), Verb::Subscribe, "ns", "*", NOW, "no grant"),
            (Some(b"other"), Verb::Publish, "ns", "building/a", NOW, "no grant"),
            (None, Verb::Publish, "ns", "building/a", NOW, "without credentials"),
            (Some(b"client"), Verb::Publish, "ns", "building/a", NOW + 100_000_000, "expired"),
        ] {
            let refused = check(subject, verb, namespace, uris, now).unwrap_err();
            assert!(refused.contains(reason), "{refused}");
        }
    }
}
