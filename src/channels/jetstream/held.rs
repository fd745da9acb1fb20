//! The messages that receipts of this engine hold.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use tokio::time::Instant;

use super::in_use::QueueInUse;
use super::wire::QueuePolicy;
use crate::channels::error::EngineError;
use crate::channels::queue_types::{Receipt, Which};
use crate::util::deadline::after;

/// All receipts that are open.
#[derive(Default)]
pub(super) struct Taken {
    last: u64,
    receipts: HashMap<u64, OpenReceipt>,
    /// By the number of the queue, and the sequence.
    held: HashMap<(u64, u64), Held>,
    /// When messages count as rejected.
    deadlines: BTreeSet<(Instant, u64, u64)>,
}

struct OpenReceipt {
    place: Arc<QueueInUse>,
    sequences: BTreeSet<u64>,
}

/// A queue, the sequences that can be settled, and why the rest cannot.
type Chosen = (Arc<QueueInUse>, Vec<u64>, Option<EngineError>);

/// A message that a receipt holds.
#[derive(Clone)]
pub(super) struct Held {
    receipt: u64,
    pub(super) sequence: u64,
    /// The last word of its subject.
    pub(super) word: String,
    /// Where it is settled.
    pub(super) reply: Subject,
    pub(super) policy: QueuePolicy,
    deadline: Option<Instant>,
    is_settling: bool,
}

impl Held {
    pub(super) fn new(sequence: u64, word: String, reply: Subject, policy: QueuePolicy) -> Self {
        Self { receipt: 0, sequence, word, reply, policy, deadline: None, is_settling: false }
    }
}

/// Messages that are being settled.
pub(super) struct Settling {
    pub(super) place: Arc<QueueInUse>,
    pub(super) receipt: u64,
    pub(super) messages: Vec<Held>,
    /// Why the rest of the list is not settled.
    pub(super) fault: Option<EngineError>,
}

