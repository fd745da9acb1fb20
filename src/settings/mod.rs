//! The table `MESSAGE_BUS`: the backend, the delivery and their limits, from a file and the environment.

mod acknowledging;
mod client;
mod consumer;
#[cfg(feature = "dashboard")]
mod dashboard;
mod delivery_mode;
mod error;
mod keys;
mod limits;
mod outbox;
mod request;
mod success;
mod table;
mod yaml;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

pub use self::acknowledging::AckSettings;
pub use self::client::ClientTable;
pub use self::consumer::ConsumerTable;
#[cfg(feature = "dashboard")]
pub use self::dashboard::{DashboardSettings, TraceUrl};
pub use self::delivery_mode::DeliveryMode;
pub use self::error::SettingsError;
#[cfg(feature = "embedded")]
pub(crate) use self::outbox::QueueSettings;
pub use self::outbox::{DatabaseUrl, OutboxSettings};
pub use self::request::RequestSettings;
pub use self::success::SuccessStatus;
pub use self::table::BackendTable;
use self::table::Table;
use crate::acknowledging::{AckAddress, AllowedAddresses};
use crate::background::BackgroundSettings;
#[cfg(feature = "chaos")]
use crate::chaos::ChaosSettings;
#[cfg(feature = "kubemq")]
use crate::kubemq;
use crate::layer::OnSendFailure;
#[cfg(feature = "signing")]
use crate::signing::SigningSettings;

/// The backend of settings that name none.
const DEFAULT: &str = "dummy";

/// The settings of a [`Bus`](crate::bus::Bus): the table `MESSAGE_BUS`.
///
/// Keys may be in any case. Keys not listed here belong to the backend. By default the backend is the dummy, which logs
/// messages instead of sending them.
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
    /// The kind of broker: `dummy` (default), `amqp091`, `amqp10`, `embedded`, `fedmsg`, `memory`, `rhmsg`, or a name the app registered.
    pub backend: String,
    /// When a response may go out, and which failures its messages survive; by default [`DeliveryMode::Direct`].
    pub delivery: DeliveryMode,
    /// Whether a message leaves the outbox only when its *consumer* has confirmed it; no by default: when the broker has. Needs
    /// [`DeliveryMode::Durable`] or [`DeliveryMode::Transactional`]. See [`acknowledging`](crate::acknowledging).
    pub acknowledged: bool,
    /// The keys `ACK_TIMEOUT`, `ACK_ADDRESS` and `ACK_ALLOWED`.
    pub ack: AckSettings,
    /// The answer to a client when the messages of its request cannot be sent; by default [`OnSendFailure::Reject`], a 503.
    pub on_send_failure: OnSendFailure,
    /// Which statuses send the messages of a request; by default [`SuccessStatus::Successful`].
    pub success: SuccessStatus,
    /// The table `REQUEST`: limits of requests.
    pub request: RequestSettings,
    /// The table `BACKGROUND`: the buffer of [`DeliveryMode::Background`].
    pub background: BackgroundSettings,
    /// The table `OUTBOX`: the store and the relay of [`DeliveryMode::Durable`] and [`DeliveryMode::Transactional`].
    pub outbox: OutboxSettings,
    /// The tables `CONSUMERS.<name>`: where the consumers of [`Bus::consumer`](crate::bus::Bus::consumer) receive from.
    pub consumers: BTreeMap<String, ConsumerTable>,
    /// The tables `CLIENTS.<name>`: how the clients of [`Bus::client`](crate::bus::Bus::client) work. A client needs no table.
    pub clients: BTreeMap<String, ClientTable>,
    /// Whether metrics have the label `topic`; no by default. It counts for the process, and for the first 200 topics.
    pub topic_labels: bool,
    /// The table `CHAOS`: faults on purpose. The environment variables `MESSAGE_CHAOS_*` win over it.
    #[cfg(feature = "chaos")]
    #[cfg_attr(docsrs, doc(cfg(feature = "chaos")))]
    pub chaos: ChaosSettings,
    /// The table `SIGNING`: signatures of messages. By default messages are neither signed nor verified.
    #[cfg(feature = "signing")]
    #[cfg_attr(docsrs, doc(cfg(feature = "signing")))]
    pub signing: Option<SigningSettings>,
    /// The table `KUBEMQ`: certificates, tokens and grants of the server for KubeMQ clients.
    #[cfg(feature = "kubemq")]
    #[cfg_attr(docsrs, doc(cfg(feature = "kubemq")))]
    pub kubemq: kubemq::Settings,
    /// The table `DASHBOARD`: the pages for operators.
    #[cfg(feature = "dashboard")]
    #[cfg_attr(docsrs, doc(cfg(feature = "dashboard")))]
    pub dashboard: DashboardSettings,
    /// The keys of the backend.
    pub backend_keys: BackendTable,
    /// Whether the settings name the backend.
    names_backend: bool,
}

