//! `tower-outbox migrate`.

use clap::Args;
use serde_json::json;

use super::context::Context;
use super::error::CliError;
use crate::util::error::Chain;

/// Install the tables of a transactional outbox, or bring them up to date
#[derive(Args)]
#[command(
    after_help = "The database is OUTBOX.DATABASE_URL of the settings. Apps may run meanwhile. An app migrates the tables \
    itself when it starts, unless OUTBOX.MIGRATE is false."
)]
pub(super) struct Migrate {}

impl Migrate {
    #[allow(clippy::unused_self, reason = "as every command")]
    pub(super) fn run(&self, context: &Context) -> Result<(), CliError> {
        let settings = context.settings()?;
        let outbox = &settings.outbox;
        let version = context.runtime.block_on(async {
            let database = context.database(&settings).await?;
            database.migrate(outbox).await.map_err(|error| Chain(&error).to_string())
        });
        let version = version.map_err(CliError::unreachable)?;
        if context.output.json {
            context.output.document(&json!({"schema": outbox.schema, "version": version}))
        } else {
            context.output.line(format!("the tables of {} have version {version}", outbox.schema))
        }
    }
}
