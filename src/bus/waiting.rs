//! Waiting until messages have left.

use std::time::Duration;

use tokio::time::sleep;

use super::running::Bus;
use crate::store::StoreError;

impl Bus {
    /// Waits until nothing is in flight: no send of a request, no message in the background buffer.
    /// Messages in the outbox are not waited for.
    pub async fn flushed(&self) {
        self.layer.in_flight().wait_idle().await;
    }

    /// Waits until nothing is in flight and no pending message is in the outbox: every message was sent, or is a dead letter. While the
    /// broker is down it waits without a limit: put a timeout around it. For tests, and before an instance is removed for good.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use std::time::Duration;
    /// use tower_outbox::{Bus, Message, Settings};
    ///
    /// let folder = tempfile::tempdir()?;
    /// let mut settings: Settings = toml::from_str("BACKEND = 'memory'\nDELIVERY = 'durable'")?;
    /// settings.outbox.path = folder.path().join("outbox");
    /// let bus = Bus::start(&settings).await?;
    /// bus.messenger().send(vec![Message::json("user.created", "jo")?]).await?;
    /// tokio::time::timeout(Duration::from_secs(10), bus.drained()).await??;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] when the outbox cannot be read.
    ///
    /// # Cancel safety
    /// It may be dropped at any time.
    pub async fn drained(&self) -> Result<(), StoreError> {
        let mut pause = Duration::from_millis(5);
        loop {
            self.flushed().await;
            let Some(outbox) = &self.outbox else { return Ok(()) };
            if outbox.status().await?.counts.pending == 0 {
                return Ok(());
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}
