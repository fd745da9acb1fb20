//! The consumers that may have delivered what cannot be read.

use std::collections::BTreeSet;
use std::sync::Mutex;

use tokio::sync::Notify;

use crate::util::sync::lock;

/// A stream and a consumer.
pub(super) type Suspect = (String, String);

/// The consumers whose request for messages ended with the connection.
#[derive(Default)]
pub(super) struct Suspects {
    places: Mutex<BTreeSet<Suspect>>,
    added: Notify,
}

impl Suspects {
    pub(super) fn add(&self, place: &Suspect) {
        lock(&self.places).insert(place.clone());
        self.added.notify_one();
    }

    /// Takes all, for which it waits.
    pub(super) async fn take(&self) -> BTreeSet<Suspect> {
        self.added.notified().await;
        std::mem::take(&mut lock(&self.places))
    }
}
