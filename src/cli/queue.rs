//! `tower-outbox requeue --queue`: dead letters of a broker.

use std::time::Duration;

use clap::Args;

use super::context::Context;
use super::error::CliError;
use super::filter::{FilterArgs, duration};
#[cfg(feature = "amqp091")]
use crate::backends::amqp091::{
    Amqp091Settings, Amqp091Subscription, BrokerSettings, fill_from_fedora_config,
};
use crate::settings::Settings;
#[cfg(feature = "amqp091")]
use crate::settings::SettingsError;

/// The heading of these options in the help.
const FROM: &str = "From a queue of RabbitMQ (BACKEND amqp091 or fedmsg)";

/// The queue, and the target of its messages.
#[derive(Args, Clone, Debug)]
pub(super) struct FromQueue {
    /// Requeue the dead letters that are in this queue at the start
    #[arg(long, help_heading = FROM, conflicts_with_all = ["id", "all", "state", "rate", "url"])]
    queue: Option<String>,
    /// Publish to this exchange, '' for the default exchange; by default each message returns to its queue
    #[arg(long, help_heading = FROM, requires = "routing_key")]
    exchange: Option<String>,
    /// Publish with this routing key
    #[arg(long, help_heading = FROM, value_name = "KEY", requires = "exchange")]
    routing_key: Option<String>,
    /// Allow dead letters to go back to this queue; may be repeated. By default dead letters of 'orders.dead' or
    /// 'dead_letter.orders' go back to 'orders' only
    #[arg(long, help_heading = FROM, value_name = "QUEUE", conflicts_with = "exchange")]
    back_to: Vec<String>,
    /// Requeue at most this many
    #[arg(long, help_heading = FROM, value_name = "N")]
    limit: Option<u64>,
    /// Wait this long after each message: 100ms, 1s
    #[arg(long, help_heading = FROM, value_name = "TIME", value_parser = duration)]
    wait: Option<Duration>,
    /// Requeue only messages with this header; may be repeated
    #[arg(long, help_heading = FROM, value_name = "NAME=VALUE", value_parser = name_and_value)]
    header: Vec<(String, String)>,
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("no '='; write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl FromQueue {
    /// Whether --queue is given.
    pub(super) fn is_given(&self) -> Result<bool, CliError> {
        let options = self.exchange.is_some()
            || !self.back_to.is_empty()
            || self.limit.is_some()
            || self.wait.is_some()
            || !self.header.is_empty();
        match (&self.queue, options) {
            (None, true) => {
                let message =
                    "--exchange, --routing-key, --back-to, --limit, --wait and --header are for --queue only";
                Err(CliError { code: 2, message: Some(message.to_owned()) })
            }
            (queue, _) => Ok(queue.is_some()),
        }
    }

    #[cfg(not(feature = "amqp091"))]
    pub(super) fn run(&self, _: &Context, _: &FilterArgs, _: bool) -> Result<(), CliError> {
        Err(CliError::failed("--queue is not compiled in: install tower-outbox with the feature \"amqp091\""))
    }

    #[cfg(feature = "amqp091")]
    pub(super) fn run(&self, context: &Context, filter: &FilterArgs, dry_run: bool) -> Result<(), CliError> {
        let settings = context.settings()?;
        if !["amqp091", "fedmsg"].contains(&settings.backend.as_str()) {
            let backend = settings.backend;
            return Err(CliError::failed(format!(
                "--queue needs BACKEND \"amqp091\" or \"fedmsg\"; BACKEND is {backend:?}"
            )));
        }
        let keys = settings.backend_keys.parse_both().map_err(|error| CliError::error(&error))?;
        let (broker, settings): (BrokerSettings, Amqp091Settings) = keys;
        let settings = Amqp091Settings { broker, ..settings };
        let run = moving::Run { from: self, filter, dry_run, output: context.output };
        context.runtime.block_on(run.run(&settings))
    }
}

/// The settings of RabbitMQ and of its consumers, by their names.
#[cfg(feature = "amqp091")]
type Consumers = (Amqp091Settings, Vec<(String, Amqp091Subscription)>);

/// Reads the settings of RabbitMQ and of its consumers; `None` for another backend.
#[cfg(feature = "amqp091")]
pub(super) fn amqp091(settings: &Settings) -> Result<Option<Consumers>, SettingsError> {
    if !["amqp091", "fedmsg"].contains(&settings.backend.as_str()) {
        return Ok(None);
    }
    let (broker, keys): (BrokerSettings, Amqp091Settings) = settings.backend_keys.parse_both()?;
    let keys = fill_from_fedora_config(&Amqp091Settings { broker, ..keys })
        .map_err(|error| SettingsError::backend(&settings.backend, error))?;
    let tables = settings.consumers.iter();
    let consumers = tables.map(|(name, table)| Ok((name.clone(), table.source_keys.parse()?)));
    Ok(Some((keys, consumers.collect::<Result<_, SettingsError>>()?)))
}

/// Notes where the dead letters of consumers are, if the settings can be read and name consumers.
pub(super) fn note_dead_letters(context: &Context) {
    if let Some(note) = context.load_settings().ok().as_ref().and_then(note) {
        context.output.note(note);
    }
}

fn note(settings: &Settings) -> Option<String> {
    #[cfg(feature = "amqp091")]
    if let Ok(Some((_, consumers))) = amqp091(settings) {
        let queues = consumers.iter().filter(|(_, consumer)| consumer.dead_letter_exchange.is_none());
        let queues: Vec<_> = queues.map(|(_, consumer)| consumer.dead_letter_queue()).collect();
        let first = queues.first()?;
        return Some(format!(
            "the dead letters of consumers are in the broker: {}. `tower-outbox requeue --queue {first}` sends them again",
            queues.join(", ")
        ));
    }
    let has_consumers = !settings.consumers.is_empty();
    has_consumers.then(|| "the dead letters of consumers are in the broker, not in the outbox".to_owned())
}

#[cfg(feature = "amqp091")]
mod moving {
    use serde::Serialize;