impl Taken {
    pub(super) fn new_receipt(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Adds a message to a receipt. A message that is held here stays where it is: only where it is settled is new.
    pub(super) fn hold(
        &mut self,
        place: &Arc<QueueInUse>,
        receipt: u64,
        message: Held,
        visibility: Option<Duration>,
    ) -> bool {
        let key = (place.number, message.sequence);
        if let Some(held) = self.held.get_mut(&key) {
            held.reply = message.reply;
            return false;
        }
        let deadline = visibility.map(|visibility| after(Instant::now(), visibility));
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, place.number, message.sequence));
        }
        let new = || OpenReceipt { place: Arc::clone(place), sequences: BTreeSet::new() };
        self.receipts.entry(receipt).or_insert_with(new).sequences.insert(message.sequence);
        self.held.insert(key, Held { receipt, deadline, ..message });
        true
    }

    pub(super) fn is_held(&self, place: &QueueInUse, sequence: u64) -> bool {
        self.held.contains_key(&(place.number, sequence))
    }

    pub(super) fn sequences(&self, receipt: Receipt) -> Result<Vec<u64>, EngineError> {
        let open = self.receipts.get(&receipt.0).ok_or(EngineError::UnknownReceipt(receipt.0))?;
        Ok(open.sequences.iter().copied().collect())
    }

    /// Returns which messages of a receipt can be settled, up to the first one that it does not hold.
    fn choose(&self, receipt: Receipt, which: Which) -> Result<Chosen, EngineError> {
        let unknown = EngineError::UnknownReceipt(receipt.0);
        let Some(open) = self.receipts.get(&receipt.0) else { return Err(unknown) };
        let number = open.place.number;
        let is_held = |sequence: &u64| {
            self.held
                .get(&(number, *sequence))
                .is_some_and(|held| held.receipt == receipt.0 && !held.is_settling)
        };
        let place = Arc::clone(&open.place);
        match which {
            Which::All => {
                let held: Vec<u64> = open.sequences.iter().copied().filter(is_held).collect();
                if held.is_empty() { Err(unknown) } else { Ok((place, held, None)) }
            }
            // All are on their way out.
            Which::Sequences(_) if !open.sequences.iter().any(is_held) => Err(unknown),
            Which::Sequences(mut wanted) => {
                let mut seen = HashSet::new();
                let wrong = wanted.iter().position(|sequence| !is_held(sequence) || !seen.insert(*sequence));
                let fault = wrong.map(|at| EngineError::NotHeld { receipt: receipt.0, sequence: wanted[at] });
                wanted.truncate(wrong.unwrap_or(wanted.len()));
                Ok((place, wanted, fault))
            }
        }
    }

    /// Begins to settle messages: nobody else settles them meanwhile, and their visibility stops.
    pub(super) fn begin(&mut self, receipt: Receipt, which: Which) -> Result<Settling, EngineError> {
        let (place, sequences, fault) = self.choose(receipt, which)?;
        let mut messages = Vec::with_capacity(sequences.len());
        for sequence in sequences {
            if let Some(held) = self.held.get_mut(&(place.number, sequence)) {
                held.is_settling = true;
                if let Some(deadline) = held.deadline {
                    self.deadlines.remove(&(deadline, place.number, sequence));
                }
                messages.push(held.clone());
            }
        }
        Ok(Settling { place, receipt: receipt.0, messages, fault })
    }

    /// Forgets messages that are settled.
    pub(super) fn settled(&mut self, place: &QueueInUse, receipt: u64, sequence: u64) {
        if self.held.get(&(place.number, sequence)).is_none_or(|held| held.receipt != receipt) {
            return;
        }
        if let Some(deadline) = self.held.remove(&(place.number, sequence)).and_then(|held| held.deadline) {
            self.deadlines.remove(&(deadline, place.number, sequence));
        }
        if let Some(open) = self.receipts.get_mut(&receipt) {
            open.sequences.remove(&sequence);
            if open.sequences.is_empty() {
                self.receipts.remove(&receipt);
            }
        }
    }

    /// Holds a message again that could not be settled.
    pub(super) fn unsettled(&mut self, place: &QueueInUse, sequence: u64) {
        if let Some(held) = self.held.get_mut(&(place.number, sequence)) {
            held.is_settling = false;
            if let Some(deadline) = &mut held.deadline {
                // Not at once again.
                *deadline = (*deadline).max(Instant::now() + Duration::from_secs(1));
                self.deadlines.insert((*deadline, place.number, sequence));
            }
        }
    }

    pub(super) fn extend(
        &mut self,
        receipt: Receipt,
        which: Which,
        visibility: Duration,
    ) -> Result<(), EngineError> {
        let (place, sequences, fault) = self.choose(receipt, which)?;
        let until = after(Instant::now(), visibility);
        for sequence in sequences {
            if let Some(held) = self.held.get_mut(&(place.number, sequence)) {
                if let Some(deadline) = held.deadline.replace(until) {
                    self.deadlines.remove(&(deadline, place.number, sequence));
                }
                self.deadlines.insert((until, place.number, sequence));
            }
        }
        fault.map_or(Ok(()), Err)
    }

    /// Takes what a receipt holds and is not being settled.
    pub(super) fn release(&mut self, receipt: u64) -> Option<(Arc<QueueInUse>, Vec<Held>)> {
        let (place, sequences, _) = self.choose(Receipt(receipt), Which::All).ok()?;
        let mut released = Vec::with_capacity(sequences.len());
        for sequence in sequences {
            released.extend(self.held.get(&(place.number, sequence)).cloned());
            self.settled(&place, receipt, sequence);
        }
        Some((place, released))
    }

    /// Returns the receipts, from the oldest.
    pub(super) fn receipts(&self) -> Vec<u64> {
        let mut receipts: Vec<u64> = self.receipts.keys().copied().collect();
        receipts.sort_unstable();
        receipts
    }

    /// Forgets all of a queue that was deleted.
    pub(super) fn forget_place(&mut self, number: u64) {
        self.receipts.retain(|_, receipt| receipt.place.number != number);
        self.held.retain(|(place, _), _| *place != number);
        self.deadlines.retain(|(_, place, _)| *place != number);
    }

    /// Returns the messages whose visibility has run out, and when the next one does.
    pub(super) fn due(&self) -> (Vec<(u64, u64)>, Option<Instant>) {
        let now = Instant::now();
        let mut due = Vec::new();
        for (deadline, place, sequence) in &self.deadlines {
            if *deadline > now {
                return (due, Some(*deadline));
            }
            due.extend(self.held.get(&(*place, *sequence)).map(|held| (held.receipt, *sequence)));
        }
        (due, None)
    }

    /// Returns where this engine says that it still has its messages.
    pub(super) fn replies(&self) -> Vec<Subject> {
        self.held.values().map(|held| held.reply.clone()).collect()
    }
}
