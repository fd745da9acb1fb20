//! Why an engine on JetStream could not be opened, and why a request failed.

use serde::Deserialize;

use crate::backends::brokers::BrokersError;
use crate::channels::error::EngineError;
use crate::channels::info::ChannelLimits;
use crate::util::error::debug_as_display;

/// Why an engine on JetStream could not be opened.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum JetstreamError {
    /// A setting is wrong.
    #[error(transparent)]
    Settings(BrokersError),
    /// No server could be reached.
    #[error("no connection to a NATS server: {0}")]
    NoConnection(String),
    /// The servers refused user, password, token, nkey or credentials.
    #[error(
        "the NATS server refused the connection (authorization violation): check user and password in URLS, TOKEN, NKEY_FILE or CREDENTIALS_FILE"
    )]
    Unauthorized,
    /// The server is older than NATS 2.12.
    #[error("channels need NATS 2.12 or newer, and the server is {0}: upgrade it")]
    TooOld(String),
    /// JetStream is off, or the streams of the engine cannot be made.
    #[error("JetStream cannot be used: {0}")]
    NoJetstream(String),
}

debug_as_display!(JetstreamError);

/// The error of JetStream.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Refusal {
    pub(super) code: u64,
    #[serde(default)]
    pub(super) err_code: u64,
    #[serde(default)]
    pub(super) description: String,
}

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// Nothing takes the subject now.
    NoResponders,
    /// JetStream refused it.
    Refused(Refusal),
    Engine(EngineError),
}

impl Fault {
    /// Whether a stream or consumer does not exist.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Refused(Refusal { code: 404, .. }))
    }

    /// Whether a stream of this name exists with another configuration.
    pub(super) fn is_taken(&self) -> bool {
        matches!(self, Self::Refused(Refusal { err_code: 10_058, .. }))
    }

    /// Whether a message that was to be deleted does not exist.
    pub(super) fn is_gone(&self) -> bool {
        let Self::Refused(refusal) = self else { return false };
        match refusal.err_code {
            10_043 => true,
            // The error of the store.
            10_057 => {
                ["no message found", "deleted message", "stream store EOF"].contains(&&*refusal.description)
            }
            _ => self.is_missing(),
        }
    }

    /// Whether a message is not there any more as it was.
    pub(super) fn is_outdated(&self) -> bool {
        matches!(self, Self::Refused(Refusal { err_code: 10_071 | 10_164, .. }))
    }

    /// Whether JetStream elects a leader, or starts, or there is no connection.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::NoResponders => true,
            Self::Refused(refusal) => refusal.code == 503,
            Self::Engine(error) => matches!(error, EngineError::Unavailable(_)),
        }
    }

    /// The error of a message for this channel.
    pub(super) fn of_channel(self, what: &dyn std::fmt::Display, limits: ChannelLimits) -> EngineError {
        let full = |limit: Option<u64>, setting| EngineError::Full {
            what: what.to_string(),
            limit: limit.unwrap_or_default(),
            setting,
        };
        match self {
            Self::NoResponders => EngineError::unavailable(format!("{what} has no leader on NATS now")),
            Self::Refused(refusal) if refusal.description.contains("maximum messages exceeded") => {
                full(limits.max_messages, "max_messages of the channel")
            }
            Self::Refused(refusal) if refusal.description.contains("maximum bytes exceeded") => {
                full(limits.max_bytes, "max_bytes of the channel")
            }
            Self::Refused(refusal) => {
                EngineError::unavailable(format!("NATS refuses it for {what}: {}", refusal.description))
            }
            Self::Engine(error) => error,
        }
    }
}

impl From<EngineError> for Fault {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}
