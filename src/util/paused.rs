//! The paused clocks of tests.

use std::sync::mpsc;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::spawn_blocking;

/// Keeps the clock of a test from running ahead for as long as this lives.
///
/// A paused clock of tokio jumps to the next timer when all tasks wait, unless blocking work is under way. It does not see the work of
/// threads that are not tokio's, so the timeouts of a test would pass meanwhile.
#[derive(Debug)]
pub(crate) struct HeldClock(
    #[expect(dead_code, reason = "dropping it ends the work")] Option<mpsc::Sender<()>>,
);

/// Holds the clock. Only a runtime of one thread has one that can be paused.
pub(crate) fn hold_clock() -> HeldClock {
    let runtime = Handle::try_current().ok();
    let can_be_paused = |runtime: &Handle| runtime.runtime_flavor() == RuntimeFlavor::CurrentThread;
    HeldClock(runtime.filter(can_be_paused).map(|_| {
        let (held, work) = mpsc::channel();
        spawn_blocking(move || work.recv());
        held
    }))
}
