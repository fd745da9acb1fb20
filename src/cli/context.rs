//! The options and the runtime that every command gets.

use std::path::PathBuf;

use clap::Args;
use http::{HeaderName, HeaderValue};
use tokio::runtime::Runtime;
use url::Url;

use super::error::CliError;
use super::output::Output;
#[cfg(feature = "_sql")]
use crate::bus::Database;
use crate::bus::{Bus, BusBuilder};
use crate::settings::{Settings, SettingsError};
#[cfg(feature = "_sql")]
use crate::util::error::Chain;
use crate::util::host_name::host_name;

#[derive(Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Global {
    /// Read the table MESSAGE_BUS of this TOML, YAML or JSON file; the environment wins over it
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) settings: Option<PathBuf>,
    /// Ask a running app, at the address of its admin router
    #[arg(long, value_name = "URL", global = true, env = "TOWER_OUTBOX_URL", hide_env_values = true, value_parser = app_url)]
    pub(super) url: Option<Url>,
    /// Send this HTTP header to --url, such as 'authorization: Bearer ..'; may be repeated
    #[arg(
        long,
        value_name = "NAME: VALUE",
        global = true,
        env = "TOWER_OUTBOX_HTTP_HEADER",
        hide_env_values = true,
        value_delimiter = '\n',
        value_parser = http_header
    )]
    pub(super) http_header: Vec<(HeaderName, HeaderValue)>,
    /// Name of the operator, for the audit; by default the user of this machine
    #[arg(long = "as", value_name = "NAME", global = true)]
    pub(super) operator: Option<String>,
    /// Print JSON: one document, or a line for each message
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Print results and errors only, no notes and no progress bars
    #[arg(long, short, global = true)]
    pub(super) quiet: bool,
}

/// Adds the backends and the pool of an app to a builder.
pub(super) type Configure = Box<dyn for<'a> Fn(BusBuilder<'a>) -> BusBuilder<'a>>;

/// The options and the runtime that every command gets.
pub(super) struct Context {
    pub(super) global: Global,
    pub(super) output: Output,
    pub(super) runtime: Runtime,
    pub(super) configure: Configure,
}

impl Context {
    pub(super) fn settings(&self) -> Result<Settings, CliError> {
        self.load_settings().map_err(|error| CliError::error(&error))
    }

    /// Returns the name of who acts.
    pub(super) fn operator(&self) -> String {
        let user = || std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
        let unnamed = || format!("an unnamed user on {}", host_name().as_deref().unwrap_or("this machine"));
        let given = self.global.operator.clone();
        given.unwrap_or_else(|| user().unwrap_or_else(|_| unnamed()))
    }

    pub(super) fn load_settings(&self) -> Result<Settings, SettingsError> {
        match &self.global.settings {
            Some(file) => Settings::from_file(file),
            None => Settings::from_env(),
        }
    }

    /// A builder with the backends of the app.
    pub(super) fn builder<'a>(&self, settings: &'a Settings) -> BusBuilder<'a> {
        (self.configure)(Bus::builder(settings))
    }

    /// The pool of the app, or a new one to the database of the settings.
    #[cfg(feature = "_sql")]
    pub(super) async fn database(&self, settings: &Settings) -> Result<Database, String> {
        if let Some(database) = self.builder(settings).into_database() {
            return Ok(database);
        }
        if settings.outbox.database_url.is_none() {
            return Err("the settings have no OUTBOX.DATABASE_URL: add it to the --settings file, or set \
                MESSAGE_BUS__OUTBOX__DATABASE_URL; or ask the running app with --url"
                .to_owned());
        }
        Database::connect(&settings.outbox).await.map_err(|error| Chain(&error).to_string())
    }
}

fn app_url(text: &str) -> Result<Url, String> {
    let url =
        Url::parse(text).map_err(|error| format!("{error}; write http://localhost:3000/admin/outbox"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("not an http:// or https:// address".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL must not name a user; write --http-header 'authorization: ..' instead".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("a URL must not have a query or fragment here".to_owned());
    }
    Ok(url)
}

fn http_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("no colon; write 'name: value'")?;
    let name = name.trim().parse().map_err(|_| "invalid header name")?;
    let mut value: HeaderValue = value.trim().parse().map_err(|_| "invalid header value")?;
    value.set_sensitive(true);
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_the_address_of_an_app() {
        assert!(app_url("http://localhost:3000/admin/outbox/").is_ok());
        for (text, why) in [
            ("localhost:3000", "http:// or https://"),
            ("localhost", "write http://"),
            ("http://jo:geheim@h", "--http-header"),
            ("http://h?x=1", "query"),
        ] {
            let error = app_url(text).unwrap_err();
            assert!(error.contains(why) && !error.contains("geheim"), "{text}: {error}");
        }
    }
}
