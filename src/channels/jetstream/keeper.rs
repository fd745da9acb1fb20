//! The task of an engine that does what is due: messages whose visibility runs out, and signs that it still has the others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::parts::EngineParts;
use crate::channels::queue_types::{Receipt, Settle, Which};
use crate::util::sync::lock;

impl EngineParts {
    /// Runs until the engine is closed.
    pub(super) async fn run_keeper(self: Arc<Self>) {
        let period = (self.settings.ack_wait / 3).min(Duration::from_secs(10));
        let mut signs = Instant::now() + period;
        loop {
            let (due, next) = lock(&self.taken).due();
            let mut by_receipt = BTreeMap::<u64, Vec<u64>>::new();
            for (receipt, sequence) in due {
                by_receipt.entry(receipt).or_default().push(sequence);
            }
            for (receipt, sequences) in by_receipt {
                self.reject_overdue(receipt, sequences);
            }
            let wake = next.map_or(signs, |next| next.min(signs));
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = self.due.notified() => {}
                () = sleep_until(wake) => {}
            }
            if Instant::now() >= signs {
                signs = Instant::now() + period;
                let shared = Arc::clone(&self);
                self.spawn(async move {
                    shared.give_signs().await;
                    shared.renew_leases().await;
                });
            }
        }
    }

    fn reject_overdue(self: &Arc<Self>, receipt: u64, sequences: Vec<u64>) {
        let Ok(settling) = lock(&self.taken).begin(Receipt(receipt), Which::Sequences(sequences)) else {
            return;
        };
        let (shared, queue) = (Arc::clone(self), settling.place.name.clone());
        self.spawn(async move {
            if let Err(error) = shared.settle_all(settling, Settle::Reject { delay: Duration::ZERO }).await {
                tracing::warn!(%queue, %error, "failed to reject messages whose visibility ran out; trying again");
            }
        });
    }

    /// Says that this engine still has its messages.
    async fn give_signs(&self) {
        let mut replies = lock(&self.taken).replies();
        lock(&self.outstanding).retain(|of_subscription| match of_subscription.upgrade() {
            Some(outstanding) => {
                replies.extend(outstanding.replies());
                true
            }
            None => false,
        });
        for reply in replies {
            if !self.connection.is_up() {
                return;
            }
            self.settle_soon(reply, b"+WPI").await;
        }
    }
}
