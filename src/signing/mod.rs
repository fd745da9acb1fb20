//! Signed messages: a messenger that signs, a source that verifies, and their keys.
//!
//! [`Signing`] goes around the messenger of a broker, [`Verifying`] around a source. A [`Bus`](crate::bus::Bus) puts them there
//! when the settings have a table `SIGNING`: it signs if `KEY` is set, and its consumers verify.
//!
//! # What is signed
//! | | [`Dsse`](SignatureFormat::Dsse) (default) | [`Mqfactory`](SignatureFormat) |
//! |---|---|---|
//! | key | Ed25519, or RSA (RSASSA-PSS, SHA-256, salt of 32 bytes) | RSA (RSASSA-PSS, SHA-256, longest salt) |
//! | place | header `signature`: a DSSE envelope in JSON | tag `signature` in the JSON body |
//! | signed | origin, time of signing, id, topic, key, time, content type, expiry, body, the headers [`ACK`](crate::message::headers::ACK), [`CONFIRM`](crate::message::headers::CONFIRM) and [`REJECTED`](crate::message::headers::REJECTED), and the [`headers`](SigningSettings::headers) named | origin, time of signing, and the whole JSON: payload, id, headers, key |
//! | not signed | other headers, priority | **topic**, priority, expiry: a stranger can send the message again under another topic |
//!
//! With `Dsse` the signed description travels with the message, and the time, the key and the expiry are restored from it: brokers
//! cut the time to seconds or milliseconds, and count an expiry down. Every other part must be as it was signed.
//!
//! # Age and copies
//! A signature is made each time a message is sent to the broker. So the time that a message waits in an outbox does not count
//! for [`max_age`](SigningSettings::max_age), but that in a queue of the broker, between retries, or among dead letters does: a dead
//! letter that is requeued later is refused. The clocks of hosts may be five minutes apart.
//!
//! Each consumer remembers the signatures that it handled, [`remembered`](SigningSettings::remembered) of them, for `max_age`. A
//! copy of a handled message is acknowledged and not handled; a copy that arrives while its original is being handled waits for
//! the outcome. A message that its sender sends again, because a confirm was lost, has a new signature and the same id: like
//! every message it may be handled twice, and the inbox of [`Tx`](crate::tx::Tx) detects it. So does the inbox detect copies
//! across restarts and processes, which this memory does not.

mod copies;
#[cfg(feature = "wavemq")]
pub(crate) mod detached;
mod dsse;
mod error;
#[cfg(feature = "_fuzzing")]
pub(crate) mod fuzzing;
mod key;
mod key_source;
mod kind;
#[cfg(feature = "_brokers")]
mod material;
mod messenger;
#[cfg(feature = "_brokers")]
mod mqfactory;
mod pem;
mod policy;
mod settings;
mod signer;
mod source;
mod statement;
mod trusted;
mod trusted_folder;
mod trusted_key;
#[cfg(feature = "_sql")]
mod trusted_table;
mod verifier;

pub use self::dsse::SIGNED_BY;
pub use self::error::SigningError;
pub use self::key::SigningKey;
pub use self::key_source::KeySource;
pub use self::kind::KeyKind;
pub use self::messenger::Signing;
pub use self::policy::PolicyRule;
pub use self::settings::{SignatureFormat, SigningSettings, Unsigned};
pub use self::signer::Signer;
pub use self::source::Verifying;
pub use self::trusted::Trusted;
pub use self::trusted_folder::TrustedFolder;
pub use self::trusted_key::TrustedKey;
#[cfg(feature = "_sql")]
#[cfg_attr(docsrs, doc(cfg(any(feature = "postgres", feature = "sqlite"))))]
pub use self::trusted_table::TrustedTable;
pub use self::verifier::{Signature, Verified, Verifier};
