//! Why a command did not do its work.

use std::fmt::Display;
use std::io;

use crate::util::error::Chain;

/// What a person reads, and what a script gets.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: u8,
    /// None when all is said already.
    pub(super) message: Option<String>,
}

impl Failure {
    /// It failed, or a check found something.
    pub(super) fn failed(message: impl Display) -> Self {
        Self { code: 1, message: Some(message.to_string()) }
    }

    /// There is no such thing.
    pub(super) fn not_found(message: impl Display) -> Self {
        Self { code: 3, message: Some(message.to_string()) }
    }

    /// The store is in use, or the app cannot be reached.
    pub(super) fn unreachable(message: impl Display) -> Self {
        Self { code: 4, message: Some(message.to_string()) }
    }

    /// As [`failed`](Self::failed), where all is said already.
    pub(super) fn said() -> Self {
        Self { code: 1, message: None }
    }

    /// Somebody has stopped to read, as `head` does: that is no failure.
    pub(super) fn stdout(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self { code: 0, message: None },
            _ => Self::failed(format!("cannot write to stdout: {error}")),
        }
    }

    pub(super) fn error(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::failed(Chain(error))
    }
}
