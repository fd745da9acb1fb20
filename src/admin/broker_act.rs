//! A requeue or drop in a broker's own queue of dead letters.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::source::dead_letters::{DeadLetter, DeadLetterQueue, DeadLettersError};
use crate::util::error::Chain;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verb {
    Requeue,
    Drop,
}

impl Verb {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Requeue => "requeue",
            Self::Drop => "drop",
        }
    }
}

/// The result of a requeue or drop, or of its dry run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct BrokerActed {
    pub(crate) dry_run: bool,
    pub(crate) messages: u64,
    /// Dead letters whose queue is unknown, or foreign. They stay.
    pub(crate) refused: u64,
    /// Why the operation ended early, or why the first one was refused.
    pub(crate) error: Option<String>,
    /// Whether the operation goes on.
    pub(crate) running: bool,
}

/// An operation on dead letters of a queue.
pub(super) struct BrokerAct {
    pub(super) verb: Verb,
    /// The queues that messages may go back to.
    pub(super) also: Vec<String>,
    pub(super) ids: Option<Vec<Uuid>>,
    pub(super) first: Option<u64>,
    pub(super) dry_run: bool,
    pub(super) pace: Option<Duration>,
}

/// How many messages an operation has touched; a clone is another handle.
#[derive(Clone, Default)]
pub(super) struct Progress(Arc<AtomicU64>);

impl Progress {
    pub(super) fn messages(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl BrokerAct {
    pub(super) fn progress(&self) -> Progress {
        Progress::default()
    }

    /// Does it. Messages before an error, or before the end of the process, are done; the others stay.
    pub(super) async fn run(self, mut queue: Box<dyn DeadLetterQueue>, progress: &Progress) -> BrokerActed {
        let mut acted = BrokerActed { dry_run: self.dry_run, ..BrokerActed::default() };
        if let Err(error) = self.pass(&mut *queue, progress, &mut acted).await {
            acted.error = Some(Chain(&error).to_string());
        }
        queue.close().await;
        acted.messages = progress.messages();
        acted
    }

    async fn pass(
        &self,
        queue: &mut dyn DeadLetterQueue,
        progress: &Progress,
        acted: &mut BrokerActed,
    ) -> Result<(), DeadLettersError> {
        let mut ids: HashSet<Uuid> = self.ids.iter().flatten().copied().collect();
        // Without a count the messages that come back in the meantime would be taken without end.
        let mut left = self.first.or_else(|| queue.left()).unwrap_or(u64::MAX);
        while left > 0 && (self.first.is_some() || !ids.is_empty()) {
            let Some(letter) = queue.next().await? else { break };
            left -= 1;
            if self.first.is_none() && !id(&letter).is_some_and(|id| ids.remove(&id)) {
                continue;
            }
            if self.verb == Verb::Requeue {
                match queue.target(&self.also) {
                    Ok(_) if self.dry_run => {}
                    Ok(target) => queue.requeue(target).await?,
                    // One without a target does not block the others.
                    Err(error) => {
                        acted.refused += 1;
                        acted.error.get_or_insert_with(|| error.to_string());
                        continue;
                    }
                }
            } else if !self.dry_run {
                queue.remove().await?;
            }
            progress.0.fetch_add(1, Ordering::Relaxed);
            if let Some(pace) = self.pace.filter(|_| !self.dry_run && left > 0) {
                tokio::time::sleep(pace).await;
            }
        }
        Ok(())
    }
}

fn id(letter: &DeadLetter) -> Option<Uuid> {
    letter.message.as_ref().ok().map(|message| message.id())
}
