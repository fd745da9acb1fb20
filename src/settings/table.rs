//! A table of settings whose keys are in any case.

use std::fmt;

use config::{Config, ConfigError, Map, Value, ValueKind};
use serde::de::{Deserialize, DeserializeOwned, Deserializer};

use super::{SettingsError, keys};

/// Keys in lower case, in tables at every depth.
#[derive(Clone, Default)]
pub(super) struct Table(Map<String, Value>);

impl Table {
    pub(super) fn from_config(config: Config) -> Result<Self, ConfigError> {
        config.cache.into_table().and_then(lower).map(Self)
    }

    /// The table of this name, or an empty one.
    pub(super) fn take_table(mut self, name: &str) -> Result<Self, SettingsError> {
        match self.0.remove(&name.to_lowercase()) {
            Some(value) => value.into_table().map(Self).map_err(SettingsError::value),
            None => Ok(Self::default()),
        }
    }

    /// Lays another table over this one.
    pub(super) fn merge(&mut self, over: Self) {
        merge(&mut self.0, over.0);
    }

    /// These keys, and the others.
    pub(super) fn split(self, names: &[&str]) -> (Self, Self) {
        let (these, others) = self.0.into_iter().partition(|(key, _)| names.contains(&key.as_str()));
        (Self(these), Self(others))
    }

    /// Refuses keys that the table `name` in this one, meant for `T`, does not know.
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
        lower(table).map(Self).map_err(serde::de::Error::custom)
    }
}

fn lower(table: Map<String, Value>) -> Result<Map<String, Value>, ConfigError> {
    let mut lowered = Map::new();
    for (key, mut value) in table {
        if let ValueKind::Table(inner) = value.kind {
            value.kind = ValueKind::Table(lower(inner)?);
        }
        let key = key.to_lowercase();
        if lowered.contains_key(&key) {
            return Err(ConfigError::Message(format!("the key {key} is given twice, in different case")));
        }
        lowered.insert(key, value);
    }
    Ok(lowered)
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

/// Refuses keys that `T` does not know; the nearest may also be one of `others`.
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
    /// Where it stands, with a dot at the end.
    path: String,
    /// The keys that stand beside those of the backend, for hints.
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
    /// [`SettingsError::UnknownKey`] for a key the struct has not, [`SettingsError::Value`] for a value it cannot have.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, SettingsError> {
        check_keys::<T>(&self.table.0, &self.path, &self.others)?;
        self.table.clone().parse().map_err(SettingsError::value)
    }
}

impl fmt::Debug for BackendTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.table.0.keys()).finish()
    }
}
