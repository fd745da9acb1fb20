//! `tower-outbox dead-letters requeue`.

use std::time::Duration;

use clap::Args;

use super::super::context::Context;
use super::super::error::CliError;
use super::super::filter::duration;
use super::act::{Act, Deed, which};
use crate::bus::dead_letter_routes;
use crate::source::dead_letters::Target;

/// The heading of these options in the help.
const WHERE: &str = "Where to";

/// Send dead letters again, without their failed attempts
#[derive(Args)]
#[command(
    group = which(),
    override_usage = "tower-outbox dead-letters requeue [OPTIONS] --queue <QUEUE> <ID | --all | conditions>",
    after_help = "A message with the given id is requeued at once. Otherwise the command prints how many messages are selected and where they \
        go, and acts with --yes or after you answer y. A message leaves the queue after the broker has confirmed its copy."
)]
pub(super) struct Requeue {
    #[command(flatten)]
    act: Act,
    /// Send to this queue or address; by default each message returns to its own
    #[arg(long, help_heading = WHERE, value_name = "QUEUE", conflicts_with_all = ["exchange", "back_to"])]
    to: Option<String>,
    /// Publish to this exchange of AMQP 0-9-1
    #[arg(long, help_heading = WHERE, requires = "routing_key")]
    exchange: Option<String>,
    /// Publish with this routing key
    #[arg(long, help_heading = WHERE, value_name = "KEY", requires = "exchange")]
    routing_key: Option<String>,
    /// Allow dead letters to go back to this queue; may be repeated. By default dead letters of 'orders.dead' or
    /// 'dead_letter.orders' go back to 'orders' only, and others to the queues of consumers in the settings
    #[arg(long, help_heading = WHERE, value_name = "QUEUE", conflicts_with = "exchange")]
    back_to: Vec<String>,
    /// Wait this long after each message: 100ms, 1s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    wait: Option<Duration>,
}

impl Requeue {
    pub(super) fn run(&self, context: &Context) -> Result<(), CliError> {
        let settings = context.settings()?;
        let queue = self.act.queue();
        let own = dead_letter_routes(&settings).into_iter().filter(|route| route.dead == queue);
        let back_to = self.back_to.iter().cloned().chain(own.map(|route| route.queue)).collect();
        let to = match (&self.exchange, &self.routing_key) {
            (Some(exchange), Some(routing_key)) => {
                Some(Target::Exchange { exchange: exchange.clone(), routing_key: routing_key.clone() })
            }
            _ => None,
        };
        let deed = Deed::Requeue { to, named: self.to.clone(), back_to, wait: self.wait };
        self.act.run(context, &deed)
    }
}
