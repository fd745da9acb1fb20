//! Faults of a command.

use std::fmt::Display;
use std::io;

use crate::util::error::Chain;

/// The text for people and the exit code for scripts.
#[derive(Debug)]
pub(super) struct CliError {
    pub(super) code: u8,
    /// `None` when the output names the fault already.
    pub(super) message: Option<String>,
}

impl CliError {
    /// Exit code 1: the command failed, or a check found a fault.
    pub(super) fn failed(message: impl Display) -> Self {
        Self { code: 1, message: Some(message.to_string()) }
    }

    /// Exit code 3: the message, outbox or queue does not exist.
    pub(super) fn not_found(message: impl Display) -> Self {
        Self { code: 3, message: Some(message.to_string()) }
    }

    /// Exit code 4: the outbox is in use, or the app cannot be reached.
    pub(super) fn unreachable(message: impl Display) -> Self {
        Self { code: 4, message: Some(message.to_string()) }
    }

    /// Exit code 1 without a text: the output names the fault already.
    pub(super) fn silent() -> Self {
        Self { code: 1, message: None }
    }

    /// A reader that stops early, as `head` does, is no fault.
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
