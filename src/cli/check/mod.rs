//! `tower-outbox check`.

#[cfg(feature = "_brokers")]
mod certificates;
mod findings;
#[cfg(feature = "amqp091")]
mod queues;
#[cfg(feature = "nats")]
mod streams;

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, absolute};
use std::time::Duration;

use clap::Args;
use serde_json::json;

use self::findings::{CheckLevel, Finding, Findings};
use super::context::Context;
use super::error::CliError;
use super::output::{aligned, count, harmless};
use super::target::Target;
use crate::admin::{HealthReport, StatusReport};
use crate::bus;
#[cfg(feature = "_sql")]
use crate::bus::DatabaseStore;
use crate::messenger::Health;
use crate::settings::{DeliveryMode, Settings, SettingsError};
use crate::util::error::Chain;

/// How long closing connections may take.
const CLOSE: Duration = Duration::from_secs(5);

/// Check settings, certificates and their expiry dates, every broker, and the outbox
#[derive(Args)]
#[command(
    after_help = "The command connects to every broker and sends nothing. With --url it also asks the running app."
)]
pub(super) struct Check {}

impl Check {
    #[allow(clippy::unused_self, reason = "as every command")]
    pub(super) fn run(&self, context: &Context) -> Result<(), CliError> {
        let mut findings = Findings::default();
        match context.load_settings() {
            Ok(settings) => {
                let Settings { backend, delivery, .. } = &settings;
                findings.ok("SETTINGS", format!("BACKEND {backend:?}, DELIVERY \"{delivery}\""));
                #[cfg(feature = "_brokers")]
                certificates::check(&settings, &mut findings);
                context.runtime.block_on(brokers(context, &settings, &mut findings));
                consumers(context, &settings, &mut findings);
                #[cfg(feature = "amqp091")]
                context.runtime.block_on(queues::check(&settings, &mut findings));
                #[cfg(feature = "nats")]
                context.runtime.block_on(streams::check(&settings, &mut findings));
                match settings.delivery {
                    DeliveryMode::Durable => outbox(&settings.outbox.path, &mut findings),
                    #[cfg(feature = "_sql")]
                    DeliveryMode::Transactional => {
                        context.runtime.block_on(database(context, &settings, &mut findings));
                    }
                    _ => {}
                }
            }
            Err(error) => findings.fail("SETTINGS", Chain(&error).to_string()),
        }
        app(context, &mut findings);
        report(context, &findings)
    }
}

fn report(context: &Context, findings: &Findings) -> Result<(), CliError> {
    let (failed, warnings) = (findings.count(CheckLevel::Failed), findings.count(CheckLevel::Warning));
    if context.output.json {
        context.output.document(&json!({"ok": failed == 0, "findings": findings.0}))?;
    } else {
        let row = |finding: &Finding| {
            [finding.level.to_string(), finding.what.to_owned(), harmless(&finding.message)]
        };
        let rows: Vec<_> = findings.0.iter().map(row).collect();
        aligned(&rows).iter().try_for_each(|line| context.output.line(line))?;
        let summary = match (failed, warnings) {
            (0, 0) => "no fault found".to_owned(),
            (0, _) => format!("no fault found; {}", count(warnings, "warning")),
            _ => format!("{failed} failed; {}", count(warnings, "warning")),
        };
        context.output.note(summary);
    }
    if failed == 0 { Ok(()) } else { Err(CliError::silent()) }
}

/// Sets up the backend, and connects to every broker.
async fn brokers(context: &Context, settings: &Settings, findings: &mut Findings) {
    let (messenger, probe) = match context.builder(settings).messenger().await {
        Ok(made) => made,
        // By convention the name of an app's own backend has a dot.
        Err(SettingsError::UnknownBackend { name, .. }) if name.contains('.') => {
            return findings
                .warn("BACKEND", format!("{name:?} is a backend of the app; only the app can check it"));
        }
        Err(error) => {
            let text = format!("{}; no broker was tried", Chain(&error));
            return match error {
                SettingsError::UnknownKey { .. }
                | SettingsError::Value { .. }
                | SettingsError::NoBackend { .. } => findings.fail_settings(text),
                _ => findings.fail("BACKEND", text),
            };
        }
    };
    if settings.backend == "dummy" {
        return findings.warn("BACKEND", "\"dummy\" logs messages and sends them nowhere");
    }
    let brokers = match probe {
        Some(probe) => probe.brokers().await,
        None => vec![(format!("BACKEND {:?}", settings.backend), messenger.health().await)],
    };
    for (broker, health) in brokers {
        match health {
            Health::Up => findings.ok("URLS", format!("{broker}: connected")),
            Health::Down { reason } => findings.fail("URLS", format!("{broker}: {reason}")),
        }
    }
    messenger.close(CLOSE).await;
}

