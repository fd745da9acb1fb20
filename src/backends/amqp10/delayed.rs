//! Deliveries that are returned to the broker after a delay.

use std::collections::BTreeMap;
use std::time::Duration;

use fe2o3_amqp::link::delivery::DeliveryInfo;
use fe2o3_amqp::link::receiver::TerminalDeliveryState;
use tokio::time::{Instant, sleep_until};

use crate::util::deadline;

/// A delivery, its outcome once it is due, and the record of its failed attempts.
pub(super) type DelayedDelivery = (DeliveryInfo, TerminalDeliveryState, Option<u64>);

/// Delayed deliveries. They stay unsettled, so the broker delivers them again if this process dies.
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

    /// Takes the next one, due or not.
    pub(super) fn pop(&mut self) -> Option<DelayedDelivery> {
        self.by_due.pop_first().map(|(_, waiting)| waiting)
    }

    pub(super) fn pop_due(&mut self) -> Option<DelayedDelivery> {
        self.due().filter(|due| *due <= Instant::now()).and_then(|_| self.pop())
    }

    /// Completes when a delivery is due; never, if there is none.
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
