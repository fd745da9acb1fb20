//! `MESSAGE_BUS`: which messenger, and how sure is sent, from a file and the environment.

mod keys;
mod limits;
mod outbox;
mod table;
mod yaml;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

#[cfg(feature = "embedded")]
pub(crate) use self::outbox::QueueSettings;
pub use self::outbox::{DatabaseUrl, OutboxSettings};
pub use self::table::BackendTable;
use self::table::Table;
use crate::background::BackgroundSettings;
#[cfg(feature = "chaos")]
use crate::chaos::ChaosSettings;
use crate::consumer::ConsumerSettings;
use crate::layer::OnSendFailure;
use crate::util::error::{BoxError, Chain, debug_as_display};
use crate::util::secret::redacted;

/// The name of the table, and the prefix of the environment variables.
const MESSAGE_BUS: &str = "MESSAGE_BUS";

/// The settings of a [`Bus`](crate::bus::Bus): the table `MESSAGE_BUS`.
///
/// Keys may be in any case. Those not listed here belong to the backend. Without a table: the dummy.
///
/// ```
/// use tower_outbox::Settings;
///
/// let settings: Settings = toml::from_str(r#"
///     BACKEND = "dummy"
///     ON_SEND_FAILURE = "reject"
/// "#)?;
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// The kind of bus: `dummy` (default), `amqp091`, `amqp10`, `embedded`, `fedmsg`, `memory`, `rhmsg`, or a name the app registered.
    pub backend: String,
    /// How sure is sent.
    pub delivery: DeliveryMode,
    /// What a client gets when the messages of its request cannot be sent; by default [`OnSendFailure::Reject`], a 503.
    pub on_send_failure: OnSendFailure,
    /// The table `REQUEST`: how much one request may enqueue.
    pub request: RequestSettings,
    /// The table `BACKGROUND`: the buffer of [`DeliveryMode::Background`].
    pub background: BackgroundSettings,
    /// The table `OUTBOX`: the store and the relay of [`DeliveryMode::Durable`] and [`DeliveryMode::Transactional`].
    pub outbox: OutboxSettings,
    /// The tables `CONSUMERS.<name>`: what [`Bus::consumer`](crate::bus::Bus::consumer) receives from.
    pub consumers: BTreeMap<String, ConsumerTable>,
    /// The table `CHAOS`, under the environment variables `MESSAGE_CHAOS_*`: what goes wrong on purpose.
    #[cfg(feature = "chaos")]
    #[cfg_attr(docsrs, doc(cfg(feature = "chaos")))]
    pub chaos: ChaosSettings,
    /// The keys of the backend.
    pub backend_keys: BackendTable,
}

/// One table of `CONSUMERS`. Its name is in lower case.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ConsumerTable {
    /// How it works.
    pub settings: ConsumerSettings,
    /// The keys of the backend's source: which queue or address.
    pub source_keys: BackendTable,
}

/// How sure messages are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DeliveryMode {
    /// The response waits for the broker's confirm.
    #[default]
    Direct,
    /// The response does not wait; a bounded buffer in memory is sent behind it.
    Background,
    /// The response waits until the messages are on the local disk; a relay sends what is stored. Needs the feature `embedded`.
    Durable,
    /// The response waits until the messages are committed in the app's own database, with what the handler wrote there; a
    /// relay sends what is stored. Needs the feature `postgres` or `sqlite`.
    Transactional,
}

impl fmt::Display for DeliveryMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Background => "background",
            Self::Durable => "durable",
            Self::Transactional => "transactional",
        })
    }
}

