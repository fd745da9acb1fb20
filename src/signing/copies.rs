//! The memory of handled messages, to detect copies of them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use async_trait::async_trait;

use super::verifier::Signature;
use crate::message::Settlement;
use crate::source::{Settle, SourceError, Unsettled};
use crate::telemetry;
use crate::util::sync::lock;

type Digest = [u8; 16];

/// Remembers the signatures of handled messages until they are too old, at most a number of them. A message that is sent again
/// has a new signature, so only copies of one sending are detected: by the broker, or by a stranger.
pub(super) struct Copies {
    remembered: Mutex<Remembered>,
    most: usize,
}

#[derive(Default)]
struct Remembered {
    handled: HashSet<Digest>,
    /// The same in the order in which they were handled, with the time from which they need not be remembered.
    order: VecDeque<(Digest, Option<SystemTime>)>,
    /// Messages that are being handled, and copies that wait for the outcome.
    handling: HashMap<Digest, Vec<Unsettled>>,
}

impl Copies {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { remembered: Mutex::default(), most })
    }

    /// Returns the message if it must be handled. A copy of a handled message is acknowledged. A copy of a message that is being
    /// handled waits: it is acknowledged if that succeeds, and released otherwise.
    pub(super) fn pass(self: &Arc<Self>, message: Unsettled, signature: Signature) -> Option<Unsettled> {
        let digest = signature.digest;
        let mut remembered = lock(&self.remembered);
        if remembered.handled.contains(&digest) {
            drop(remembered);
            acknowledge(message);
            return None;
        }
        if let Some(copies) = remembered.handling.get_mut(&digest) {
            copies.push(message);
            return None;
        }
        remembered.handling.insert(digest, Vec::new());
        drop(remembered);
        let copies = Arc::clone(self);
        Some(message.settled_by(|inner| SettleOnce { inner, handling: Handling { copies, signature } }))
    }

    fn handled(&self, Signature { digest, too_old_at }: Signature) {
        let mut remembered = lock(&self.remembered);
        let copies = remembered.handling.remove(&digest).unwrap_or_default();
        remembered.handled.insert(digest);
        remembered.order.push_back((digest, too_old_at));
        let now = SystemTime::now();
        while let Some((oldest, too_old_at)) = remembered.order.front().copied() {
            let is_old = too_old_at.is_some_and(|at| at < now);
            if !is_old && remembered.order.len() <= self.most {
                break;
            }
            if !is_old {
                telemetry::signature("forgotten");
            }
            remembered.handled.remove(&oldest);
            remembered.order.pop_front();
        }
        drop(remembered);
        copies.into_iter().for_each(acknowledge);
    }

    /// The attempt failed, or its outcome is not known: copies are released as they are dropped.
    fn not_handled(&self, digest: Digest) {
        let copies = lock(&self.remembered).handling.remove(&digest);
        drop(copies);
    }
}

fn acknowledge(copy: Unsettled) {
    if let Ok(view) = copy.view() {
        telemetry::copy_received(view.message(), view.source());
    }
    // Not awaited, so that a dropped `receive` loses no other message. If it fails, the copy comes again.
    tokio::spawn(copy.ack());
}

struct SettleOnce {
    inner: Unsettled,
    handling: Handling,
}

/// Ends the handling of a message, also when it is dropped.
struct Handling {
    copies: Arc<Copies>,
    signature: Signature,
}

impl Drop for Handling {
    fn drop(&mut self) {
        self.copies.not_handled(self.signature.digest);
    }
}

#[async_trait]
impl Settle for SettleOnce {
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), SourceError> {
        let Self { inner, handling } = *self;
        if matches!(settlement, Settlement::Ack | Settlement::Discard) {
            handling.copies.handled(handling.signature);
        }
        // Before the message can come back.
        drop(handling);
        Box::new(inner).settle(settlement).await
    }

    fn is_stale(&self) -> bool {
        self.inner.is_stale()
    }
}
