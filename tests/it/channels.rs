//! Channels: the suite of every engine, and what is peculiar to the embedded one.

mod suite;

use std::path::Path;
use std::sync::Arc;

use tower_outbox::channels::embedded::{EmbeddedEngine, EmbeddedEngineSettings};
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
