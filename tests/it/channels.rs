//! Channels: the suite of every engine, and what is peculiar to the embedded one.

pub(crate) mod crash;
mod damage;
mod inactive;
pub(crate) mod jetstream;
mod messenger;
mod model;
mod suite;

use std::path::Path;
use std::sync::Arc;

use tower_outbox::channels::embedded::{EmbeddedEngine, EmbeddedEngineSettings};
use tower_outbox::channels::{ChannelName, Content, Policy, QueueMessage};
use tower_outbox::testing::engine_conformance::EngineHarness;

async fn embedded() -> EngineHarness {
    let folder = tempfile::tempdir().unwrap();
    EngineHarness::new(Arc::new(open(folder.path()).await)).with_kept(folder)
}

/// Opens the engine in this folder, with files of 64 KiB.
async fn open(folder: &Path) -> EmbeddedEngine {
    let settings = EmbeddedEngineSettings::new(folder.join("channels")).with_segment_bytes(64 << 10);
    EmbeddedEngine::open(settings).await.unwrap()
}

fn name(name: &str) -> ChannelName {
    ChannelName::new(name).unwrap()
}

fn content(body: impl Into<bytes::Bytes>) -> Content {
    Content { body: body.into(), ..Content::default() }
}

fn message(body: impl Into<bytes::Bytes>) -> QueueMessage {
    QueueMessage { content: content(body), policy: Policy::default() }
}