/// What requests may do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RequestSettings {
    /// How many messages; 1,000 by default.
    pub max_messages: usize,
    /// How many bytes; 8 MiB by default.
    #[serde(deserialize_with = "crate::util::units::size")]
    pub max_bytes: usize,
    /// How many messages of all requests may be on their way at a time; 10,000 by default. See
    /// [`MessagingLayer::with_max_messages_in_flight`](crate::layer::MessagingLayer::with_max_messages_in_flight).
    pub max_messages_in_flight: usize,
    /// How many bytes they may hold; 64 MiB by default.
    #[serde(deserialize_with = "crate::util::units::size")]
    pub max_bytes_in_flight: usize,
    /// Whether the header `Idempotency-Key` makes the ids of its messages; false by default. See
    /// [`MessagingLayer::with_idempotency_key`](crate::layer::MessagingLayer::with_idempotency_key).
    pub idempotency_key: bool,
}

impl Default for RequestSettings {
    fn default() -> Self {
        Self {
            max_messages: 1_000,
            max_bytes: 8 << 20,
            max_messages_in_flight: 10_000,
            max_bytes_in_flight: 64 << 20,
            idempotency_key: false,
        }
    }
}

/// The keys of the table that do not belong to a backend.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Common {
    backend: Option<String>,
    #[serde(deserialize_with = "crate::util::units::word")]
    delivery: DeliveryMode,
    #[serde(deserialize_with = "crate::util::units::word")]
    on_send_failure: OnSendFailure,
    request: RequestSettings,
    background: BackgroundSettings,
    outbox: OutboxSettings,
    consumers: HashMap<String, Table>,
    #[cfg(feature = "chaos")]
    chaos: ChaosSettings,
}

impl Settings {
    /// Reads the table `MESSAGE_BUS` of a TOML, YAML or JSON file, then the environment over it.
    ///
    /// `MESSAGE_BUS__URLS` is the key `URLS`, `MESSAGE_BUS__BACKGROUND__MAX_MESSAGES` one of a table in
    /// it; a list is separated by commas. Without a file, the environment alone counts.
    ///
    /// # Errors
    /// [`SettingsError`] when the file cannot be read, or a key or value has no meaning.
    pub fn load(file: Option<&Path>) -> Result<Self, SettingsError> {
        Self::load_with(file, std::env::vars_os())
    }

    fn load_with(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, SettingsError> {
        let mut table = match file {
            Some(path) => Table::read(path)?.take_table(MESSAGE_BUS)?,
            None => Table::default(),
        };
        table.merge(Table::of_environment(environment)?);
        Self::from_table(table)
    }

    fn from_table(table: Table) -> Result<Self, SettingsError> {
        let names = keys::of::<Common>();
        let (common, backend_keys) = table.split(&names);
        common.check_keys::<RequestSettings>("request")?;
        common.check_keys::<BackgroundSettings>("background")?;
        common.check_keys::<OutboxSettings>("outbox")?;
        #[cfg(feature = "chaos")]
        common.check_keys::<ChaosSettings>("chaos")?;
        let mut common: Common = common.parse().map_err(SettingsError::value)?;
        #[cfg(feature = "chaos")]
        {
            common.chaos = common.chaos.over_env().map_err(SettingsError::value)?;
        }
        let consumers = std::mem::take(&mut common.consumers).into_iter();
        let consumers = consumers.map(|(name, table)| Ok((name.clone(), ConsumerTable::of(&name, table)?)));
        let consumers = consumers.collect::<Result<_, SettingsError>>()?;
        let settings = Self { consumers, ..Self::new(common, BackendTable::new(backend_keys, names)) };
        limits::check(&settings)?;
        Ok(settings)
    }

    fn new(common: Common, backend_keys: BackendTable) -> Self {
        Self {
            backend: common.backend.unwrap_or_else(|| "dummy".to_owned()),
            delivery: common.delivery,
            on_send_failure: common.on_send_failure,
            request: common.request,
            background: common.background,
            outbox: common.outbox,
            consumers: BTreeMap::new(),
            #[cfg(feature = "chaos")]
            chaos: common.chaos,
            backend_keys,
        }
    }
}

impl ConsumerTable {
    fn of(name: &str, table: Table) -> Result<Self, SettingsError> {
        let names = keys::of::<ConsumerSettings>();
        let (common, source_keys) = table.split(&names);
        let source_keys = BackendTable::within(format!("consumers.{name}."), source_keys, names);
        let settings: ConsumerSettings = common.parse().map_err(|error| source_keys.value_error(&error))?;
        Ok(Self { settings, source_keys })
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::new(Common::default(), BackendTable::default())
    }
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let table = Table::deserialize(deserializer)?;
        Self::from_table(table).map_err(|error| serde::de::Error::custom(crate::util::error::Chain(&error)))
    }
}

