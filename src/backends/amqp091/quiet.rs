//! The log lines of lapin: at ERROR, about faults that are handled and logged here.

use std::future::Future;

use async_rs::Tokio;
use async_rs::traits::Executor;
use async_rs::util::Task;
use tracing::Level;
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;

/// Drops the lines of lapin's thread, from here to its end.
pub(super) fn silence() {
    if std::thread::current().name() == Some("lapin-io-loop") && !is_wanted() {
        std::mem::forget(tracing::subscriber::set_default(NoSubscriber::default()));
    }
}

/// Whether somebody looks into lapin itself, by a filter such as `info,lapin=debug`.
fn is_wanted() -> bool {
    tracing::enabled!(target: "lapin", Level::DEBUG)
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
        match is_wanted() {
            true => self.0.spawn(future),
            false => self.0.spawn(future.with_subscriber(NoSubscriber::default())),
        }
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        work: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(work)
    }
}
