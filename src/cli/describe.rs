//! `tower-outbox describe`.

use clap::Args;

use super::context::Context;
use super::error::CliError;
use super::output::harmless;
use crate::bus::AsyncApi;

/// Describe what an app with these settings does: where messages go, what they survive, retries, dead letters
#[derive(Args)]
#[command(after_help = "It reads the settings alone, and asks neither a broker nor the app.")]
pub(super) struct Describe {
    /// Print an AsyncAPI 3 document
    #[arg(long)]
    asyncapi: bool,
    /// With --asyncapi: the title of the app
    #[arg(long, value_name = "TEXT", default_value = "app", requires = "asyncapi")]
    title: String,
    /// With --asyncapi: the version of the app
    #[arg(long, value_name = "TEXT", default_value = "0.0.0", requires = "asyncapi")]
    app_version: String,
}

impl Describe {
    pub(super) fn run(&self, context: &Context) -> Result<(), CliError> {
        let settings = context.settings()?;
        let description = context.builder(&settings).describe();
        if self.asyncapi {
            let document = AsyncApi::new(&self.title, &self.app_version, &description).to_json();
            let text = serde_json::to_string_pretty(&document).map_err(|error| CliError::error(&error))?;
            return context.output.line(text);
        }
        if context.output.json {
            return context.output.document(&description);
        }
        context.output.line(harmless(description.to_string().trim_end()))
    }
}
