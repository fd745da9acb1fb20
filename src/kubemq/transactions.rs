//! The transactions of one downstream.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use super::access::{Caller, Right};
use super::check;
use super::counters::Counters;
use super::face::Face;
use super::fault::{self, Refusal};
use super::limits;
use crate::channels::{ChannelKind, Engine, EngineError, Receipt, Settle, Which};

/// The settlement of messages of a transaction.
pub(super) enum Operation {
    Ack,
    Nack,
    /// To the queue of this name, which is not checked yet.
    Requeue(String),
}

impl Operation {
    /// The word of the real server's texts.
    fn word(&self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Nack => "nack",
            Self::Requeue(_) => "requeue",
        }
    }
}

/// The transactions of one downstream: open ones, and some of those that are closed. Dropping it gives back what they hold.
pub(super) struct Transactions {
    engine: Arc<dyn Engine>,
    open: HashMap<String, Open>,
    closed: VecDeque<String>,
    counters: Arc<Counters>,
}

struct Open {
    receipt: Receipt,
    /// How many messages it holds.
    held: usize,
}

impl Transactions {
    pub(super) fn new(face: &Face) -> Self {
        let (engine, counters) = (Arc::clone(&face.engine), Arc::clone(&face.counters));
        Self { engine, open: HashMap::new(), closed: VecDeque::new(), counters }
    }

    pub(super) fn new_id(&self) -> String {
        uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string()
    }

    pub(super) fn check_room(&self) -> Result<(), Refusal> {
        if self.open.len() >= limits::TRANSACTIONS {
            self.counters.limits.add();
            return Err(Refusal::Limit(format!(
                "too many open transactions: a stream may have {}",
                limits::TRANSACTIONS
            )));
        }
        Ok(())
    }

    /// Remembers a new transaction, which is closed if it has no receipt.
    pub(super) fn opened(&mut self, id: &str, receipt: Option<Receipt>, held: usize) {
        match receipt {
            Some(receipt) => {
                self.open.insert(id.to_owned(), Open { receipt, held });
                self.counters.transactions.add();
            }
            None => self.remember(id),
        }
    }

    pub(super) fn knows(&self, id: &str) -> bool {
        self.open.contains_key(id) || self.closed.iter().any(|closed| closed == id)
    }

    fn remember(&mut self, id: &str) {
        if self.closed.len() >= limits::CLOSED {
            self.closed.pop_front();
        }
        self.closed.push_back(id.to_owned());
    }

    fn settled(&mut self, id: &str, messages: usize) {
        let Some(open) = self.open.get_mut(id) else { return };
        open.held = open.held.saturating_sub(messages);
        if open.held == 0 {
            self.open.remove(id);
            self.counters.transactions.take(1);
            self.remember(id);
        }
    }

    /// Returns the sequences that a transaction holds.
    pub(super) async fn offsets(&mut self, id: &str) -> Result<Vec<i64>, String> {
        let closed = || fault::OFFSETS_CLOSED.to_owned();
        let receipt = self.open.get(id).ok_or_else(closed)?.receipt;
        match self.engine.held(receipt).await {
            Ok(held) => {
                Ok(held.into_iter().map(|sequence| i64::try_from(sequence).unwrap_or(i64::MAX)).collect())
            }
            Err(EngineError::UnknownReceipt(_)) => Err(closed()),
            Err(error) => Err(Refusal::from(error).to_string()),
        }
    }

    /// Gives back what a transaction holds. A closed one stays closed.
    pub(super) async fn close(&mut self, id: &str) {
        let Some(Open { receipt, held }) = self.open.get(id) else { return };
        let (receipt, held) = (*receipt, *held);
        if self.engine.settle(receipt, Which::All, Settle::Release).await.is_err() {
            self.engine.release(receipt);
        }
        self.settled(id, held);
    }

    /// Settles all messages of a transaction, or those of a list.
    pub(super) async fn operate(
        &mut self,
        caller: &Caller,
        id: &str,
        operation: Operation,
        list: Option<Vec<i64>>,
    ) -> Result<(), String> {
        let word = operation.word();
        let closed = || match (&operation, &list) {
            // The real server's slip.
            (Operation::Requeue(_), None) => "cannot ack messages with closed response ".to_owned(),
            _ => format!("cannot {word} messages with closed response "),
        };
        let Some(Open { receipt, held }) = self.open.get(id) else { return Err(closed()) };
        let (receipt, held) = (*receipt, *held);
        let settle = match &operation {
            Operation::Ack => Settle::Ack,
            Operation::Nack => Settle::Reject { delay: std::time::Duration::ZERO },
            Operation::Requeue(to) if to.is_empty() => return Err(fault::NO_DESTINATION.to_owned()),
            Operation::Requeue(to) => match destination(caller, to) {
                Ok(to) => Settle::Requeue { to },
                Err(refusal) => {
                    let first = match list.as_deref() {
                        Some([first, ..]) => *first,
                        Some([]) | None => self.first(receipt).await,
                    };
                    return Err(format!("re-queue message with seq {first} failed, {refusal}"));
                }
            },
        };
        // The text of the real server for a sequence that is not in the transaction.
        let wrong = if matches!(operation, Operation::Nack) { "nack" } else { "ack" };
        let (which, negative) = match &list {
            None => (Which::All, None),
            Some(list) if list.is_empty() => return Err(format!("cannot {word} empty list of of offsets")),
            Some(list) => {
                let valid: Vec<u64> =
                    list.iter().map_while(|sequence| u64::try_from(*sequence).ok()).collect();
                let negative = list.get(valid.len()).copied();
                (Which::Sequences(valid), negative)
            }
        };
        if which != Which::Sequences(Vec::new()) {
            match self.engine.settle(receipt, which, settle).await {
                Ok(settled) => self.settled(id, usize::try_from(settled).unwrap_or(usize::MAX)),
                Err(EngineError::UnknownReceipt(_)) => {
                    self.settled(id, held);
                    return Err(closed());
                }
                Err(EngineError::NotHeld { sequence, .. }) => {
                    // The messages before it are settled.
                    let left = self.engine.held(receipt).await.map_or(0, |left| left.len());
                    self.settled(id, held.saturating_sub(left));
                    return Err(format!("invalid {wrong} sequence id {sequence}"));
                }
                Err(error) => return Err(Refusal::from(error).to_string()),
            }
        }
        match negative {
            Some(negative) => Err(format!("invalid {wrong} sequence id {negative}")),
            None => Ok(()),
        }
    }

    async fn first(&self, receipt: Receipt) -> i64 {
        let held = self.engine.held(receipt).await.unwrap_or_default();
        held.first().and_then(|first| i64::try_from(*first).ok()).unwrap_or_default()
    }
}

fn destination(caller: &Caller, name: &str) -> Result<crate::channels::ChannelName, Refusal> {
    let to = check::queue(name)?;
    caller.may(Right::Write, ChannelKind::Queue, name)?;
    Ok(to)
}

impl Drop for Transactions {
    fn drop(&mut self) {
        for open in self.open.values() {
            self.engine.release(open.receipt);
        }
        self.counters.transactions.take(self.open.len() as u64);
    }
}

impl fmt::Debug for Transactions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transactions").field("open", &self.open.len()).finish_non_exhaustive()
    }
}
