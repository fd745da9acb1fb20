//! The health of the broker for routes that must not wait for it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::messenger::{Health, Messenger};
use crate::util::sync::lock;

/// For how long an answer is used.
const FRESH: Duration = Duration::from_secs(2);

/// Asks a messenger for its health, one question at a time.
#[derive(Clone)]
pub(super) struct HealthProbe {
    messenger: Arc<dyn Messenger>,
    last: Arc<Mutex<Last>>,
}

#[derive(Default)]
struct Last {
    answer: Option<(Instant, Health)>,
    asking: bool,
}

impl HealthProbe {
    pub(super) fn new(messenger: Arc<dyn Messenger>) -> Self {
        Self { messenger, last: Arc::default() }
    }

    /// Returns the health, or the answer before if there is no new one within `wait`.
    pub(super) async fn within(&self, wait: Duration) -> Option<Health> {
        let mut asked = None;
        {
            let mut last = lock(&self.last);
            let is_fresh = last.answer.as_ref().is_some_and(|(at, _)| at.elapsed() < FRESH);
            if !is_fresh && !last.asking {
                last.asking = true;
                asked = Some(tokio::spawn(self.clone().ask()));
            }
        }
        if let Some(asked) = asked {
            let _ = timeout(wait, asked).await;
        }
        lock(&self.last).answer.as_ref().map(|(_, health)| health.clone())
    }

    async fn ask(self) {
        /// Lets the next question be asked, also after a panic of the messenger.
        struct Asking(Arc<Mutex<Last>>);
        impl Drop for Asking {
            fn drop(&mut self) {
                lock(&self.0).asking = false;
            }
        }
        let asking = Asking(Arc::clone(&self.last));
        let health = self.messenger.health().await;
        lock(&asking.0).answer = Some((Instant::now(), health));
    }
}
