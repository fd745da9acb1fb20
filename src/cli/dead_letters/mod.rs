//! `tower-outbox dead-letters`: the dead letters of consumers, in a queue of the broker.

mod act;
mod drop;
mod list;
mod requeue;
mod selection;
mod show;

use clap::{Args, Subcommand};

use self::drop::Drop;
use self::list::List;
use self::requeue::Requeue;
use self::show::Show;
use super::context::Context;
use super::error::CliError;

/// Look into the dead letters of consumers, in a queue of the broker, and operate on them
#[derive(Args)]
#[command(
    after_help = "A queue of RabbitMQ, with BACKEND amqp091 or fedmsg; an address of AMQP 1.0, with amqp10 or rhmsg; a queue of KubeMQ; or one of channels, \
    while the app is stopped. Messages that stay keep their position, also when the command is killed."
)]
pub(super) struct DeadLetters {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    List(List),
    Show(Show),
    Requeue(Requeue),
    Drop(Drop),
}

impl DeadLetters {
    pub(super) fn run(&self, context: &Context) -> Result<(), CliError> {
        match &self.command {
            Command::List(list) => list.run(context),
            Command::Show(show) => show.run(context),
            Command::Requeue(requeue) => requeue.run(context),
            Command::Drop(drop) => drop.run(context),
        }
    }
}
