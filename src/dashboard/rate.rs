//! The rate of a requeue, as a field of a form.

use maud::{Markup, html};

use super::fields::Fields;

/// How many messages a second are requeued, unless the operator writes another number.
pub(super) const RATE: u64 = 100;

/// The least rate of the JSON API.
const LEAST: f64 = 0.001;

/// Returns the rate of a form; `Err` is the text that is no rate.
pub(super) fn rate(fields: &Fields) -> Result<f64, String> {
    let Some(text) = fields.get("rate") else { return Ok(RATE as f64) };
    let rate = text.replace(',', "").parse().ok();
    rate.filter(|rate: &f64| rate.is_finite() && *rate >= LEAST).ok_or_else(|| text.to_owned())
}

/// The field; `wrong` is a text that is no rate.
pub(super) fn field(wrong: Option<&str>) -> Markup {
    html! {
        div.row {
            div.field {
                label {
                    "Messages requeued a second, at most"
                    input name="rate" value=(wrong.map_or_else(|| RATE.to_string(), ToOwned::to_owned)) inputmode="decimal" required
                        autofocus[wrong.is_some()] aria-invalid=[wrong.map(|_| "true")] aria-describedby=[wrong.map(|_| "fault-rate")];
                }
                @if wrong.is_some() { p.fault #fault-rate { "Write messages a second, such as 100; at least " (LEAST) "." } }
            }
        }
    }
}
