//! Between the socket and the client library: lets through only what that can decode.
//!
//! The client library (fe2o3-amqp 0.18 with serde_amqp 0.18) decodes by recursion, loses its place in some arrays, and
//! decodes a message before any code of ours sees it: 25 kB of lists in each other end the process.

mod frames;
mod held;
mod sections;
mod stream;
mod values;

pub(super) use self::frames::MAX_MESSAGE;
#[cfg(feature = "_fuzzing")]
pub(super) use self::frames::{ADDED, Frames};
pub(super) use self::held::HeldBytes;
pub(super) use self::sections::check;
pub(super) use self::stream::{Guarded, MAX_FRAME_SIZE};
