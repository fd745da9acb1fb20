//! The queues of the dead letters of consumers, for people to know.

use super::context::Context;
use crate::bus::{DeadLetterRoute, dead_letter_routes};
use crate::settings::Settings;

/// Notes where the dead letters of consumers are, if the settings can be read and name consumers.
pub(super) fn note_dead_letters(context: &Context) {
    if let Some(note) = context.load_settings().ok().as_ref().and_then(note) {
        context.output.note(note);
    }
}

fn note(settings: &Settings) -> Option<String> {
    let routes = dead_letter_routes(settings);
    if let Some(DeadLetterRoute { dead, .. }) = routes.first() {
        let all: Vec<_> = routes.iter().map(|route| route.dead.as_str()).collect();
        return Some(format!(
            "the dead letters of consumers are in the broker: {}. `tower-outbox dead-letters list --queue {dead}` lists them",
            all.join(", ")
        ));
    }
    let has_consumers = !settings.consumers.is_empty();
    has_consumers.then(|| "the dead letters of consumers are in the broker, not in the outbox".to_owned())
}