/// The keys of the table that do not belong to a backend.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Common {
    backend: Option<String>,
    #[serde(deserialize_with = "crate::util::units::word")]
    delivery: DeliveryMode,
    acknowledged: bool,
    #[serde(deserialize_with = "crate::util::units::optional_duration")]
    ack_timeout: Option<Duration>,
    #[serde(deserialize_with = "acknowledging::address")]
    ack_address: Option<AckAddress>,
    #[serde(deserialize_with = "acknowledging::allowed")]
    ack_allowed: Option<AllowedAddresses>,
    #[serde(deserialize_with = "crate::util::units::word")]
    on_send_failure: OnSendFailure,
    #[serde(deserialize_with = "crate::util::units::word")]
    success: SuccessStatus,
    request: RequestSettings,
    background: BackgroundSettings,
    outbox: OutboxSettings,
    consumers: HashMap<String, Table>,
    clients: HashMap<String, Table>,
    topic_labels: bool,
    #[cfg(feature = "chaos")]
    chaos: ChaosSettings,
    #[cfg(feature = "signing")]
    signing: Option<SigningSettings>,
    #[cfg(feature = "kubemq")]
    kubemq: kubemq::Settings,
    #[cfg(feature = "dashboard")]
    dashboard: DashboardSettings,
}

impl Settings {
    /// Reads the table `MESSAGE_BUS` of a TOML, YAML or JSON file. The environment wins over the file, as in
    /// [`from_env`](Self::from_env).
    ///
    /// # Errors
    /// [`SettingsError`] when the file cannot be read or has no table `MESSAGE_BUS`, or a key or value is unknown.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, SettingsError> {
        Self::from_table(Table::of_file(path.as_ref())?, std::env::vars_os())
    }

    /// Reads the environment alone: `MESSAGE_BUS__URLS` is the key `URLS`, `MESSAGE_BUS__BACKGROUND__MAX_MESSAGES` the key
    /// `MAX_MESSAGES` of the table `BACKGROUND`. A list is separated by commas.
    ///
    /// # Errors
    /// [`SettingsError`] when a key or value is unknown.
    pub fn from_env() -> Result<Self, SettingsError> {
        Self::from_table(Table::default(), std::env::vars_os())
    }

    fn from_table(
        mut table: Table,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, SettingsError> {
        table.merge(Table::of_environment(environment)?);
        let names = keys::of::<Common>();
        let (common, backend_keys) = table.split(&names);
        common.check_keys::<RequestSettings>("request")?;
        common.check_keys::<BackgroundSettings>("background")?;
        common.check_keys::<OutboxSettings>("outbox")?;
        #[cfg(feature = "chaos")]
        common.check_keys::<ChaosSettings>("chaos")?;
        #[cfg(feature = "signing")]
        common.check_keys::<SigningSettings>("signing")?;
        #[cfg(feature = "kubemq")]
        common.check_keys::<kubemq::Settings>("kubemq")?;
        #[cfg(feature = "dashboard")]
        common.check_keys::<DashboardSettings>("dashboard")?;
        let mut common: Common = common.parse().map_err(SettingsError::value)?;
        #[cfg(feature = "chaos")]
        {
            common.chaos = common.chaos.over_env().map_err(SettingsError::value)?;
        }
        let consumers = std::mem::take(&mut common.consumers).into_iter();
        let consumers = consumers.map(|(name, table)| Ok((name.clone(), ConsumerTable::of(&name, table)?)));
        let consumers = consumers.collect::<Result<_, SettingsError>>()?;
        let clients = std::mem::take(&mut common.clients).into_iter();
        let clients = clients.map(|(name, table)| Ok((name.clone(), ClientTable::of(&name, table)?)));
        let clients = clients.collect::<Result<_, SettingsError>>()?;
        let settings =
            Self { consumers, clients, ..Self::new(common, BackendTable::new(backend_keys, names)) };
        settings.check()?;
        Ok(settings)
    }

    /// Whether the backend is more than the default.
    pub(crate) fn names_backend(&self) -> bool {
        self.names_backend || self.backend != DEFAULT
    }

    fn check(&self) -> Result<(), SettingsError> {
        limits::acknowledging(self.acknowledged, self.delivery, &self.ack)?;
        limits::request(&self.request)?;
        limits::background(&self.background)?;
        limits::outbox(&self.outbox)?;
        self.consumers.iter().try_for_each(|(name, table)| limits::consumer(name, &table.settings))?;
        self.clients.iter().try_for_each(|(name, table)| limits::client(name, &table.settings))?;
        #[cfg(feature = "chaos")]
        limits::chaos(&self.chaos)?;
        #[cfg(feature = "signing")]
        if let Some(signing) = &self.signing {
            signing.check().map_err(SettingsError::value)?;
        }
        Ok(())
    }

    fn new(common: Common, backend_keys: BackendTable) -> Self {
        Self {
            names_backend: common.backend.is_some(),
            backend: common.backend.unwrap_or_else(|| DEFAULT.to_owned()),
            delivery: common.delivery,
            acknowledged: common.acknowledged,
            ack: AckSettings {
                timeout: common.ack_timeout.unwrap_or_else(|| AckSettings::default().timeout),
                address: common.ack_address,
                allowed: common.ack_allowed.unwrap_or_default(),
            },
            on_send_failure: common.on_send_failure,
            success: common.success,
            topic_labels: common.topic_labels,
            request: common.request,
            background: common.background,
            outbox: common.outbox,
            consumers: BTreeMap::new(),
            clients: BTreeMap::new(),
            #[cfg(feature = "chaos")]
            chaos: common.chaos,
            #[cfg(feature = "signing")]
            signing: common.signing,
            #[cfg(feature = "kubemq")]
            kubemq: common.kubemq,
            #[cfg(feature = "dashboard")]
            dashboard: common.dashboard,
            backend_keys,
        }
    }
}

