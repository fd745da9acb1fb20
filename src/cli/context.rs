//! The options and the runtime that every command gets.

use std::path::PathBuf;

use clap::Args;
use http::{HeaderName, HeaderValue};
use tokio::runtime::Runtime;
use url::Url;

use super::error::CliError;
use super::output::Output;
use super::target::Target;
use crate::settings::{Settings, SettingsError};

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
    /// Print JSON: one document, or a line for each message
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Print results and errors only, no notes and no progress bars
    #[arg(long, short, global = true)]
    pub(super) quiet: bool,
}

/// The options and the runtime that every command gets.
pub(super) struct Context {
    pub(super) global: Global,
    pub(super) output: Output,
    pub(super) runtime: Runtime,
}

impl Context {
    pub(super) fn settings(&self) -> Result<Settings, CliError> {
        self.load_settings().map_err(|error| CliError::error(&error))
    }

    pub(super) fn load_settings(&self) -> Result<Settings, SettingsError> {
        match &self.global.settings {
            Some(file) => Settings::from_file(file),
            None => Settings::from_env(),
        }
    }

    /// The running app; `None` without a URL.
    pub(super) fn running(&self) -> Option<Target> {
        let url = self.global.url.as_ref()?;
        Some(Target::running(url, &self.global.http_header))
    }

    /// The running app, or the outbox of the settings.
    pub(super) fn target(&self) -> Result<Target, CliError> {
        match self.running() {
            Some(app) => Ok(app),
            None => Target::stopped(&self.settings()?, false, self.runtime.handle()),
        }
    }

    /// The same, for storing messages: the outbox of a stopped app may be created.
    pub(super) fn target_to_store(&self) -> Result<Target, CliError> {
        match self.running() {
            Some(app) => Ok(app),
            None => Target::stopped(&self.settings()?, true, self.runtime.handle()),
        }
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