/// Why settings do not make a bus; each says what to change.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The file cannot be read, or is not in a form we know.
    #[error("cannot read the settings in {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: BoxError,
    },
    /// A variable of the environment cannot be used.
    #[error("the environment variable {name} {problem}")]
    Environment {
        /// Its name.
        name: String,
        /// What is wrong with it, and what to write.
        problem: &'static str,
    },
    /// A key has no meaning.
    #[error("{MESSAGE_BUS} has an unknown key {key}{}", nearest.as_ref().map(|n| format!("; did you mean {n}?")).unwrap_or_default())]
    UnknownKey {
        /// The key.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<String>,
    },
    /// A value is not one its key can have.
    #[error("a value in {MESSAGE_BUS} cannot be used")]
    Value {
        /// Which, and why.
        source: BoxError,
    },
    /// There is no such backend.
    #[error(
        "BACKEND {name:?} is not known{}; known are {known}. A backend of your own is registered with \
         BusBuilder::with_backend", .hint.map(|hint| format!(": {hint}")).unwrap_or_default()
    )]
    UnknownBackend {
        /// The name in the settings.
        name: String,
        /// The backend that this name may mean.
        hint: Option<&'static str>,
        /// The names that would do.
        known: String,
    },
    /// The delivery is not compiled in.
    #[error(
        "DELIVERY {delivery:?} is not compiled in: add the feature {feature:?} to tower-outbox in Cargo.toml"
    )]
    DeliveryNotCompiled {
        /// The delivery in the settings.
        delivery: &'static str,
        /// The feature that has it.
        feature: &'static str,
    },
    /// The outbox cannot be opened.
    #[error("the outbox of DELIVERY {delivery:?} cannot be opened")]
    Outbox {
        /// The delivery in the settings.
        delivery: &'static str,
        /// Which file or table, why, and what to do.
        source: BoxError,
    },
    /// There is no such consumer.
    #[error(
        "{MESSAGE_BUS} has no table CONSUMERS.{}, which says where the consumer receives from; {}", .name.to_uppercase(),
        if .known.is_empty() { "there is none".to_owned() } else { format!("there is {known}") }
    )]
    UnknownConsumer {
        /// Its name.
        name: String,
        /// The names of the tables that are there, with commas between.
        known: String,
    },
    /// The backend is not compiled in.
    #[error("BACKEND {name:?} is not compiled in: add the feature {feature:?} to tower-outbox in Cargo.toml")]
    NotCompiled {
        /// The name in the settings.
        name: String,
        /// The feature that has it.
        feature: &'static str,
    },
    /// The backend cannot be set up.
    #[error("BACKEND {name:?} cannot be set up")]
    Backend {
        /// The name in the settings.
        name: String,
        /// Why.
        source: BoxError,
    },
}

debug_as_display!(SettingsError);

