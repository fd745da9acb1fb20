//! The drops that wait, at the top of every page.

use std::time::SystemTime;

use maud::{Markup, html};

use super::text::short;
use crate::admin::{LaterDrop, format_time};
use crate::util::readable::{count, span};

/// The drops that wait, each with a button and the time that is left, which the script counts down.
pub(super) fn notices(drops: &[LaterDrop]) -> Markup {
    html! {
        div data-part="drops" { @for drop in drops { (notice(drop)) } }
    }
}

fn notice(drop: &LaterDrop) -> Markup {
    let left = drop.due.duration_since(SystemTime::now()).unwrap_or_default();
    let due = format_time(drop.due);
    let of_day = due.get(11..19).unwrap_or(&due);
    html! {
        form.note.warn.row data-key=(drop.id) method="post" action="undo" {
            p {
                (count(drop.messages as u64, "message")) " will be dropped in "
                span role="timer" data-left=(left.as_secs()) { (span(left)) }
                ", at " time datetime=(due) { (of_day) " UTC" } ". "
                @match &drop.by {
                    Some(by) => { "Asked for by " bdi { (short(by, 80)) } ". " }
                    None => { "The app did not say who asked. " }
                }
                span.soft { (short(&drop.selection, 120)) }
            }
            input type="hidden" name="id" value=(drop.id);
            button type="submit" { "Undo" }
        }
    }
}