    use super::super::output::{Output, Unit, count};
    use super::{CliError, FilterArgs, FromQueue};
    use crate::backends::amqp091::{Amqp091Settings, DeadLetter, DeadLetters, DeadLettersError};

    pub(super) struct Run<'a> {
        pub(super) from: &'a FromQueue,
        pub(super) filter: &'a FilterArgs,
        pub(super) dry_run: bool,
        pub(super) output: Output,
    }

    /// The result.
    #[derive(Default, Serialize)]
    struct Done {
        messages: u64,
        /// Dead letters that did not match, and stay.
        left: u64,
        /// Dead letters without a target, and why the first has none.
        #[serde(skip_serializing_if = "is_zero")]
        refused: u64,
        #[serde(skip)]
        refusal: Option<DeadLettersError>,
        /// The targets of a dry run.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        targets: Vec<Target>,
        dry_run: bool,
    }

    /// A target, and how many dead letters go there.
    #[derive(Serialize)]
    struct Target {
        exchange: String,
        routing_key: String,
        messages: u64,
    }

    impl Done {
        fn add_target(&mut self, (exchange, routing_key): (String, String)) {
            let is_same =
                |known: &&mut Target| known.exchange == exchange && known.routing_key == routing_key;
            match self.targets.iter_mut().find(is_same) {
                Some(target) => target.messages += 1,
                None => self.targets.push(Target { exchange, routing_key, messages: 1 }),
            }
        }
    }

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    fn is_zero(count: &u64) -> bool {
        *count == 0
    }

    impl Run<'_> {
        pub(super) async fn run(&self, settings: &Amqp091Settings) -> Result<(), CliError> {
            let queue = self.from.queue.as_deref().unwrap_or_default();
            let mut letters = DeadLetters::open(settings, queue).await.map_err(|error| failure(&error))?;
            let mut done = Done { dry_run: self.dry_run, ..Done::default() };
            let moved = self.move_all(&mut letters, &mut done).await;
            letters.close().await;
            if let Err(error) = moved {
                let CliError { code, message } = failure(&error);
                let before = count(done.messages, "dead letter");
                let message = message.map(|message| match self.dry_run {
                    true => message,
                    false => {
                        format!("{message}; {before} requeued before, the others are still in the queue")
                    }
                });
                return Err(CliError { code, message });
            }
            if self.output.json {
                self.output.document(&done)?;
            } else if done.messages > 0 || done.refused == 0 {
                let verb = if self.dry_run { "would requeue" } else { "requeued" };
                self.output.line(format!("{verb} {}", count(done.messages, "dead letter")))?;
                for Target { exchange, routing_key, messages } in &done.targets {
                    let to = match exchange.as_str() {
                        "" => format!("the queue {routing_key:?}"),
                        exchange => format!("the exchange {exchange:?} with the routing key {routing_key:?}"),
                    };
                    self.output.line(format!("  {messages} to {to}"))?;
                }
            }
            match done.refusal {
                None => Ok(()),
                Some(error) => {
                    let CliError { code, message } = failure(&error);
                    let left = count(done.refused, "dead letter");
                    Err(CliError {
                        code,
                        message: message
                            .map(|message| format!("{message}; {left} left in the queue for this")),
                    })
                }
            }
        }

        async fn move_all(&self, letters: &mut DeadLetters, done: &mut Done) -> Result<(), DeadLettersError> {
            let bar = self.output.progress(Some(letters.left().into()), Unit::Messages);
            while self.from.limit.is_none_or(|limit| done.messages < limit) {
                let Some(letter) = letters.next().await? else { break };
                bar.inc(1);
                if !self.is_meant(letters, &letter) {
                    done.left += 1;
                    continue;
                }
                let target = match (&self.from.exchange, &self.from.routing_key) {
                    (Some(exchange), Some(routing_key)) => Ok((exchange.clone(), routing_key.clone())),
                    _ => letters.target(&letter, &self.from.back_to),
                };
                let target = match target {
                    Ok(target) => target,
                    // One without a target does not block the others.
                    Err(error) => {
                        done.refused += 1;
                        done.refusal.get_or_insert(error);
                        continue;
                    }
                };
                if self.dry_run {
                    done.add_target(target);
                } else {
                    letters.requeue(letter, target).await?;
                }
                done.messages += 1;
                if let Some(wait) = self.from.wait.filter(|_| !self.dry_run && letters.left() > 0) {
                    tokio::time::sleep(wait).await;
                }
            }
            bar.finish_and_clear();
            Ok(())
        }

        fn is_meant(&self, letters: &DeadLetters, letter: &DeadLetter) -> bool {
            let message = letters.message(letter);
            let has = |(name, value): &(String, String)| {
                let of_message = message.as_ref().and_then(|message| message.header(name));
                let found = of_message.map(ToString::to_string).or_else(|| letter.header(name));
                found.as_ref() == Some(value)
            };
            self.from.header.iter().all(has)
                && self.filter.matches(message.as_ref(), letter.reason().as_deref())
        }
    }

    fn failure(error: &DeadLettersError) -> CliError {
        let failure = CliError::error(error);
        match error {
            DeadLettersError::NoQueue(_) => CliError { code: 3, ..failure },
            DeadLettersError::Unreachable(_) => CliError { code: 4, ..failure },
            _ => failure,
        }
    }
}
