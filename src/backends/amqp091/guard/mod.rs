//! A guard between the socket and lapin: bytes that lapin cannot parse never reach it.
//!
//! lapin parses in a thread of its own, before any code of ours. The guard walks the frames first and repairs them in
//! place: bytes that are not UTF-8 become `?`, a header that cannot be read becomes plain bytes. It records the delivery,
//! which becomes one dead letter with its reason. It discards bodies that do not fit into memory. A fault that only a broker can
//! cause, not a publisher, ends the connection with an error that names it.

mod arguments;
mod content;
mod findings;
mod frames;
mod stream;
mod table;
#[cfg(test)]
mod tests;

pub(super) use self::findings::{Finding, Findings, HeldBytes};
pub(super) use self::frames::FRAME_MAX;
#[cfg(feature = "_fuzzing")]
pub(super) use self::frames::Guard;
pub(super) use self::stream::{Guarded, GuardedRuntime, runtime};
