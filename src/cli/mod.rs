//! The command line tool `tower-outbox`.

mod act;
mod check;
mod error;
mod export;
mod filter;
mod import;
mod list;
#[cfg(feature = "_sql")]
mod migrate;
mod output;
mod queue;
mod send;
mod show;
mod status;
mod target;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{Args, Parser, Subcommand};
use http::{HeaderName, HeaderValue};
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;
use url::Url;

use self::error::CliError;
use self::output::Output;
use self::target::Target;
use crate::settings::{Settings, SettingsError};

const ABOUT: &str = "\
Look into the outbox of an app, and operate on it.

Without --url it opens the outbox of the settings. No running app may have a durable outbox open; an outbox in a database \
may be in use. \
With --url it asks a running app, at the address where the app nests `bus.admin()`.";

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed, or a check found a fault
  2  wrong usage
  3  not found
  4  the outbox is in use, or the app cannot be reached

Environment:
  MESSAGE_BUS__KEY  a key of the settings, such as MESSAGE_BUS__OUTBOX__PATH
  SSL_CERT_FILE     authorities to trust instead of the system's, for --url https://..
  RUST_LOG          filter of the log on stderr; by default tower_outbox=warn";

#[derive(Parser)]
#[command(name = "tower-outbox", bin_name = "tower-outbox", version, about = ABOUT)]
#[command(after_help = EXIT_CODES, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Read the table MESSAGE_BUS of this TOML, YAML or JSON file; the environment wins over it
    #[arg(long, value_name = "FILE", global = true)]
    settings: Option<PathBuf>,
    /// Ask a running app, at the address of its admin router
    #[arg(long, value_name = "URL", global = true, env = "TOWER_OUTBOX_URL", hide_env_values = true, value_parser = app_url)]
    url: Option<Url>,
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
    http_header: Vec<(HeaderName, HeaderValue)>,
    /// Print JSON: one document, or a line for each message
    #[arg(long, global = true)]
    json: bool,
    /// Print results and errors only, no notes and no progress bars
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    Check(check::Check),
    Send(send::Send),
    Status(status::Status),
    List(list::List),
    Show(show::Show),
    Requeue(act::Requeue),
    Drop(act::Drop),
    Export(export::Export),
    Import(import::Import),
    #[cfg(feature = "_sql")]
    Migrate(migrate::Migrate),
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

/// A rejected address or HTTP header may hold a password.
fn without_secrets(mut error: clap::Error) -> clap::Error {
    let argument = error.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
    if argument.contains("--url") || argument.contains("--http-header") {
        error.insert(ContextKind::InvalidValue, ContextValue::String("***".to_owned()));
    }
    error
}

/// The options and the runtime that every command gets.
struct Context {
    global: Global,
    output: Output,
    runtime: Runtime,
}

impl Context {
    fn settings(&self) -> Result<Settings, CliError> {
        self.load_settings().map_err(|error| CliError::error(&error))
    }

    fn load_settings(&self) -> Result<Settings, SettingsError> {
        match &self.global.settings {
            Some(file) => Settings::from_file(file),
            None => Settings::from_env(),
        }
    }

    /// The running app; `None` without a URL.
    fn running(&self) -> Option<Target> {
        let url = self.global.url.as_ref()?;
        Some(Target::running(url, &self.global.http_header))
    }

    /// The running app, or the outbox of the settings.
    fn target(&self) -> Result<Target, CliError> {
        match self.running() {
            Some(app) => Ok(app),
            None => Target::stopped(&self.settings()?, false, self.runtime.handle()),
        }
    }

    /// The same, for storing messages: the outbox of a stopped app may be created.
    fn target_to_store(&self) -> Result<Target, CliError> {
        match self.running() {
            Some(app) => Ok(app),
            None => Target::stopped(&self.settings()?, true, self.runtime.handle()),
        }
    }
}

/// Runs the tool with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { global, command } = Cli::try_parse().unwrap_or_else(|error| without_secrets(error).exit());
    let output = Output { json: global.json, quiet: global.quiet };
    log(output);
    match run(global, output, &command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(message) = failure.message {
                let _ = writeln!(io::stderr(), "tower-outbox: {}", output::harmless(&message));
            }
            ExitCode::from(failure.code)
        }
    }
}

fn run(global: Global, output: Output, command: &Command) -> Result<(), CliError> {
    let runtime = Runtime::new().map_err(|error| CliError::error(&error))?;
    let context = Context { global, output, runtime };
    match command {
        Command::Check(check) => check.run(&context),
        Command::Send(send) => send.run(&context),
        Command::Status(status) => status.run(&context),
        Command::List(list) => list.run(&context),
        Command::Show(show) => show.run(&context),
        Command::Requeue(requeue) => requeue.run(&context),
        Command::Drop(drop) => drop.run(&context),
        Command::Export(export) => export.run(&context),
        Command::Import(import) => import.run(&context),
        #[cfg(feature = "_sql")]
        Command::Migrate(migrate) => migrate.run(&context),
    }
}

fn log(output: Output) {
    let level = if output.quiet { "tower_outbox=error" } else { "tower_outbox=warn" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .with_writer(io::stderr)
        .init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_fit_each_other() {
        Cli::command().debug_assert();
    }

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
