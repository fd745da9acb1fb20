//! The embedded engine: queues and streams in one log on the local disk, events and requests in memory.
//!
//! Every change is a record of the log, and is applied to the memory when it is on disk, in the order of the log. So a start that
//! reads the log again leads to the same state. Bodies stay on disk; memory has 32 bytes for a message of a queue, and 16 for one of
//! a stream.
//!
//! | module | content |
//! |---|---|
//! | `engine` | the engine, and its administration |
//! | `settings` | its settings |
//! | `queues`, `receiving`, `deliveries`, `settling`, `taken` | its queues |
//! | `streams`, `subscription` | its streams |
//! | `live`, `hub` | its events and requests |
//! | `state`, `queue_state`, `stream_state`, `segments`, `entry` | the memory |
//! | `record`, `op`, `apply` | the records of the log, and what they do to the memory |
//! | `shared`, `using` | what handles and writer share |
//! | `writer`, `timers`, `compact`, `inactive` | the job that writes, and does what is due |
//! | `checkpoint`, `checkpoints`, `open` | the start |
//! | `read`, `clock` | reading messages, and times |

mod apply;
mod checkpoint;
mod checkpoints;
mod clock;
mod compact;
mod deliveries;
mod engine;
mod entry;
#[cfg(feature = "_fuzzing")]
pub(crate) mod fuzzing;
mod hub;
mod inactive;
mod live;
mod op;
mod open;
mod queue_state;
mod queues;
mod read;
mod receiving;
mod record;
mod segments;
mod settings;
mod settling;
mod shared;
mod state;
mod stream_state;
mod streams;
mod subscription;
mod taken;
mod timers;
mod using;
mod writer;

pub use self::engine::EmbeddedEngine;
pub use self::settings::EmbeddedEngineSettings;