/// The keys that a struct of settings knows, in lower case. For tests of `settings.example.toml`.
#[cfg(feature = "testing")]
#[doc(hidden)]
#[must_use]
pub fn keys_of<'de, T: Deserialize<'de>>() -> Vec<&'static str> {
    keys::of::<T>()
}

impl Default for Settings {
    fn default() -> Self {
        Self::new(Common::default(), BackendTable::default())
    }
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let table = Table::deserialize(deserializer)?;
        Self::from_table(table, []).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::ConsumerSettings;

    fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    fn load(text: &str, variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("settings.toml");
        std::fs::write(&file, text).unwrap();
        Settings::from_table(Table::of_file(&file)?, environment(variables))
    }

    #[test]
    fn the_default_is_the_dummy() {
        let settings = load("[MESSAGE_BUS]", &[]).unwrap();
        assert_eq!((settings.backend.as_str(), settings.delivery), ("dummy", DeliveryMode::Direct));
        assert_eq!(Settings::from_table(Table::default(), []).unwrap().backend, "dummy");
        assert_eq!(Settings::default().backend, "dummy");
    }

    #[test]
    fn a_file_without_the_table_names_its_tables() {
        let error = |text| load(text, &[]).unwrap_err().to_string();
        let typo = error("[Mesage_Bus]\nBACKEND = \"memory\"\n[database]\nurl = 1");
        assert!(typo.contains("settings.toml has no table MESSAGE_BUS, only Mesage_Bus, database"), "{typo}");
        assert!(typo.ends_with("rename Mesage_Bus to MESSAGE_BUS"), "{typo}");
        let outside = error("BACKEND = \"memory\"");
        assert!(outside.contains("only BACKEND: add [MESSAGE_BUS]"), "{outside}");
        assert!(error("").contains("nor anything else: add [MESSAGE_BUS]"));
    }

    #[test]
    fn success_is_2xx_or_also_3xx() {
        let success = |text: &str| load(&format!("[MESSAGE_BUS]\nSUCCESS = \"{text}\""), &[]);
        assert_eq!(load("[MESSAGE_BUS]", &[]).unwrap().success, SuccessStatus::Successful);
        assert_eq!(success("2xx").unwrap().success, SuccessStatus::Successful);
        for text in ["2xx,3xx", "2XX, 3XX"] {
            assert_eq!(success(text).unwrap().success, SuccessStatus::SuccessfulOrRedirect);
        }
        let variable = [("MESSAGE_BUS__SUCCESS", "2xx,3xx")];
        assert_eq!(load("[MESSAGE_BUS]", &variable).unwrap().success, SuccessStatus::SuccessfulOrRedirect);
        let error = success("4xx").unwrap_err().to_string();
        assert!(error.contains("2xx") && error.contains("2xx,3xx"), "{error}");
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
            assert_eq!(Settings::from_file(&file).unwrap().backend, "rhmsg");
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
        let error = Settings::from_file("/nowhere/s.toml").unwrap_err();
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
