//! Counters of a router since its start.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: Counter,)*
        }

        /// The counters of a router since its start, and its present depth.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct RouterCounts {
            $($(#[$doc])* pub $name: u64,)*
            /// The number of queues now.
            pub queues: u64,
            /// The number of queues with a subscriber now.
            pub subscribers: u64,
            /// The number of messages in queues now; one in three queues counts three times.
            pub queued: u64,
            /// The size of the stored messages now, in bytes.
            pub queued_bytes: u64,
        }

        impl Counters {
            pub(super) fn read(&self) -> RouterCounts {
                RouterCounts { $($name: self.$name.0.load(Ordering::Relaxed),)* ..RouterCounts::default() }
            }
        }
    };
}

counters! {
    /// Messages that were published at this router.
    published,
    /// Messages that were put into queues.
    enqueued,
    /// Messages that left queues because they were handled.
    committed,
    /// Messages that queues dropped: over a limit, or with their expired queue.
    dropped,
    /// Messages that were kept as last values.
    persisted,
    /// Last values that were read.
    queried,
    /// Messages that were damaged on the disk.
    damaged,
    /// Messages that the designated router has confirmed.
    upstream,
    /// Messages that came from the designated router.
    downstream,
    /// Messages that the designated router refused for good.
    refused,
    /// Messages of other routers that were dropped because their signature is missing or does not fit.
    forged,
    /// Failures of links to other routers.
    peer_errors,
}

#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }
}