/// Checks the tables of consumers.
fn consumers(context: &Context, settings: &Settings, findings: &mut Findings) {
    let is_own = context.builder(settings).has_backend(&settings.backend);
    for (name, checked) in bus::check_consumers(settings) {
        let name = name.to_uppercase();
        match checked {
            Ok(()) if is_own => {
                findings.ok("CONSUMERS", format!("{name}: the app's own backend reads its keys"))
            }
            Ok(()) => findings.ok("CONSUMERS", format!("{name} has the keys of its backend")),
            Err(error @ SettingsError::UnknownKey { .. }) => {
                findings.fail_settings(Chain(&error).to_string())
            }
            Err(error) => findings.fail("CONSUMERS", format!("{name}: {}", Chain(&error))),
        }
    }
}

/// Whether the database can be reached, and has the tables.
#[cfg(feature = "_sql")]
async fn database(context: &Context, settings: &Settings, findings: &mut Findings) {
    let mut outbox = settings.outbox.clone();
    outbox.migrate = false;
    let opened = async {
        let database = context.database(settings).await?;
        database.open(&outbox).await.map_err(|error| Chain(&error).to_string())
    };
    match opened.await.map(DatabaseStore::into_store) {
        Ok(store) => {
            findings.ok("OUTBOX", format!("{} can be reached and has the tables", store.location()));
            store.close().await;
        }
        Err(error) => findings.fail("OUTBOX", error),
    }
}

/// Checks that the outbox is writable, without opening it: the app may have it open.
fn outbox(path: &Path, findings: &mut Findings) {
    let path = absolute(path).unwrap_or_else(|_| path.to_owned());
    let (folder, there) = match (path.try_exists(), path.parent()) {
        (Ok(false), Some(parent)) => (parent, false),
        _ => (path.as_path(), true),
    };
    if let Some(kind) = crate::util::file_system::volatile(folder) {
        let path = path.display();
        findings.warn(
            "OUTBOX",
            format!("{path} is on {kind}: its messages are lost with the container or the machine"),
        );
    }
    match (try_write(folder), there) {
        (Ok(()), true) => findings.ok("OUTBOX", format!("{} is writable", path.display())),
        (Ok(()), false) => {
            findings.ok("OUTBOX", format!("{} does not exist yet and can be created", path.display()));
        }
        (Err(error), true) => findings.fail("OUTBOX", format!("cannot write in {}: {error}", path.display())),
        (Err(error), false) => findings.fail(
            "OUTBOX",
            format!(
                "{} does not exist and cannot be created in {}: {error}",
                path.display(),
                folder.display()
            ),
        ),
    }
}

/// Creates a file there, and removes it.
fn try_write(folder: &Path) -> io::Result<()> {
    let probe = folder.join(format!(".tower-outbox-check-{}", std::process::id()));
    OpenOptions::new().write(true).create_new(true).open(&probe)?;
    std::fs::remove_file(&probe)
}

/// Asks the running app, if there is a URL.
fn app(context: &Context, findings: &mut Findings) {
    let Some(app) = Target::app(context) else { return };
    match app.get::<StatusReport>(&["status"], &[]) {
        Ok(StatusReport { health: Some(HealthReport::Down { reason }), .. }) => {
            findings.fail("APP", format!("running; the broker is down: {reason}"));
        }
        Ok(StatusReport { outbox: Some(outbox), .. }) => {
            let (pending, dead) = (count(outbox.pending, "message"), count(outbox.dead, "dead letter"));
            findings.ok("APP", format!("running; the broker is up; pending: {pending}; {dead}"));
        }
        Ok(_) => findings.ok("APP", "running; the broker is up"),
        Err(failure) => findings.fail("APP", failure.message.unwrap_or_default()),
    }
}
