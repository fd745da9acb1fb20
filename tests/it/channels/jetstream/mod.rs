//! The engine on JetStream: the suite of every engine, and what several engines and servers do.
//!
//! Those that need brokers are ignored by default; `scripts/test` starts the brokers and runs all.

mod face;
mod on_their_way;
mod servers;
mod sharing;
mod strangers;
mod suite;

use std::sync::Arc;
use std::time::Duration;

use tower_outbox::channels::jetstream::{JetstreamEngine, JetstreamEngineSettings};
use tower_outbox::testing::engine_conformance::EngineHarness;

use crate::peers::{Brokers, unique};

/// The channels of one test on the shared server.
pub struct Channels {
    pub url: String,
    pub prefix: String,
}

impl Channels {
    pub fn new() -> Self {
        Self { url: Brokers::running().get("NATS1").to_owned(), prefix: unique("jet").replace('.', "-") }
    }

    pub fn settings(&self) -> JetstreamEngineSettings {
        JetstreamEngineSettings::new([&self.url]).with_prefix(&self.prefix)
    }

    pub async fn open(&self) -> JetstreamEngine {
        JetstreamEngine::open(self.settings()).await.unwrap()
    }

    pub async fn harness(&self) -> EngineHarness {
        EngineHarness::new(Arc::new(self.open().await)).with_latency(Duration::from_millis(8))
    }

    /// Deletes all streams of the test.
    pub async fn remove(self) {
        use futures_util::StreamExt;
        let context = async_nats::jetstream::new(async_nats::connect(&self.url).await.unwrap());
        let names: Vec<_> = context.stream_names().collect().await;
        for name in names {
            let name = name.unwrap();
            if name.starts_with(&self.prefix) {
                context.delete_stream(name).await.unwrap();
            }
        }
    }
}
