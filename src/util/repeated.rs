//! Log lines that repeat while a fault lasts: at once, then once a minute.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long the lines after the first are counted instead of written.
const QUIET: Duration = Duration::from_secs(60);

/// Decides which lines about a lasting fault are written.
#[derive(Debug, Default)]
pub(crate) struct Repeated(Mutex<Option<Fault>>);

#[derive(Debug)]
struct Fault {
    begun: Instant,
    written: Instant,
    /// How many times it occurred since the last line.
    count: u64,
}

/// A line to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// How many times the fault occurred since the line before.
    pub(crate) times: u64,
    /// How long it has lasted.
    pub(crate) lasts: Duration,
}

impl Repeated {
    /// Counts an occurrence of the fault; returns the line to write, if it is due.
    pub(crate) fn occurred(&self) -> Option<Line> {
        let now = Instant::now();
        let mut fault = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(fault) = &mut *fault else {
            *fault = Some(Fault { begun: now, written: now, count: 0 });
            return Some(Line { times: 1, lasts: Duration::ZERO });
        };
        fault.count += 1;
        if now.duration_since(fault.written) < QUIET {
            return None;
        }
        fault.written = now;
        let times = std::mem::take(&mut fault.count);
        Some(Line { times, lasts: now.duration_since(fault.begun) })
    }

    /// The fault is over: its next occurrence is written at once.
    pub(crate) fn over(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lasting_fault_is_written_once_a_minute_with_its_count() {
        let repeated = Repeated::default();
        let mut lines = Vec::new();
        for _ in 0..150 {
            lines.extend(repeated.occurred());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let line = |times, lasts| Line { times, lasts: Duration::from_secs(lasts) };
        assert_eq!(lines, [line(1, 0), line(60, 60), line(60, 120)]);
        repeated.over();
        assert_eq!(repeated.occurred(), Some(line(1, 0)));
    }
}
