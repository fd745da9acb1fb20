//! The contract of what keeps messages until a bus has confirmed them.

use std::any::Any;
use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::message::failed_attempt::FailedAttempt;
use crate::message::{Message, Settlement};
use crate::store::admission::Admission;
use crate::util::error::{BoxError, debug_as_display};

/// Keeps messages until they are confirmed, and the dead letters until someone decides about them.
///
/// # Contract
/// - **`append` is all or nothing, and durable when it says `Ok`**: the whole batch survives a crash of the
///   process and of the machine, or none of it is ever given out.
/// - **Order.** Messages get rising positions, and `lease` gives the oldest first. Those with an ordering key leave
///   in order for each topic and key: none is given while another that was given before is out or waits for its retry, nor
///   before an earlier one. Other keys go on. Messages without a key wait for nobody. A dead letter is passed over, and comes
///   in its place again when it is requeued.
/// - **A lease belongs to one holder** until it is settled. A stale lease settles nothing. What is leased when the
///   process ends is pending again when the store is opened the next time, or, in a store that several
///   processes share, when the lease has run out.
/// - **At least once.** What is settled may be forgotten by a crash right after: the message is then
///   given out again. What `requeue` and `drop_messages` did is durable.
/// - **Delay** is the store's: a message is not given out before its [`time`](Message::time) plus its
///   [`delay`](Message::delay). Expiry is the relay's.
/// - **Limits** are the store's: when one is reached, `append` refuses, or drops the oldest pending messages,
///   whose number then travels in the header [`DROPPED`](crate::message::headers::DROPPED) of the next message given out.
/// - **Damage is said**: a message that can no longer be read becomes a dead letter without a message, and
///   the rest stays readable.
#[async_trait]
pub trait Store: Any + Send + Sync {
    /// Stores a batch durably, all or nothing.
    ///
    /// # Errors
    /// [`Unstored`] gives the batch back: none of it is stored.
    ///
    /// # Cancel safety
    /// Dropped, the batch is stored as a whole or not at all.
    async fn append(&self, batch: Vec<Message>) -> Result<(), Unstored>;

    /// Waits until messages are due, and gives at most `limit` of them.
    ///
    /// # Errors
    /// [`StoreError`] when the store is closed or cannot be read.
    ///
    /// # Cancel safety
    /// Dropped, it has leased nothing.
    async fn lease(&self, limit: usize) -> Result<Vec<Leased>, StoreError>;

    /// Says how it went with leased messages.
    ///
    /// # Errors
    /// [`StoreError`] when that could not be kept: the messages may be given out again.
    async fn settle(&self, settled: &[(Lease, Settlement)]) -> Result<(), StoreError>;

    /// A page of what is stored, in order, from `after` on.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn list(&self, filter: &Filter, after: Option<u64>, limit: usize) -> Result<Page, StoreError>;

    /// Gives dead letters another life, with no attempts made, one each `pace`; and what waits for a retry its turn now.
    /// Gives how many of `positions` it was that.
    ///
    /// # Errors
    /// [`StoreError`] when that could not be kept.
    async fn requeue(&self, positions: &[u64], pace: Duration) -> Result<usize, StoreError>;

    /// Drops messages that are not leased, and gives how many of `positions` it dropped.
    ///
    /// # Errors
    /// [`StoreError`] when that could not be kept.
    async fn drop_messages(&self, positions: &[u64]) -> Result<usize, StoreError>;

    /// How much is stored.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn counts(&self) -> Result<Counts, StoreError>;

    /// Where it is, for people: a folder, a database.
    fn location(&self) -> String;

    /// Returns its admission control, for [`Capabilities::admission`](crate::messenger::Capabilities::admission).
    fn admission(&self) -> Option<Admission> {
        None
    }

    /// Ends it in order. Everything afterwards fails with [`StoreError::Closed`].
    async fn close(&self) {}
}

/// How much a store may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// How many messages, pending and dead; 1,000,000 by default.
    pub max_messages: u64,
    /// How many bytes, with the reasons of failures in an embedded store; 1 GiB by default.
    pub max_bytes: u64,
    /// What happens when there is no room.
    pub when_full: WhenFull,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_messages: 1_000_000, max_bytes: 1 << 30, when_full: WhenFull::default() }
    }
}

/// What a store does when it is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// New requests get 503 before their handler runs, and messages are refused.
    #[default]
    Refuse,
    /// The oldest pending messages are dropped; the next one that leaves says how many, in [`DROPPED`](crate::message::headers::DROPPED).
    /// Stores in a database refuse this when they are opened: messages that were committed are not dropped.
    DropOldest,
}

/// The right to settle one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Lease {
    /// Where the message stands.
    pub position: u64,
    /// Told apart from every other lease of the same message.
    pub token: u64,
}

impl Lease {
    /// For stores.
    #[must_use]
    pub fn new(position: u64, token: u64) -> Self {
        Self { position, token }
    }
}

/// A message given out.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Leased {
    /// What settles it.
    pub lease: Lease,
    /// The message.
    pub message: Message,
    /// How many attempts have failed.
    pub attempts: u32,
}

impl Leased {
    /// For stores.
    #[must_use]
    pub fn new(lease: Lease, message: Message, attempts: u32) -> Self {
        Self { lease, message, attempts }
    }
}

/// What to list; everything by default. Conditions add up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Filter {
    /// Pending messages or dead letters only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<EntryState>,
    /// The message of this id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// This topic; with `*` at its end, every topic that begins so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// This ordering key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// A part of the last failure's reason, in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Made before this many seconds ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older_than: Option<u64>,
}

impl Filter {
    /// The message of this id.
    #[must_use]
    pub fn id(id: Uuid) -> Self {
        Self { id: Some(id), ..Self::default() }
    }

