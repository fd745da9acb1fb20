//! A table of settings with keys in any case.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use config::{ConfigError, FileFormat, Format, Map, Value, ValueKind};
use serde::de::{Deserialize, DeserializeOwned, Deserializer};

use super::error::SettingsError;
use super::keys::MESSAGE_BUS;
use super::{keys, yaml};
use crate::util::secret::redacted;
use crate::util::text_file::{self, toml_fault};

/// The beginning of our environment variables, in lower case.
const PREFIX: &str = "message_bus__";

/// Keys in lower case, in tables at every depth.
#[derive(Clone, Default)]
pub(super) struct Table(Map<String, Value>);

impl Table {
    /// Reads the table `MESSAGE_BUS` of a TOML, YAML or JSON file.
    pub(super) fn of_file(path: &Path) -> Result<Self, SettingsError> {
        let fault = |reason: String| SettingsError::Read { path: path.to_owned(), reason };
        let bytes = text_file::read(path).map_err(|error| fault(error.to_string()))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count();
            fault(format!("line {line} is not UTF-8: save it as UTF-8"))
        })?;
        let extension = path.extension().and_then(|it| it.to_str()).unwrap_or_default().to_lowercase();
        let table: Map<String, Value> = match extension.as_str() {
            "toml" => toml::from_str(&text).map_err(|error| fault(toml_fault(&text, &error)))?,
            "json" => serde_json::from_str(&text).map_err(|error| fault(redacted(&error.to_string())))?,
            "yaml" | "yml" => {
                yaml::check(&text).map_err(fault)?;
                let table = FileFormat::Yaml.parse(None, &text);
                table.map_err(|error| fault(redacted(&error.to_string())))?
            }
            _ => return Err(fault("its name ends neither in .toml, .yaml, .yml nor .json".to_owned())),
        };
        let mut tables: Vec<String> = table.keys().cloned().collect();
        tables.sort();
        let origin = path.display().to_string();
        let mut lowered = lower(table, Some(&origin)).map_err(|error| fault(redacted(&error.to_string())))?;
        let wanted = MESSAGE_BUS.to_lowercase();
        let is_near = |name: &&String| {
            let name = name.to_lowercase();
            name != wanted && keys::is_near(&name, &wanted)
        };
        let nearest = tables.iter().find(is_near).cloned();
        let table = lowered.remove(&wanted);
        if let (Some(_), Some(table)) = (&table, &nearest) {
            let path = path.display();
            tracing::warn!(%path, table, "the settings have a table that resembles {MESSAGE_BUS}; it is not read");
        }
        match table {
            Some(Value { kind: ValueKind::Nil, .. }) => Ok(Self::default()),
            Some(value) => value.into_table().map(Self).map_err(SettingsError::value),
            None => Err(SettingsError::NoTable { path: path.to_owned(), tables, nearest }),
        }
    }

    /// Reads our environment variables; others may hold anything.
    pub(super) fn of_environment(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, SettingsError> {
        let mut table = Self::default();
        for (name, value) in variables {
            let name = name.to_string_lossy();
            let lowered = name.to_lowercase();
            let Some(key) = lowered.strip_prefix(PREFIX) else { continue };
            let fault = |problem| SettingsError::Environment { name: name.to_string(), problem };
            let value = value.into_string().map_err(|_| fault("is not UTF-8 text: set it again"))?;
            if name.contains('\u{fffd}') || key.split("__").any(str::is_empty) {
                return Err(fault("names no key: write MESSAGE_BUS__KEY or MESSAGE_BUS__TABLE__KEY"));
            }
            let origin = name.to_string();
            let is_new = table.insert(key, Value::new(Some(&origin), value));
            if !is_new {
                return Err(fault(
                    "is given twice, in different case or as both a value and a table: keep one",
                ));
            }
        }
        Ok(table)
    }

    /// Sets the value at a path of keys. Returns whether the path was free.
    fn insert(&mut self, path: &str, value: Value) -> bool {
        let mut table = &mut self.0;
        let (tables, key) = match path.rsplit_once("__") {
            Some((tables, key)) => (tables.split("__").collect(), key),
            None => (Vec::new(), path),
        };
        for name in tables {
            let inner = table
                .entry(name.to_owned())
                .or_insert_with(|| Value::new(None, ValueKind::Table(Map::new())));
            let ValueKind::Table(inner) = &mut inner.kind else { return false };
            table = inner;
        }
        table.insert(key.to_owned(), value).is_none()
    }

    /// Merges another table, whose values win.
    pub(super) fn merge(&mut self, over: Self) {
        merge(&mut self.0, over.0);
    }

    /// Splits into the table of these keys and the table of the others.
    pub(super) fn split(self, names: &[&str]) -> (Self, Self) {
        let (these, others) = self.0.into_iter().partition(|(key, _)| names.contains(&key.as_str()));
        (Self(these), Self(others))
    }

    /// Fails on keys of the inner table `name` that `T` does not know.
    pub(super) fn check_keys<T: DeserializeOwned>(&self, name: &str) -> Result<(), SettingsError> {
        match self.0.get(name).map(|value| &value.kind) {
            Some(ValueKind::Table(table)) => check_keys::<T>(table, &format!("{name}."), &[]),
            _ => Ok(()),
        }
    }

    pub(super) fn parse<T: DeserializeOwned>(self) -> Result<T, ConfigError> {
        T::deserialize(Value::new(None, self.0))
    }
}

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let table = Map::<String, Value>::deserialize(deserializer)?;
        lower(table, None).map(Self).map_err(serde::de::Error::custom)
    }
}

