//! The duplicate windows of the streams that store our messages.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::Context;

use crate::util::sync::lock;

/// The most streams that are looked at.
const STREAMS: usize = 1_000;

/// Warns once of each stream that forgets the ids of messages before they may come again.
pub(super) struct Windows {
    seen: Mutex<HashSet<String>>,
    horizon: Duration,
}

impl Windows {
    pub(super) fn new(horizon: Duration) -> Arc<Self> {
        Arc::new(Self { seen: Mutex::default(), horizon })
    }

    /// Looks at the stream in a task, if it is a new one.
    pub(super) fn stored_in(self: &Arc<Self>, stream: &str, context: &Context) {
        let mut seen = lock(&self.seen);
        if seen.contains(stream) || seen.len() >= STREAMS {
            return;
        }
        seen.insert(stream.to_owned());
        drop(seen);
        let (stream, context, horizon) = (stream.to_owned(), context.clone(), self.horizon);
        tokio::spawn(async move {
            let Ok(found) = context.get_stream(&*stream).await else { return };
            let window = found.cached_info().config.duplicate_window;
            if window < horizon {
                tracing::warn!(
                    stream,
                    ?window,
                    ?horizon,
                    "a message whose confirm is lost may be stored twice: set the duplicate window of the stream to the horizon of retries or more"
                );
            }
        });
    }
}
