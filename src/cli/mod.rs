//! The command line tool `tower-outbox`; [`run`] is the same in the binary of an app.

mod act;
mod check;
mod context;
mod dashboard;
mod dead_letters;
mod describe;
mod error;
mod export;
mod filter;
mod import;
#[cfg(feature = "signing")]
mod keys;
#[cfg(feature = "kubemq")]
mod kubemq;
mod list;
#[cfg(feature = "_sql")]
mod migrate;
mod output;
mod queue;
mod send;
#[cfg(any(feature = "kubemq", feature = "wavemq"))]
mod serve;
mod show;
mod status;
mod target;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

use self::context::{Configure, Context, Global};
use self::error::CliError;
use self::output::Output;
use crate::bus::BusBuilder;

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

#[derive(Subcommand)]
enum Command {
    Check(check::Check),
    Describe(describe::Describe),
    Send(send::Send),
    Status(status::Status),
    List(list::List),
    Show(show::Show),
    Requeue(act::Requeue),
    Drop(act::Drop),
    Dashboard(dashboard::Dashboard),
    DeadLetters(dead_letters::DeadLetters),
    Export(export::Export),
    Import(import::Import),
    #[cfg(feature = "_sql")]
    Migrate(migrate::Migrate),
    #[cfg(any(feature = "kubemq", feature = "wavemq"))]
    Serve(serve::Serve),
    #[cfg(feature = "signing")]
    Keys(keys::Keys),
}

/// A rejected address or HTTP header may hold a password.
fn without_secrets(mut error: clap::Error) -> clap::Error {
    let argument = error.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
    if argument.contains("--url") || argument.contains("--http-header") {
        error.insert(ContextKind::InvalidValue, ContextValue::String("***".to_owned()));
    }
    error
}

/// Runs the tool with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    run("tower-outbox", std::env::args_os().skip(1), |builder| builder)
}

/// Runs the tool in the binary of an app, with the app's own backends and database pool.
///
/// `name` is the command as people type it, `args` are the arguments after it, and `configure` does to the builder what the app does before
/// it starts the bus. It blocks, so call it outside of an async runtime, before the app starts its own. A pool must be made in a runtime that
/// runs meanwhile, with more than one thread.
///
/// ```no_run
/// use std::process::ExitCode;
/// use tower_outbox::bus::BusBuilder;
/// use tower_outbox::dummy::Dummy;
/// use tower_outbox::{Bus, Settings, cli};
///
/// fn configured(builder: BusBuilder<'_>) -> BusBuilder<'_> {
///     builder.with_backend("acme.Log", |_| Ok::<_, std::io::Error>(Dummy::new()))
/// }
///
/// fn main() -> ExitCode {
///     let mut args = std::env::args_os().skip(1);
///     if args.next().is_some_and(|first| first == "outbox") {
///         return cli::run("orders outbox", args, configured); // orders outbox --settings app.toml check
///     }
///     // .. start the runtime; configured(Bus::builder(&settings)).start().await ..
///     ExitCode::SUCCESS
/// }
/// ```
///
/// # Errors
/// The exit codes are 0 done, 1 failed or a check found a fault, 2 wrong usage, 3 not found, 4 in use or unreachable.
#[must_use]
pub fn run(
    name: &str,
    args: impl IntoIterator<Item = OsString>,
    configure: impl for<'a> Fn(BusBuilder<'a>) -> BusBuilder<'a> + 'static,
) -> ExitCode {
    let args = std::iter::once(OsString::from(name)).chain(args);
    let parsed = Cli::command().bin_name(name).try_get_matches_from(args);
    let Cli { global, command } = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            let error = without_secrets(error);
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let output = Output { json: global.json, quiet: global.quiet };
    log(output);
    match execute(global, output, &command, Box::new(configure)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(message) = failure.message {
                let _ = writeln!(io::stderr(), "tower-outbox: {}", output::harmless(&message));
            }
            ExitCode::from(failure.code)
        }
    }
}

fn execute(global: Global, output: Output, command: &Command, configure: Configure) -> Result<(), CliError> {
    if tokio::runtime::Handle::try_current().is_ok() {
        return Err(CliError::failed("cli::run blocks: call it outside of the async runtime"));
    }
    let runtime = Runtime::new().map_err(|error| CliError::error(&error))?;
    let context = Context { global, output, runtime, configure };
    match command {
        Command::Check(check) => check.run(&context),
        Command::Describe(describe) => describe.run(&context),
        Command::Send(send) => send.run(&context),
        Command::Status(status) => status.run(&context),
        Command::List(list) => list.run(&context),
        Command::Show(show) => show.run(&context),
        Command::Requeue(requeue) => requeue.run(&context),
        Command::Drop(drop) => drop.run(&context),
        Command::Dashboard(dashboard) => dashboard.run(&context),
        Command::DeadLetters(dead_letters) => dead_letters.run(&context),
        Command::Export(export) => export.run(&context),
        Command::Import(import) => import.run(&context),
        #[cfg(feature = "_sql")]
        Command::Migrate(migrate) => migrate.run(&context),
        #[cfg(any(feature = "kubemq", feature = "wavemq"))]
        Command::Serve(serve) => serve.run(&context),
        #[cfg(feature = "signing")]
        Command::Keys(keys) => keys.run(&context),
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
        // The app may have set one.
        .try_init()
        .ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_fit_each_other() {
        Cli::command().debug_assert();
    }
}