fn lower(table: Map<String, Value>, origin: Option<&String>) -> Result<Map<String, Value>, ConfigError> {
    let mut lowered = Map::new();
    for (key, value) in table {
        let key = key.to_lowercase();
        let value = lower_value(&key, value, origin)?;
        if lowered.contains_key(&key) {
            return Err(ConfigError::Message(format!(
                "the key {key} is given twice, in different case: keep one"
            )));
        }
        lowered.insert(key, value);
    }
    Ok(lowered)
}

fn lower_value(key: &str, value: Value, origin: Option<&String>) -> Result<Value, ConfigError> {
    let kind = match value.kind {
        ValueKind::Table(inner) => ValueKind::Table(lower(inner, origin)?),
        // Such as the rules of a policy.
        ValueKind::Array(items) => {
            let items = items.into_iter().map(|item| lower_value(key, item, origin));
            ValueKind::Array(items.collect::<Result<_, _>>()?)
        }
        ValueKind::Float(number) if !number.is_finite() => {
            return Err(ConfigError::Message(format!("the key {key} is {number}: write a number")));
        }
        kind => kind,
    };
    Ok(Value::new(origin, kind))
}

fn merge(table: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, mut value) in over {
        if let ValueKind::Table(over) = &mut value.kind
            && let Some(Value { kind: ValueKind::Table(known), .. }) = table.get_mut(&key)
        {
            merge(known, std::mem::take(over));
        } else {
            table.insert(key, value);
        }
    }
}

/// Fails on keys that `T` does not know. The nearest key may also be one of `others`.
fn check_keys<T: DeserializeOwned>(
    table: &Map<String, Value>,
    path: &str,
    others: &[&'static str],
) -> Result<(), SettingsError> {
    let mut known = keys::of::<T>();
    let mut unknown: Vec<_> = table.keys().filter(|key| !known.contains(&key.as_str())).collect();
    unknown.sort();
    let Some(key) = unknown.first() else { return Ok(()) };
    known.extend(others);
    let full = |key: &str| format!("{path}{key}").to_uppercase();
    Err(SettingsError::UnknownKey { key: full(key), nearest: keys::nearest(key, &known).map(full) })
}

/// The keys of a table that belong to the backend. `Debug` shows their names only.
#[derive(Clone, Default)]
pub struct BackendTable {
    table: Table,
    /// The path of the table, with a dot at the end.
    path: String,
    /// Keys that do not belong to the backend, for hints.
    others: Vec<&'static str>,
}

impl BackendTable {
    pub(super) fn new(table: Table, others: Vec<&'static str>) -> Self {
        Self::within(String::new(), table, others)
    }

    pub(super) fn within(path: String, table: Table, others: Vec<&'static str>) -> Self {
        Self { table, path, others }
    }

    /// Reads the keys into the settings struct of a backend, with keys in lower case.
    ///
    /// # Errors
    /// [`SettingsError::UnknownKey`] for a key that the struct does not have, [`SettingsError::Value`] for a value that does not fit.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, SettingsError> {
        check_keys::<T>(&self.table.0, &self.path, &self.others)?;
        self.table.clone().parse().map_err(|error| self.value_error(&error))
    }

    /// Reads the keys into two settings structs that share this table, such as
    /// [`BrokerSettings`](crate::amqp091::BrokerSettings) and the settings of one backend.
    ///
    /// ```
    /// # #[cfg(feature = "amqp091")] {
    /// use tower_outbox::amqp091::{Amqp091, Amqp091Settings, BrokerSettings};
    /// use tower_outbox::{Bus, BoxError, Settings};
    ///
    /// # let settings = Settings::default();
    /// let bus = Bus::builder(&settings).with_backend("acme.RabbitMQ", |table| {
    ///     let (broker, mut settings): (BrokerSettings, Amqp091Settings) = table.parse_both()?;
    ///     settings.broker = broker.with_window(16);
    ///     Amqp091::new(&settings).map_err(BoxError::from)
    /// });
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`parse`](Self::parse), for a key that neither struct has.
    pub fn parse_both<A: DeserializeOwned, B: DeserializeOwned>(&self) -> Result<(A, B), SettingsError> {
        let mut names = keys::of::<A>();
        let (first, second) = self.table.clone().split(&names);
        names.extend(&self.others);
        check_keys::<B>(&second.0, &self.path, &names)?;
        let fault = |error: ConfigError| self.value_error(&error);
        Ok((first.parse().map_err(fault)?, second.parse().map_err(fault)?))
    }

    /// Whether the table has a key, in lower case.
    #[cfg(all(feature = "channels", feature = "nats"))]
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.0.contains_key(key)
    }

    /// The text of a key.
    #[cfg(all(feature = "signing", feature = "_brokers"))]
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        self.table.0.get(key)?.clone().into_string().ok()
    }

    pub(super) fn value_error(&self, error: &ConfigError) -> SettingsError {
        match self.path.strip_suffix('.') {
            Some(table) => SettingsError::value(format!("{error}, of the table {}", table.to_uppercase())),
            None => SettingsError::value(error.to_string()),
        }
    }
}

impl fmt::Debug for BackendTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.table.0.keys()).finish()
    }
}
