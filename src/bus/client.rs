//! From a table of `CLIENTS` to a client.

use std::collections::BTreeMap;

use super::backends::{Requesters, no_requests};
use crate::client::Client;
use crate::settings::{ClientTable, Settings, SettingsError};

/// The parts that clients are made of.
pub(super) struct Clients {
    backend: String,
    clients: BTreeMap<String, ClientTable>,
    /// `None` if the backend sends no requests.
    requesters: Option<Requesters>,
}

impl Clients {
    pub(super) fn new(settings: &Settings, requesters: Option<Requesters>) -> Self {
        let Settings { backend, clients, .. } = settings.clone();
        Self { backend, clients, requesters }
    }

    /// Checks the tables of all clients.
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        self.clients.keys().try_for_each(|name| self.client(name).map(drop))
    }

    pub(super) fn client(&self, name: &str) -> Result<Client, SettingsError> {
        let requesters = self.requesters.as_ref().ok_or_else(|| no_requests(&self.backend))?;
        let table = self.clients.get(&name.to_lowercase()).cloned().unwrap_or_default();
        Ok(Client::new(requesters(name, &table.keys)?).with_settings(table.settings))
    }
}
