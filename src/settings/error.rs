//! Faults of settings.

use std::path::PathBuf;

use super::keys::MESSAGE_BUS;
use crate::util::error::{BoxError, Chain, debug_as_display};
use crate::util::secret::redacted;

/// The reason why a bus cannot be made from settings. Each text names the file or key, and the cure.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The file cannot be read, or is neither TOML, YAML nor JSON.
    #[error("cannot read the settings in {}: {reason}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The fault of the file.
        reason: String,
    },
    /// The file has no table `MESSAGE_BUS`.
    #[error("{} has no table {MESSAGE_BUS}, {}", .path.display(), other_tables(tables, nearest.as_deref()))]
    NoTable {
        /// The file.
        path: PathBuf,
        /// The tables and keys that the file has at its top level.
        tables: Vec<String>,
        /// The one whose name resembles `MESSAGE_BUS` most.
        nearest: Option<String>,
    },
    /// An environment variable cannot be used.
    #[error("the environment variable {name} {problem}")]
    Environment {
        /// The variable.
        name: String,
        /// The fault of the variable, and the cure.
        problem: &'static str,
    },
    /// A key is unknown.
    #[error("{MESSAGE_BUS} has an unknown key {key}{}", nearest.as_ref().map(|n| format!("; did you mean {n}?")).unwrap_or_default())]
    UnknownKey {
        /// The key.
        key: String,
        /// The known key whose name resembles it most.
        nearest: Option<String>,
    },
    /// The backend is not named, although there are keys of one.
    #[error(
        "{MESSAGE_BUS} has the key {key} but no BACKEND, so messages would go nowhere: name the kind of broker, such as \
         BACKEND = \"amqp091\"; known are {known}"
    )]
    NoBackend {
        /// A key of a backend.
        key: String,
        /// The known names.
        known: String,
    },
    /// A value does not fit its key.
    #[error("a value in {MESSAGE_BUS} cannot be used: {reason}")]
    Value {
        /// Which key, and why.
        reason: String,
    },
    /// The backend is unknown.
    #[error(
        "BACKEND {name:?} is not known{}; known are {known}. A backend of your own is registered with \
         BusBuilder::with_backend", .hint.map(|hint| format!(": {hint}")).unwrap_or_default()
    )]
    UnknownBackend {
        /// The name in the settings.
        name: String,
        /// The backend that this name may mean.
        hint: Option<&'static str>,
        /// The known names.
        known: String,
    },
    /// The delivery is not compiled in.
    #[error(
        "DELIVERY {delivery:?} is not compiled in: add the feature {} to tower-outbox in Cargo.toml",
        quoted(features)
    )]
    DeliveryNotCompiled {
        /// The delivery in the settings.
        delivery: &'static str,
        /// The features of which each brings it.
        features: &'static [&'static str],
    },
    /// The outbox cannot be opened.
    #[error("cannot open the outbox of DELIVERY {delivery:?}: {reason}")]
    Outbox {
        /// The delivery in the settings.
        delivery: &'static str,
        /// Which file or table, why, and the cure.
        reason: String,
    },
    /// The consumer has no table.
    #[error("{MESSAGE_BUS} has no table CONSUMERS.{}; {}", .name.to_uppercase(), consumer_tables(known))]
    UnknownConsumer {
        /// The name that was asked for.
        name: String,
        /// The names of the tables that there are.
        known: Vec<String>,
    },
    /// The backend is not compiled in.
    #[error("BACKEND {name:?} is not compiled in: add the feature {feature:?} to tower-outbox in Cargo.toml")]
    NotCompiled {
        /// The name in the settings.
        name: String,
        /// The feature that brings it.
        feature: &'static str,
    },
    /// The backend cannot be set up.
    #[error("cannot set up BACKEND {name:?}: {reason}")]
    Backend {
        /// The name in the settings.
        name: String,
        /// Why, and the cure.
        reason: String,
    },
}

debug_as_display!(SettingsError);

impl SettingsError {
    pub(crate) fn value(source: impl Into<BoxError>) -> Self {
        Self::Value { reason: reason(source) }
    }

    #[cfg(any(feature = "embedded", feature = "_sql"))]
    pub(crate) fn outbox(delivery: &'static str, source: impl Into<BoxError>) -> Self {
        Self::Outbox { delivery, reason: reason(source) }
    }

    pub(crate) fn backend(name: &str, source: impl Into<BoxError>) -> Self {
        Self::Backend { name: name.to_owned(), reason: reason(source) }
    }
}

/// The texts of an error and its causes, without passwords.
fn reason(source: impl Into<BoxError>) -> String {
    redacted(&Chain(source.into().as_ref()).to_string())
}

fn other_tables(tables: &[String], nearest: Option<&str>) -> String {
    let add = format!("add [{MESSAGE_BUS}], or leave the file out to use the environment alone");
    match (tables, nearest) {
        ([], _) => format!("nor anything else: {add}"),
        (_, Some(nearest)) => {
            format!("only {}: rename {nearest} to {MESSAGE_BUS}", tables.join(", "))
        }
        (_, None) => format!("only {}: {add}", tables.join(", ")),
    }
}

fn quoted(features: &[&str]) -> String {
    let features: Vec<_> = features.iter().map(|feature| format!("{feature:?}")).collect();
    features.join(" or ")
}

fn consumer_tables(known: &[String]) -> String {
    match known {
        [] => "there is none: add one with the queue or address to receive from".to_owned(),
        known => {
            let known: Vec<_> =
                known.iter().map(|name| format!("CONSUMERS.{}", name.to_uppercase())).collect();
            format!("there are {}", known.join(", "))
        }
    }
}
