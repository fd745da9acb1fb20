//! A guard between the socket and lapin: what lapin cannot read never comes to it.
//!
//! lapin parses in a thread of its own, before any code of ours. The guard walks the frames first and mends them where
//! they are: bytes that are no UTF-8 become `?`, a header that cannot be read becomes plain bytes. It notes the delivery,
//! which then is one dead letter with its reason. It lets no more bodies in than there is room for. What no publisher can
//! cause, only a broker, ends the connection with an error that names it.

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
