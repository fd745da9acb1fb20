//! `tower-outbox dead-letters drop`.

use clap::Args;

use super::super::context::Context;
use super::super::error::CliError;
use super::act::{Act, Deed, which};

/// Drop dead letters for good
#[derive(Args)]
#[command(
    group = which(),
    override_usage = "tower-outbox dead-letters drop [OPTIONS] --queue <QUEUE> <ID | --all | conditions>",
    after_help = "A message with the given id is dropped at once. Otherwise the command prints how many messages are selected, and acts \
        with --yes or after you answer y."
)]
pub(super) struct Drop {
    #[command(flatten)]
    act: Act,
}

impl Drop {
    pub(super) fn run(&self, context: &Context) -> Result<(), CliError> {
        self.act.run(context, &Deed::Drop)
    }
}
