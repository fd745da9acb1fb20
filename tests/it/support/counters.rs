//! The counts of this crate.

use std::collections::BTreeMap;
use std::future::Future;

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tokio::runtime::{Builder, Runtime};

/// `name` or `name{label}` to the count, or the number of samples.
pub type Counts = BTreeMap<String, u64>;

/// The counts while this runs, on a paused clock.
pub fn counted(test: impl Future<Output = ()>) -> Counts {
    counted_on(Builder::new_current_thread().enable_all().start_paused(true).build().unwrap(), test)
}

/// The counts while this runs, on the clock of the wall.
pub fn counted_meanwhile(test: impl Future<Output = ()>) -> Counts {
    counted_on(Builder::new_current_thread().enable_all().build().unwrap(), test)
}

/// Everything runs on this thread, which alone has this recorder; the runtime is dropped before the end.
fn counted_on(runtime: Runtime, test: impl Future<Output = ()>) -> Counts {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, move || runtime.block_on(test));
    let metrics = snapshotter.snapshot().into_vec().into_iter();
    let count = |(key, _, _, value): (metrics_util::CompositeKey, _, _, _)| {
        let key = key.key();
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let name = key.name().strip_prefix("tower_outbox_")?.to_owned();
        let name = if labels.is_empty() { name } else { format!("{name}{{{}}}", labels.join(",")) };
        match value {
            // Counters that are zero at the start.
            DebugValue::Counter(0) => None,
            DebugValue::Counter(count) => Some((name, count)),
            DebugValue::Histogram(samples) => Some((name, samples.len() as u64)),
            DebugValue::Gauge(_) => None,
        }
    };
    metrics.filter_map(count).collect()
}

pub fn expect<const N: usize>(counts: [(&str, u64); N]) -> Counts {
    counts.map(|(name, count)| (name.to_owned(), count)).into()
}
