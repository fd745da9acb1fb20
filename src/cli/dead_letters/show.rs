//! `tower-outbox dead-letters show`.

use clap::Args;
use uuid::Uuid;

use super::super::context::Context;
use super::super::error::CliError;
use super::super::show::print;
use super::selection::{Queue, failure, is_of};
use crate::admin::StoredMessage;

/// Show one dead letter: the reason, failed attempts, headers, body
#[derive(Args)]
pub(super) struct Show {
    #[command(flatten)]
    queue: Queue,
    /// The id of the message
    id: Uuid,
}

impl Show {
    pub(super) fn run(&self, context: &Context) -> Result<(), CliError> {
        let settings = context.settings()?;
        let message = context.runtime.block_on(async {
            let mut queue = self.queue.open(context, &settings, true).await?;
            let found: Result<Option<StoredMessage>, CliError> = async {
                while let Some(letter) = queue.next().await.map_err(|error| failure(&error))? {
                    if is_of(&letter, self.id) {
                        return Ok(Some(StoredMessage::of_dead_letter(&letter, true)));
                    }
                }
                Ok(None)
            }
            .await;
            queue.close().await;
            found
        })?;
        match message {
            Some(message) => print(context, &message),
            None => Err(CliError::not_found(format!(
                "there is no dead letter {} in {:?}",
                self.id, self.queue.queue
            ))),
        }
    }
}
