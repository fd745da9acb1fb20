//! The demand of the owner of a source, for the task that connects to the brokers.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::connection::ConnectionEnded;
use crate::messenger::Failure;
use crate::util::backoff::Backoff;

/// The shortest pause after an error that would come again at once.
const ERROR_PAUSE: Duration = Duration::from_secs(1);
/// A connection that lasted this long resets the backoff.
const LIVED: Duration = Duration::from_secs(5);

/// The state that the owner of a source requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    Messages,
    Pause,
    Close,
}

impl Demand {
    /// Ends a pause.
    pub(crate) fn resume(sender: &watch::Sender<Self>) {
        Self::replace(sender, Self::Pause, Self::Messages);
    }

    /// Begins a pause, unless the source is closed.
    pub(crate) fn pause(sender: &watch::Sender<Self>) {
        Self::replace(sender, Self::Messages, Self::Pause);
    }

    fn replace(sender: &watch::Sender<Self>, from: Self, to: Self) {
        sender.send_if_modified(|demand| {
            let is_replaced = *demand == from;
            if is_replaced {
                *demand = to;
            }
            is_replaced
        });
    }

    /// Waits while the source is paused. Returns whether messages are wanted; if not, the source is closed or dropped.
    #[cfg(any(feature = "amqp10", feature = "kafka", feature = "kubemq-client", feature = "mqtt"))]
    pub(crate) async fn is_wanted(receiver: &mut watch::Receiver<Self>) -> bool {
        loop {
            let demand = *receiver.borrow_and_update();
            if demand == Self::Close || receiver.has_changed().is_err() {
                return false;
            }
            if demand == Self::Messages {
                return true;
            }
            let _ = receiver.changed().await;
        }
    }
}

/// The pauses of a source between two connections.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    failures: u32,
}

impl Pauses {
    /// Records how long a connection lasted. Returns whether it worked for a while.
    pub(crate) fn lasted(&mut self, lasted: Duration) -> bool {
        let has_worked = lasted > LIVED;
        if has_worked {
            self.failures = 0;
        }
        has_worked
    }

    /// Pauses after a failure, or until the demand changes.
    pub(crate) async fn after(&mut self, failure: &Failure, demand: &mut watch::Receiver<Demand>) {
        let pause = Backoff::default().delay(self.failures);
        self.failures = self.failures.saturating_add(1);
        let comes_again = !failure.is_transient() || failure.cause().is::<ConnectionEnded>();
        let least = if comes_again { ERROR_PAUSE } else { Duration::ZERO };
        tokio::select! {
            () = sleep(pause.max(least)) => {}
            _ = demand.changed() => {}
        }
    }
}
