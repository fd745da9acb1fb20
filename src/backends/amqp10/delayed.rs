//! Deliveries that stay here for a while before they are given back.

use std::collections::BTreeMap;
use std::time::Duration;

use fe2o3_amqp::link::delivery::DeliveryInfo;
use fe2o3_amqp::link::receiver::TerminalDeliveryState;
use tokio::time::{Instant, sleep_until};

use crate::util::deadline;

/// A delivery, what the broker is told of it when its time has come, and the record of its failed attempts.
pub(super) type DelayedDelivery = (DeliveryInfo, TerminalDeliveryState, Option<u64>);

/// Brokers give a message again at once. Unsettled, it stays theirs, and comes again when this process dies.
#[derive(Default)]
pub(super) struct Delayed {
    by_due: BTreeMap<(Instant, u64), DelayedDelivery>,
    number: u64,
}

impl Delayed {
    pub(super) fn insert(&mut self, after: Duration, held: DelayedDelivery) {
        let now = Instant::now();
        self.number += 1;
        self.by_due.insert((deadline::after(now, after), self.number), held);
    }

    /// The next one, whenever it is due.
    pub(super) fn pop(&mut self) -> Option<DelayedDelivery> {
        self.by_due.pop_first().map(|(_, waiting)| waiting)
    }

    pub(super) fn pop_due(&mut self) -> Option<DelayedDelivery> {
        self.due().filter(|due| *due <= Instant::now()).and_then(|_| self.pop())
    }

    /// Completes when one is due; never, when none waits.
    pub(super) fn wait(&self) -> impl Future<Output = ()> + use<> {
        let due = self.due();
        async move {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_due.len()
    }

    fn due(&self) -> Option<Instant> {
        self.by_due.first_key_value().map(|((due, _), _)| *due)
    }
}
