//! From the table `SIGNING` to a messenger that signs and sources that verify.

use std::sync::Arc;

#[cfg(all(feature = "_sql", feature = "cli"))]
use super::database::Database;
use crate::messenger::Messenger;
use crate::settings::{Settings, SettingsError};
#[cfg(feature = "_brokers")]
use crate::signing::SignatureFormat;
#[cfg(feature = "_sql")]
use crate::signing::TrustedTable;
use crate::signing::{Signer, Signing, SigningSettings, Trusted, Verifier, Verifying};
use crate::source::Source;

/// The messenger of the backend, which signs if there is a key.
pub(super) fn signed(
    messenger: Arc<dyn Messenger>,
    settings: &Settings,
) -> Result<Arc<dyn Messenger>, SettingsError> {
    let Some(signing) = &settings.signing else { return Ok(messenger) };
    check_envelope(settings, signing)?;
    if signing.key.is_none() {
        check_key(signing)?;
        tracing::warn!("SIGNING has no KEY; messages are sent without signatures");
        return Ok(messenger);
    }
    #[cfg(feature = "_brokers")]
    let signing =
        &SigningSettings { event_source: settings.backend_keys.text("event_source"), ..signing.clone() };
    let signer = Signer::new(signing).map_err(SettingsError::value)?;
    tracing::info!(origin = signer.origin(), "signing messages");
    Ok(Arc::new(Signing::new(messenger, signer)))
}

/// The table of trusted keys.
#[cfg(feature = "_sql")]
type Table = TrustedTable;
/// There is no database, so no table.
#[cfg(not(feature = "_sql"))]
type Table = crate::signing::TrustedFolder;

/// Verifies the messages of all consumers of a bus with the same keys.
pub(super) enum Verification {
    /// There is no table `SIGNING`.
    Off,
    /// The table has no keys to verify with.
    NoKeys,
    On(Verifier),
}

impl Verification {
    /// Opens the trusted keys. `table` opens those in the database.
    pub(super) async fn new(
        settings: &Settings,
        table: impl Future<Output = Result<Table, SettingsError>>,
    ) -> Result<Self, SettingsError> {
        let Some(signing) = &settings.signing else { return Ok(Self::Off) };
        let verifier = match signing.trusted {
            None => return Ok(Self::NoKeys),
            Some(Trusted::Database) => Verifier::with_keys(table.await?, signing),
            Some(_) => Verifier::new(signing),
        };
        verifier.map(Self::On).map_err(SettingsError::value)
    }

    pub(super) fn verifying(
        &self,
        source: Arc<dyn Source>,
        user: &str,
    ) -> Result<Arc<dyn Source>, SettingsError> {
        match self {
            Self::Off => Ok(source),
            Self::On(verifier) => Ok(Arc::new(Verifying::new(source, verifier.clone()))),
            Self::NoKeys => Err(SettingsError::value(format!(
                "SIGNING has no TRUSTED, so {user} cannot verify messages: name the folder of the public keys, or \"database\""
            ))),
        }
    }
}

/// Opens the table of trusted keys in the database of the settings.
#[cfg(all(feature = "_sql", feature = "cli"))]
pub(crate) async fn trusted_table(settings: &Settings) -> Result<TrustedTable, SettingsError> {
    Database::connect(&settings.outbox).await?.trusted_keys(&settings.outbox).await
}

/// The format `mqfactory` writes its envelope itself, and `dssematerial` is of events.
#[cfg(feature = "_brokers")]
fn check_envelope(settings: &Settings, signing: &SigningSettings) -> Result<(), SettingsError> {
    let envelope = settings.backend_keys.text("envelope").filter(|name| !name.eq_ignore_ascii_case("plain"));
    match envelope {
        Some(envelope) if signing.format == SignatureFormat::Mqfactory => Err(SettingsError::value(format!(
            "ENVELOPE is {envelope:?}, but SIGNING.FORMAT \"mqfactory\" writes the envelope itself: remove ENVELOPE"
        ))),
        envelope
            if signing.format == SignatureFormat::Dssematerial
                && !envelope.as_deref().is_some_and(is_event) =>
        {
            Err(SettingsError::value(
                "SIGNING.FORMAT \"dssematerial\" is for CloudEvents: set ENVELOPE = \"cloudevents\", or FORMAT = \"dsse\"",
            ))
        }
        _ => Ok(()),
    }
}

#[cfg(feature = "_brokers")]
fn is_event(envelope: &str) -> bool {
    envelope.to_lowercase().starts_with("cloudevents")
}

#[cfg(feature = "_brokers")]
fn check_key(signing: &SigningSettings) -> Result<(), SettingsError> {
    match signing.format {
        SignatureFormat::Mqfactory => Err(SettingsError::value(
            "SIGNING.FORMAT \"mqfactory\" needs SIGNING.KEY, also to write its envelope",
        )),
        _ => Ok(()),
    }
}

#[cfg(not(feature = "_brokers"))]
fn check_key(_: &SigningSettings) -> Result<(), SettingsError> {
    Ok(())
}

#[cfg(not(feature = "_brokers"))]
fn check_envelope(_: &Settings, _: &SigningSettings) -> Result<(), SettingsError> {
    Ok(())
}
