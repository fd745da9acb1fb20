//! Calls that use a channel, which is not removed meanwhile.

use std::sync::Arc;
use std::time::Instant;

use super::shared::EngineShared;
use super::state::ChannelState;

/// A channel, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Used {
    Queue(u32),
    Stream(u32),
}

/// A call that uses a channel, until it is dropped.
pub(super) struct Using {
    shared: Arc<EngineShared>,
    used: Used,
}

impl Using {
    /// Counts the call, under the lock.
    pub(super) fn new(shared: &Arc<EngineShared>, state: &mut ChannelState, used: Used) -> Self {
        *state.users(used).0 += 1;
        Self { shared: Arc::clone(shared), used }
    }
}

impl Drop for Using {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let (users, last) = state.users(self.used);
        *users -= 1;
        *last = Instant::now();
    }
}

impl ChannelState {
    /// Returns the number of calls that use a channel, and when it was used last.
    fn users(&mut self, used: Used) -> (&mut usize, &mut Instant) {
        match used {
            Used::Queue(index) => {
                let queue = &mut self.queues[index as usize];
                (&mut queue.users, &mut queue.used)
            }
            Used::Stream(index) => {
                let stream = &mut self.streams[index as usize];
                (&mut stream.users, &mut stream.used)
            }
        }
    }
}
