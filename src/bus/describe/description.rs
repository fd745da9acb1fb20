//! The description of a bus.

use std::collections::BTreeMap;
use std::fmt;

use indexmap::IndexMap;
use serde::Serialize;

use super::events::EventType;
use super::facts::{Facts, Input};
use super::{backends, general};
use crate::settings::Settings;

/// The plan of a bus with these settings: where messages go, what they survive, and how consumers receive them. `Display` is for people,
/// [`Serialize`] for programs.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use tower_outbox::{Bus, Settings};
///
/// let settings: Settings = toml::from_str("BACKEND = 'memory'\n[CONSUMERS.users]\nMAX_ATTEMPTS = 3")?;
/// let bus = Bus::start(&settings).await?;
/// let described = bus.describe().to_string();
/// assert!(described.contains("consumer users"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Description {
    /// The kind of broker.
    pub backend: String,
    /// The URLs of the brokers, without passwords.
    pub brokers: Vec<String>,
    /// Where a message goes, and when it counts as sent.
    pub sending: IndexMap<&'static str, String>,
    /// Which failures a message of a successful request survives.
    pub survives: IndexMap<&'static str, String>,
    /// Where messages wait, and when they are given up; empty unless the delivery is durable or transactional.
    pub outbox: IndexMap<&'static str, String>,
    /// The consumers, by their names.
    pub consumers: BTreeMap<String, IndexMap<&'static str, String>>,
    /// The clients, by their names.
    pub clients: BTreeMap<String, IndexMap<&'static str, String>>,
    /// The topics of the events that the app has registered.
    pub events: Vec<String>,
    /// The inputs of the consumers, and the types of events.
    #[serde(skip)]
    pub(super) inputs: BTreeMap<String, Input>,
    #[serde(skip)]
    #[cfg_attr(not(feature = "schemas"), allow(dead_code, reason = "only types with schemas are described"))]
    pub(super) types: Vec<EventType>,
}

impl Description {
    /// Describes a bus with these settings, without starting it.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        Self::with_types(settings, Vec::new())
    }

    pub(in crate::bus) fn with_types(settings: &Settings, types: Vec<EventType>) -> Self {
        let consumers = settings.consumers.iter().map(|(name, table)| {
            let (mut facts, _) = backends::receiving(settings, table);
            general::consumer(&table.settings, &mut facts);
            (name.clone(), facts)
        });
        let inputs = settings.consumers.iter();
        Self {
            backend: settings.backend.clone(),
            brokers: backends::brokers(settings),
            sending: general::sending(settings, backends::sending(settings)),
            survives: general::survives(settings),
            outbox: general::outbox(settings),
            consumers: consumers.collect(),
            clients: settings.clients.iter().map(|(name, it)| (name.clone(), general::client(it))).collect(),
            events: types.iter().map(|event| event.topic.to_owned()).collect(),
            inputs: inputs.map(|(name, it)| (name.clone(), backends::receiving(settings, it).1)).collect(),
            types,
        }
    }
}

#[cfg(feature = "admin")]
impl Description {
    /// Returns where messages go.
    pub(crate) fn destination(&self) -> crate::admin::Destination {
        let goes_to = self.sending.get("goes to").cloned();
        crate::admin::Destination { brokers: self.brokers.clone(), goes_to }
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "backend {}", self.backend)?;
        for broker in &self.brokers {
            writeln!(f, "  {broker}")?;
        }
        section(f, "sending", &self.sending)?;
        section(f, "a message of a successful request survives", &self.survives)?;
        section(f, "outbox", &self.outbox)?;
        for (name, facts) in &self.consumers {
            section(f, &format!("consumer {name}"), facts)?;
        }
        for (name, facts) in &self.clients {
            section(f, &format!("client {name}"), facts)?;
        }
        match self.events.as_slice() {
            [] => Ok(()),
            events => writeln!(f, "\nevents\n  {}", events.join("\n  ")),
        }
    }
}

fn section(f: &mut fmt::Formatter<'_>, title: &str, facts: &Facts) -> fmt::Result {
    if facts.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{title}")?;
    let width = facts.keys().map(|name| name.len()).max().unwrap_or(0);
    facts.iter().try_for_each(|(name, fact)| writeln!(f, "  {name:<width$}  {fact}"))
}
