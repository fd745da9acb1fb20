//! Messages that are on their way back to the server.

use std::time::Duration;

use tokio::sync::watch;

/// How long messages may take to be handed back before others are received.
const HAND_BACK_TIMEOUT: Duration = Duration::from_secs(3);

/// Counts the messages that are being handed back.
pub(super) struct Returning(watch::Sender<usize>);

impl Default for Returning {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Returning {
    pub(super) fn begin(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    pub(super) fn end(&self) {
        self.0.send_modify(|count| *count -= 1);
    }

    /// Completes when all that was released before is back.
    pub(super) async fn done(&self) {
        let mut count = self.0.subscribe();
        let _ = tokio::time::timeout(HAND_BACK_TIMEOUT, count.wait_for(|count| *count == 0)).await;
    }
}
