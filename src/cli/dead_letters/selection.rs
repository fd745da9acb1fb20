//! The queue, and the dead letters in it that a command means.

use clap::Args;
use uuid::Uuid;

use super::super::context::Context;
use super::super::error::CliError;
use super::super::filter::{Conditions, WHICH};
use crate::bus::{self, OpenDeadLettersError};
use crate::settings::Settings;
use crate::source::dead_letters::{DeadLetter, DeadLetterQueue, DeadLettersError};

/// The queue of dead letters.
#[derive(Args, Clone, Debug)]
pub(super) struct Queue {
    /// The queue of dead letters, such as users.dead; with AMQP 1.0 its address, with NATS its stream
    #[arg(long, value_name = "QUEUE")]
    pub(super) queue: String,
}

/// Conditions; a dead letter must meet all of them.
#[derive(Args, Clone, Debug)]
pub(super) struct Selection {
    #[command(flatten)]
    conditions: Conditions,
    /// With this header; may be repeated
    #[arg(long, help_heading = WHICH, value_name = "NAME=VALUE", value_parser = name_and_value)]
    header: Vec<(String, String)>,
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("no '='; write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Queue {
    /// Opens the queue; with `looks` none of its messages will be settled.
    pub(super) async fn open(
        &self,
        context: &Context,
        settings: &Settings,
        looks: bool,
    ) -> Result<Box<dyn DeadLetterQueue>, CliError> {
        let opening = bus::dead_letters(&settings.backend, &settings.backend_keys, self.queue.clone(), looks);
        let queue = opening.await.map_err(|error| match error {
            OpenDeadLettersError::Settings(error) => CliError::error(&error),
            OpenDeadLettersError::Queue(error) => failure(&error),
        })?;
        if let Some(caution) = queue.caution() {
            context.output.note(caution);
        }
        Ok(queue)
    }
}

impl Selection {
    pub(super) fn matches(&self, letter: &DeadLetter) -> bool {
        let of_message = |name: &str| letter.message.as_ref().ok()?.header(name).map(ToString::to_string);
        let has = |(name, value): &(String, String)| {
            of_message(name).as_ref() == Some(value) || letter.headers.get(name) == Some(value)
        };
        self.header.iter().all(has) && self.conditions.matches(letter)
    }
}

/// Whether the dead letter is the message of this id.
pub(super) fn is_of(letter: &DeadLetter, id: Uuid) -> bool {
    letter.message.as_ref().is_ok_and(|message| message.id() == id)
}

pub(super) fn failure(error: &DeadLettersError) -> CliError {
    let failure = CliError::error(error);
    match error {
        DeadLettersError::NoQueue(_) => CliError { code: 3, ..failure },
        DeadLettersError::Unreachable(_) | DeadLettersError::Closed(_) => CliError { code: 4, ..failure },
        _ => failure,
    }
}