impl SettingsError {
    fn value(source: impl Into<BoxError>) -> Self {
        let text = Chain(source.into().as_ref()).to_string();
        Self::Value { source: redacted(&text).into() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    fn load(text: &str, variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("settings.toml");
        std::fs::write(&file, text).unwrap();
        Settings::load_with(Some(&file), environment(variables))
    }

    #[test]
    fn without_a_table_it_is_the_dummy() {
        let settings = load("[other]\nx = 1", &[]).unwrap();
        assert_eq!((settings.backend.as_str(), settings.delivery), ("dummy", DeliveryMode::Direct));
        assert_eq!(Settings::load_with(None, []).unwrap().backend, "dummy");
        assert_eq!(Settings::default().backend, "dummy");
    }

    #[test]
    fn keys_are_in_any_case_and_the_environment_wins() {
        let text = "[Message_Bus]\nBackend = \"rhmsg\"\nON_SEND_FAILURE = \"Reject\"\n[Message_Bus.BACKGROUND]\nMax_Messages = 5\nmax_bytes = \"1MiB\"";
        let variables = [("MESSAGE_BUS__BACKEND", "amqp10"), ("MESSAGE_BUS__BACKGROUND__MAX_MESSAGES", "7")];
        let settings = load(text, &variables).unwrap();
        assert_eq!(settings.backend, "amqp10");
        assert_eq!(settings.on_send_failure, OnSendFailure::Reject);
        assert_eq!((settings.background.max_messages, settings.background.max_bytes), (7, 1 << 20));
    }

    #[test]
    fn yaml_and_json_are_read_too() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("s.yaml", "MESSAGE_BUS:\n  BACKEND: rhmsg\n"),
            ("s.json", r#"{"MESSAGE_BUS": {"BACKEND": "rhmsg"}}"#),
        ] {
            let file = folder.path().join(name);
            std::fs::write(&file, text).unwrap();
            assert_eq!(Settings::load_with(Some(&file), []).unwrap().backend, "rhmsg");
        }
    }

    #[test]
    fn an_unknown_key_of_a_table_names_the_nearest() {
        let error = load("[MESSAGE_BUS.BACKGROUND]\nMAX_MESSAGE = 5", &[]).unwrap_err().to_string();
        assert!(
            error.contains("BACKGROUND.MAX_MESSAGE")
                && error.contains("did you mean BACKGROUND.MAX_MESSAGES?"),
            "{error}"
        );
    }

    #[test]
    fn a_misspelt_common_key_is_recognised() {
        let settings = load("[MESSAGE_BUS]\nBACKEN = \"rhmsg\"", &[]).unwrap();
        let error = settings.backend_keys.parse::<BackgroundSettings>().unwrap_err().to_string();
        assert!(error.contains("BACKEN; did you mean BACKEND?"), "{error}");
    }

    #[test]
    fn a_key_given_twice_is_an_error() {
        let error = load("[MESSAGE_BUS]\nBACKEND = \"dummy\"\nbackend = \"rhmsg\"", &[]).unwrap_err();
        assert!(crate::util::error::Chain(&error).to_string().contains("backend"), "{error}");
    }

    #[test]
    fn a_wrong_value_names_its_key() {
        let error = load("[MESSAGE_BUS]\nDELIVERY = \"sometimes\"", &[]).unwrap_err();
        let text = crate::util::error::Chain(&error).to_string();
        assert!(text.contains("delivery") && text.contains("background"), "{text}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Settings::load_with(Some(Path::new("/nowhere/s.toml")), []).unwrap_err();
        assert!(error.to_string().contains("/nowhere/s.toml"));
    }

    #[test]
    fn consumers_have_tables_of_their_own() {
        let text = "[MESSAGE_BUS.CONSUMERS.Users]\nCONCURRENCY = 4\nTIMEOUT = \"5s\"\nQUEUE = \"users\"";
        let settings = load(text, &[("MESSAGE_BUS__CONSUMERS__USERS__MAX_ATTEMPTS", "3")]).unwrap();
        let users = &settings.consumers["users"];
        let wanted = ConsumerSettings::default().with_concurrency(4).with_max_attempts(3);
        assert_eq!(users.settings, wanted.with_timeout(Duration::from_secs(5)));
        let error = users.source_keys.parse::<NoKeys>().unwrap_err().to_string();
        assert!(error.contains("CONSUMERS.USERS.QUEUE"), "{error}");
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct NoKeys {}

    #[test]
    fn settings_do_not_print_passwords() {
        let settings =
            load("[MESSAGE_BUS]\nBACKEND = \"rhmsg\"\nURLS = [\"amqp://jo:geheim@h\"]", &[]).unwrap();
        assert!(!format!("{settings:?}").contains("geheim"));
    }
}