    /// Everything in this state.
    #[must_use]
    pub fn state(state: EntryState) -> Self {
        Self { state: Some(state), ..Self::default() }
    }

    /// Whether an entry is meant.
    #[must_use]
    pub fn matches(&self, entry: &Entry) -> bool {
        self.state.is_none_or(|state| state == entry.state)
            && self.matches_message(entry.message.as_ref())
            && self.reason.as_ref().is_none_or(|reason| {
                let last = entry.failures.last().map(|failure| failure.reason.to_lowercase());
                last.is_some_and(|last| last.contains(&reason.to_lowercase()))
            })
    }
}

impl Filter {
    /// Whether a message is meant, as far as it can be read; state and reason are not looked at.
    pub(crate) fn matches_message(&self, message: Option<&Message>) -> bool {
        let of_message = |wanted: bool, is: &dyn Fn(&Message) -> bool| !wanted || message.is_some_and(is);
        of_message(self.id.is_some(), &|message| self.id == Some(message.id()))
            && of_message(self.topic.is_some(), &|message| {
                let (topic, pattern) = (message.topic().as_str(), self.topic.as_deref().unwrap_or_default());
                pattern.strip_suffix('*').map_or(topic == pattern, |prefix| topic.starts_with(prefix))
            })
            && of_message(self.key.is_some(), &|message| self.key.as_deref() == message.key())
            && of_message(self.older_than.is_some(), &|message| {
                let age = SystemTime::now().duration_since(message.time()).unwrap_or_default();
                self.older_than.is_some_and(|seconds| age > Duration::from_secs(seconds))
            })
    }
}

/// What a stored message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryState {
    /// It is to be sent.
    Pending,
    /// It was given up on.
    Dead,
}

impl fmt::Display for EntryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Dead => "dead",
        })
    }
}

/// One stored message with what happened to it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Entry {
    /// Where it stands.
    pub position: u64,
    /// What it is.
    pub state: EntryState,
    /// The message; none when it can no longer be read.
    pub message: Option<Message>,
    /// How many attempts have failed.
    pub attempts: u32,
    /// The last failures, oldest first.
    pub failures: Vec<FailedAttempt>,
    /// What a pending message waits for.
    pub wait: Option<Wait>,
}

impl Entry {
    /// For stores: an entry to which nothing has happened.
    #[must_use]
    pub fn new(position: u64, state: EntryState, message: Option<Message>) -> Self {
        Self { position, state, message, attempts: 0, failures: Vec::new(), wait: None }
    }

    /// Why it has not left, in a sentence.
    #[must_use]
    pub fn explain(&self) -> String {
        let last = self.failures.last().map(|failure| failure.reason.as_ref());
        match (self.state, self.wait) {
            (EntryState::Dead, _) => format!("given up on: {}", last.unwrap_or("no reason was kept")),
            (EntryState::Pending, Some(Wait::Sending)) => "it is being sent now".to_owned(),
            (EntryState::Pending, Some(Wait::Delayed { .. })) => "its delay is not over".to_owned(),
            (EntryState::Pending, Some(Wait::Retry { .. })) => {
                format!(
                    "the last attempt failed and the next is not due: {}",
                    last.unwrap_or("no reason was kept")
                )
            }
            (EntryState::Pending, Some(Wait::Key)) => {
                "an earlier message of the same topic and key has not left".to_owned()
            }
            (EntryState::Pending, _) => {
                "its turn has not come: earlier messages leave first, or the bus is down".to_owned()
            }
        }
    }
}

/// What a pending message waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// The messages before it.
    Turn,
    /// The end of its delay.
    Delayed {
        /// When that is.
        until: SystemTime,
    },
    /// Its next attempt.
    Retry {
        /// When that is.
        until: SystemTime,
    },
    /// An earlier message of its topic and key.
    Key,
    /// The bus: it is being sent.
    Sending,
}

/// A part of a list.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Page {
    /// What was found.
    pub entries: Vec<Entry>,
    /// What to give as `after` for the next page; none at the end. A page may be short, or empty, before the end.
    pub next: Option<u64>,
}

impl Page {
    /// For stores.
    #[must_use]
    pub fn new(entries: Vec<Entry>, next: Option<u64>) -> Self {
        Self { entries, next }
    }
}

/// How much a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Counts {
    /// Messages to be sent, those being sent included.
    pub pending: u64,
    /// Dead letters.
    pub dead: u64,
    /// About how many bytes both hold.
    pub bytes: u64,
    /// When the oldest pending message was made.
    pub oldest: Option<SystemTime>,
}

/// Why a store could not do it.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A limit is reached.
    #[error(
        "the outbox is full: {what}; messages leave when the bus takes them, dead letters when they are requeued or dropped"
    )]
    Full {
        /// Which limit.
        what: String,
    },
    /// It was closed.
    #[error("the outbox is closed")]
    Closed,
    /// It cannot be used now: no space, no connection.
    #[error("the outbox cannot be used now")]
    Unavailable(#[source] BoxError),
}

debug_as_display!(StoreError);

impl StoreError {
    /// For stores.
    pub fn unavailable(cause: impl Into<BoxError>) -> Self {
        Self::Unavailable(cause.into())
    }
}

/// A batch that could not be stored, and why.
#[derive(thiserror::Error)]
#[error("{} messages are not stored", batch.len())]
#[non_exhaustive]
pub struct Unstored {
    /// Why.
    pub source: StoreError,
    /// The batch.
    pub batch: Vec<Message>,
}

debug_as_display!(Unstored);

impl Unstored {
    /// For stores.
    #[must_use]
    pub fn new(source: StoreError, batch: Vec<Message>) -> Self {
        Self { source, batch }
    }
}
