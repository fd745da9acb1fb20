//! Dead letters, grouped by reason and topic.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::timestamp;
use crate::message::headers::start_of;
use crate::outbox::OutboxHandle;
use crate::store::{Entry, Filter, StoreError};

/// How many entries are read at a time.
const PAGE: usize = 500;

/// How many groups are kept. Later dead letters of others are counted together.
const GROUPS: usize = 200;

/// How many bytes of a reason are compared.
const REASON_BYTES: usize = 300;

/// The groups of the dead letters.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Groups {
    /// The largest first.
    pub(crate) groups: Vec<Group>,
    /// How many dead letters are in groups that are not listed.
    pub(crate) others: u64,
    /// How many dead letters were counted.
    pub(crate) counted: u64,
    /// Whether all were counted. If not, every number is a lower bound.
    pub(crate) exact: bool,
}

/// Dead letters with the same reason and topic.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Group {
    /// The start of the last failure's first line.
    pub(crate) reason: String,
    /// `None` for messages that cannot be read.
    pub(crate) topic: Option<String>,
    pub(crate) messages: u64,
    /// When the first of them failed for the last time.
    #[serde(with = "timestamp::optional")]
    pub(crate) first: Option<SystemTime>,
    /// When the last of them failed for the last time.
    #[serde(with = "timestamp::optional")]
    pub(crate) last: Option<SystemTime>,
}

impl Groups {
    /// Reads dead letters for about `within`.
    pub(super) async fn read(
        outbox: &OutboxHandle,
        filter: &Filter,
        within: Duration,
    ) -> Result<Self, StoreError> {
        let (begun, mut after) = (Instant::now(), None);
        let (mut groups, mut places) = (Self::default(), HashMap::new());
        loop {
            let page = outbox.list(filter, after, PAGE).await?;
            page.entries.iter().for_each(|entry| groups.add(&mut places, entry));
            after = page.next;
            groups.exact = after.is_none();
            if groups.exact || begun.elapsed() > within {
                break;
            }
        }
        groups.groups.sort_by_key(|group| std::cmp::Reverse(group.messages));
        Ok(groups)
    }

    fn add(&mut self, places: &mut HashMap<(String, Option<String>), usize>, entry: &Entry) {
        self.counted += 1;
        let failure = entry.failures.last();
        let reason = failure.map_or("", |failure| failure.reason.as_ref());
        let reason = start_of(reason.lines().next().unwrap_or_default(), REASON_BYTES).to_owned();
        let topic = entry.message.as_ref().map(|message| message.topic().to_string());
        let at = failure.map(|failure| failure.at);
        let next = self.groups.len();
        let place = match places.get(&(reason.clone(), topic.clone())) {
            Some(place) => *place,
            None if next == GROUPS => {
                self.others += 1;
                return;
            }
            None => {
                places.insert((reason.clone(), topic.clone()), next);
                self.groups.push(Group { reason, topic, messages: 0, first: at, last: at });
                next
            }
        };
        let group = &mut self.groups[place];
        group.messages += 1;
        group.first = group.first.into_iter().chain(at).min();
        group.last = group.last.max(at);
    }
}

/// A number of messages.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Counted {
    pub(crate) messages: u64,
    /// Whether all were counted. If not, there are more.
    pub(crate) exact: bool,
}

impl Counted {
    /// Counts for about `within`.
    pub(super) async fn read(
        outbox: &OutboxHandle,
        filter: &Filter,
        within: Duration,
    ) -> Result<Self, StoreError> {
        let only_state = Filter { state: None, ..filter.clone() } == Filter::default();
        if only_state {
            let counts = outbox.status().await?.counts;
            let messages = match filter.state {
                Some(crate::store::EntryState::Dead) => counts.dead,
                Some(crate::store::EntryState::Pending) => counts.pending,
                None => counts.pending + counts.dead,
            };
            return Ok(Self { messages, exact: true });
        }
        let (begun, mut messages, mut after) = (Instant::now(), 0, None);
        loop {
            let page = outbox.list(filter, after, PAGE).await?;
            messages += page.entries.len() as u64;
            after = page.next;
            if after.is_none() || begun.elapsed() > within {
                return Ok(Self { messages, exact: after.is_none() });
            }
        }
    }
}
