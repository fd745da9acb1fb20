//! The messages and the transaction of a request, until its response is decided.

use std::any::Any;

use super::transaction::{Transaction, TransactionSlot};
use crate::message::Message;

/// The state of a queue.
#[derive(Default)]
pub(super) struct QueueBuffer {
    pub(super) closed: bool,
    pub(super) bytes: usize,
    /// How many messages were enqueued, removed ones included.
    pub(super) enqueued: u32,
    pub(super) taken: Taken,
    /// How many calls of inner layers have begun.
    pub(super) calls: u32,
    /// The calls that failed.
    pub(super) failed: Vec<u32>,
    pub(super) slot: TransactionSlot,
    /// The calls that used the transaction.
    pub(super) users: Vec<u32>,
    /// Dropped when the response is decided.
    pub(super) until_decided: Vec<Box<dyn Any + Send>>,
}

/// The content of a queue that was closed.
pub(crate) struct Closed {
    pub(crate) taken: Taken,
    pub(crate) slot: TransactionSlot,
    /// Whether both a failed call and another one used the transaction.
    pub(crate) spoiled: bool,
    /// Dropped when the outcome is known.
    pub(crate) until_decided: Vec<Box<dyn Any + Send>>,
}

/// The messages of a queue.
#[derive(Default)]
pub(crate) struct Taken {
    /// All messages, in the order they were enqueued.
    pub(crate) messages: Vec<Message>,
    /// The indices of messages that are sent whatever the outcome.
    pub(crate) always: Vec<usize>,
    /// The indices of messages that are sent only if a call of an inner layer succeeds, each with its call.
    pub(super) scoped: Vec<(usize, u32)>,
}

impl QueueBuffer {
    /// Whether a call that failed used the transaction.
    fn is_spoiled(&self) -> bool {
        self.users.iter().any(|user| self.failed.contains(user))
    }

    /// Closes the queue; returns its content, if it has any.
    #[inline]
    pub(super) fn close(&mut self) -> Option<Closed> {
        self.closed = true;
        if self.taken.messages.is_empty()
            && matches!(self.slot, TransactionSlot::Empty)
            && self.until_decided.is_empty()
        {
            return None;
        }
        Some(Closed {
            spoiled: self.is_spoiled(),
            taken: std::mem::take(&mut self.taken),
            slot: std::mem::take(&mut self.slot),
            until_decided: std::mem::take(&mut self.until_decided),
        })
    }

    /// Removes a transaction that only failed calls used. The caller rolls it back; another one can be begun.
    pub(super) fn take_failed(&mut self) -> Option<Box<dyn Transaction>> {
        if self.users.is_empty() || !self.users.iter().all(|user| self.failed.contains(user)) {
            return None;
        }
        match std::mem::take(&mut self.slot) {
            TransactionSlot::Idle(transaction) => {
                self.users.clear();
                Some(transaction)
            }
            slot => {
                self.slot = slot;
                None
            }
        }
    }

    /// Removes the messages of this call, except those sent whatever the outcome.
    #[cfg(feature = "_sql")]
    pub(super) fn take_messages(&mut self, of: u32) -> Vec<Message> {
        let Taken { messages, always, scoped } = std::mem::take(&mut self.taken);
        let (mut always, mut scoped) = (always.into_iter().peekable(), scoped.into_iter().peekable());
        let (mut kept, mut taken) = (Taken::default(), Vec::with_capacity(messages.len()));
        for (index, message) in messages.into_iter().enumerate() {
            let is_always = always.next_if_eq(&index).is_some();
            let call = scoped.next_if(|(at, _)| *at == index).map_or(0, |(_, call)| call);
            if !is_always && call == of {
                taken.push(message);
                continue;
            }
            if is_always {
                kept.always.push(kept.messages.len());
            } else if call > 0 {
                kept.scoped.push((kept.messages.len(), call));
            }
            kept.messages.push(message);
        }
        self.bytes = kept.messages.iter().map(Message::size).sum();
        self.taken = kept;
        taken
    }

    /// Puts messages of this call back, before all others.
    #[cfg(feature = "_sql")]
    pub(super) fn put_back_messages(&mut self, mut messages: Vec<Message>, of: u32) {
        let before = messages.len();
        self.bytes += messages.iter().map(Message::size).sum::<usize>();
        messages.append(&mut self.taken.messages);
        self.taken.messages = messages;
        self.taken.always.iter_mut().for_each(|index| *index += before);
        self.taken.scoped.iter_mut().for_each(|(index, _)| *index += before);
        if of > 0 {
            self.taken.scoped.splice(0..0, (0..before).map(|index| (index, of)));
        }
    }
}

impl Taken {
    /// Keeps the messages that are sent whatever the outcome; returns the others.
    pub(crate) fn retain_always(&mut self) -> Vec<Message> {
        let always = std::mem::take(&mut self.always);
        let messages = std::mem::take(&mut self.messages);
        if always.is_empty() {
            return messages;
        }
        let mut always = always.into_iter().peekable();
        let (kept, others): (Vec<_>, Vec<_>) =
            messages.into_iter().enumerate().partition(|(index, _)| always.next_if_eq(index).is_some());
        self.messages = kept.into_iter().map(|(_, message)| message).collect();
        others.into_iter().map(|(_, message)| message).collect()
    }

    /// Removes the messages of a call of an inner layer; returns how many messages and bytes they were.
    pub(super) fn remove(&mut self, call: u32) -> (usize, usize) {
        let gone: Vec<usize> = self.scoped.iter().filter(|(_, of)| *of == call).map(|(at, _)| *at).collect();
        if gone.is_empty() {
            return (0, 0);
        }
        let (mut index, mut bytes) = (0, 0);
        let mut next = gone.iter().peekable();
        self.messages.retain(|message| {
            let is_sent = next.next_if(|at| **at == index).is_some();
            index += 1;
            bytes += if is_sent { message.size() } else { 0 };
            !is_sent
        });
        let moved = |at: usize| at - gone.partition_point(|gone| *gone < at);
        self.always.iter_mut().for_each(|at| *at = moved(*at));
        self.scoped.retain(|(_, of)| *of != call);
        self.scoped.iter_mut().for_each(|(at, _)| *at = moved(*at));
        (gone.len(), bytes)
    }
}
