//! Opens the store under test again and again.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::store::{Limits, Store, WhenFull};
use crate::util::error::BoxError;

type Opened = Result<Arc<dyn Store>, BoxError>;
type Open = Box<dyn Fn(Limits) -> Pin<Box<dyn Future<Output = Opened> + Send>> + Send + Sync>;

/// The abilities of a store beyond the contract; none by default.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StoreCapabilities {
    /// The store accepts [`WhenFull::DropOldest`]. A store without it refuses that setting when it is opened.
    pub drops_oldest: bool,
}

impl StoreCapabilities {
    /// Sets whether the store can drop its oldest messages when it is full.
    #[must_use]
    pub fn with_drops_oldest(mut self, drops_oldest: bool) -> Self {
        self.drops_oldest = drops_oldest;
        self
    }
}

/// A place of its own for the store under test: an empty folder, schema or file, in which the store is opened repeatedly.
pub struct StoreHarness {
    open: Open,
    limits: Limits,
    capabilities: StoreCapabilities,
}

impl StoreHarness {
    /// A harness that opens the store with `open`, which finds what the previous store left.
    ///
    /// `open` must wait until the previous store has released its files or connections.
    pub fn new<F, Fut>(capabilities: StoreCapabilities, open: F) -> Self
    where
        F: Fn(Limits) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Opened> + Send + 'static,
    {
        Self { open: Box::new(move |limits| Box::pin(open(limits))), limits: Limits::default(), capabilities }
    }

    /// Sets the limits with which the store is opened. By default [`Limits::default`].
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Returns the harness with room for so many messages, of which the oldest are dropped when it is full; `None` if
    /// the store never drops messages.
    pub fn dropping_oldest(self, max_messages: u64) -> Option<Self> {
        let mut limits = Limits::default();
        (limits.max_messages, limits.when_full) = (max_messages, WhenFull::DropOldest);
        self.capabilities.drops_oldest.then(|| self.with_limits(limits))
    }

    /// Opens the store.
    ///
    /// # Panics
    /// If it cannot be opened.
    pub async fn open(&self) -> Arc<dyn Store> {
        (self.open)(self.limits.clone())
            .await
            .unwrap_or_else(|error| panic!("the store was not opened: {error}"))
    }

    /// Opens the store again as after a killed process: the previous one is dropped, and not closed.
    ///
    /// # Panics
    /// If it cannot be opened, or another handle keeps the previous one open.
    pub async fn reopen(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        assert_eq!(Arc::strong_count(&store), 1, "another handle keeps the store open");
        drop(store);
        self.open().await
    }

    /// Opens the store again as after a shutdown in order.
    ///
    /// # Panics
    /// As [`reopen`](Self::reopen).
    pub async fn close_and_reopen(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        store.close().await;
        self.reopen(store).await
    }
}

impl fmt::Debug for StoreHarness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limits, capabilities, .. } = self;
        f.debug_struct("StoreHarness")
            .field("limits", limits)
            .field("capabilities", capabilities)
            .finish_non_exhaustive()
    }
}
