//! The caller and its rights.

use std::sync::Arc;

use tokio::time::Instant;

use super::counters::Counters;
use super::fault::{self, Refusal};
use super::kinds::KINDS;
use super::settings::{Grant, Settings};
use crate::channels::ChannelKind;

/// The right to a channel that a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    /// It receives, subscribes or answers.
    Read,
    /// It sends, publishes or asks.
    Write,
}

/// The grants of the settings; without any, everybody may do everything.
#[derive(Debug)]
pub(super) struct Access {
    grants: Vec<Grant>,
    counters: Arc<Counters>,
}

impl Access {
    pub(super) fn new(settings: &Settings, counters: Arc<Counters>) -> Self {
        Self { grants: settings.grants.clone(), counters }
    }
}

/// A client, by the name that it has proved: the subject of its token, else the name in its certificate.
///
/// The client ids in messages are no proof. By default, it may do nothing.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    name: Arc<str>,
    access: Option<Arc<Access>>,
    expiry: Option<Instant>,
}

impl Default for Caller {
    fn default() -> Self {
        Self { name: Arc::from(""), access: None, expiry: None }
    }
}

impl Caller {
    pub(super) fn new(name: &str, access: Arc<Access>, expiry: Option<Instant>) -> Self {
        Self { name: Arc::from(name), access: Some(access), expiry }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns when the token expires.
    pub(super) fn expiry(&self) -> Option<Instant> {
        self.expiry
    }

    /// Checks a right to a channel, or to all channels of a pattern.
    pub(super) fn may(&self, right: Right, kind: ChannelKind, channel: &str) -> Result<(), Refusal> {
        let Some(access) = &self.access else { return Err(fault::DENIED.into()) };
        let kind = KINDS.iter().find(|(_, known)| *known == kind).map_or("", |(name, _)| name);
        let is_granted = access.grants.is_empty()
            || access.grants.iter().any(|grant| {
                (grant.client == "*" || grant.client == *self.name)
                    && (grant.kinds.is_empty() || grant.kinds.iter().any(|granted| granted == kind))
                    && match right {
                        Right::Read => grant.read,
                        Right::Write => grant.write,
                    }
                    && covers(&grant.channel, channel)
            });
        if !is_granted {
            access.counters.grants.add();
            tracing::warn!(
                client = &*self.name,
                ?right,
                kind,
                channel,
                "denied a client access to a channel"
            );
            return Err(fault::DENIED.into());
        }
        Ok(())
    }
}

/// Whether each name that matches `pattern` also matches `granted`.
fn covers(granted: &str, pattern: &str) -> bool {
    let (mut granted, mut words) = (granted.split('.').peekable(), pattern.split('.'));
    loop {
        match (granted.next(), words.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) if granted.peek().is_none() => return true,
            (Some("*"), Some(word)) if word != ">" => {}
            (Some(grant), Some(word)) if grant == word && word != ">" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_covers_only_what_all_matches_of_a_pattern_need() {
        for (granted, pattern, is_covered) in [
            (">", "a", true),
            (">", "a.>", true),
            (">", ">", true),
            ("a.>", "a.b.>", true),
            ("a.>", "a.*", true),
            ("a.>", "a", false),
            ("a.*", "a.b", true),
            ("a.*", "a.*", true),
            ("a.*", "a.>", false),
            ("a.b", "a.b", true),
            ("a.b", "a.*", false),
            ("a.b", "a.>", false),
            ("a", ">", false),
            ("*.b", "a.b", true),
        ] {
            assert_eq!(covers(granted, pattern), is_covered, "{granted} {pattern}");
        }
    }

    #[test]
    fn a_caller_without_access_may_do_nothing() {
        assert!(Caller::default().may(Right::Read, ChannelKind::Queue, "orders").is_err());
    }

    #[test]
    fn a_grant_names_client_kind_and_right() {
        let grants = toml::from_str(
            r#"
            [[grants]]
            client = "shop"
            kinds = ["queues"]
            channel = "orders.>"
            write = true
            "#,
        );
        let caller = Caller::new("shop", Arc::new(Access::new(&grants.unwrap(), Arc::default())), None);
        let may = |right, kind, channel| caller.may(right, kind, channel).is_ok();
        assert!(may(Right::Write, ChannelKind::Queue, "orders.new"));
        assert!(!may(Right::Read, ChannelKind::Queue, "orders.new"));
        assert!(!may(Right::Write, ChannelKind::Stream, "orders.new"));
        assert!(!may(Right::Write, ChannelKind::Queue, "bills"));
        let other = Caller { name: Arc::from("mailer"), ..caller.clone() };
        assert!(other.may(Right::Write, ChannelKind::Queue, "orders.new").is_err());
    }
}
