//! The log lines and spans of lapin: at ERROR, about faults that are handled and logged here, and one for each connection.

use std::future::Future;
use std::sync::LazyLock;

use async_rs::Tokio;
use async_rs::traits::Executor;
use async_rs::util::Task;
use tracing::instrument::WithSubscriber;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Subscriber;
use tracing::{Event, Level, Metadata};
use tracing_core::callsite::Callsite;
use tracing_core::span::Current;
use tracing_core::{Interest, Kind};

/// The subscriber of lapin.
static NOBODY: LazyLock<tracing::Dispatch> = LazyLock::new(|| tracing::Dispatch::new(Nobody));

/// Drops the lines of lapin's thread, from here to its end.
pub(super) fn silence() {
    if std::thread::current().name() == Some("lapin-io-loop") && !is_wanted() {
        std::mem::forget(tracing::dispatcher::set_default(&NOBODY));
    }
}

/// Runs a future of lapin without its lines.
pub(super) async fn quiet<F: Future>(future: F) -> F::Output {
    match is_wanted() {
        true => future.await,
        false => future.with_subscriber(NOBODY.clone()).await,
    }
}

/// Whether somebody looks into lapin itself, by a filter such as `info,lapin=debug`.
fn is_wanted() -> bool {
    tracing::enabled!(target: "lapin", Level::DEBUG)
}

/// Takes no line and no span.
struct Nobody;

impl Subscriber for Nobody {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        false
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}

    /// The span of lapin's thread gets the level of the span that connects, and would be a trace of its own in the app's.
    fn current_span(&self) -> Current {
        Current::new(Id::from_u64(1), &METADATA)
    }
}

static METADATA: Metadata<'static> = tracing_core::metadata! {
    name: "connect",
    target: module_path!(),
    level: Level::TRACE,
    fields: &[],
    callsite: &Connecting,
    kind: Kind::SPAN
};

/// The place of a span that nobody gets.
struct Connecting;

impl Callsite for Connecting {
    fn set_interest(&self, _: Interest) {}

    fn metadata(&self) -> &Metadata<'_> {
        &METADATA
    }
}

/// The executor of Tokio for the tasks of lapin, without their lines.
#[derive(Clone, Debug)]
pub(super) struct Quiet(pub(super) Tokio);

impl Executor for Quiet {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.0.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        future: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn(quiet(future))
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        work: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(work)
    }
}

#[cfg(test)]
mod tests {
    use tracing::Span;

    use super::*;

    #[tokio::test]
    async fn the_span_of_a_thread_of_lapin_is_at_the_lowest_level() {
        let level = quiet(async { Span::current().metadata().map(|metadata| *metadata.level()) }).await;
        assert_eq!(level, Some(Level::TRACE));
    }
}
