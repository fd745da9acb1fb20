//! Rates over the last hour, as a picture and as a table.

use maud::{Markup, html};

use crate::util::readable::grouped;

/// The size of the picture, in its own units.
const WIDTH: usize = 600;
const HEIGHT: usize = 120;

/// Shows how many messages were stored and confirmed in each minute.
pub(super) fn rates(stored: &[u64], confirmed: &[u64]) -> Markup {
    let most = stored.iter().chain(confirmed).copied().max().unwrap_or(0);
    let sum = |counts: &[u64]| grouped(counts.iter().sum());
    let label = format!(
        "In the last hour {} messages were stored and {} confirmed; at most {} in a minute",
        sum(stored),
        sum(confirmed),
        grouped(most)
    );
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(label) preserveAspectRatio="none" {
            line.axis x1="0" y1=(HEIGHT - 1) x2=(WIDTH) y2=(HEIGHT - 1) {}
            polyline.stored points=(points(stored, most)) {}
            polyline.sent points=(points(confirmed, most)) {}
        }
        p.soft {
            span.key {} " stored " span.key.sent {} " confirmed, in each minute of the last hour; at most "
            (grouped(most))
        }
        details {
            summary { "The numbers" }
            div.scroll tabindex="0" role="region" aria-label="Messages in each minute" {
                table {
                    thead { tr { th scope="col" { "Minutes ago" } th.n scope="col" { "Stored" } th.n scope="col" { "Confirmed" } } }
                    tbody {
                        @for (ago, (stored, confirmed)) in stored.iter().rev().zip(confirmed.iter().rev()).enumerate() {
                            tr { td { (ago) } td.n { (grouped(*stored)) } td.n { (grouped(*confirmed)) } }
                        }
                    }
                }
            }
        }
    }
}

/// The points of a line.
fn points(counts: &[u64], most: u64) -> String {
    let step = WIDTH as f64 / counts.len().saturating_sub(1).max(1) as f64;
    let height = |count: u64| (HEIGHT - 2) as f64 * (1.0 - count as f64 / most.max(1) as f64) + 1.0;
    let points =
        counts.iter().enumerate().map(|(at, count)| format!("{:.0},{:.1}", at as f64 * step, height(*count)));
    points.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_minute_reaches_the_top() {
        assert_eq!(points(&[0, 10], 10), "0,119.0 600,1.0");
        assert_eq!(points(&[0], 0), "0,119.0");
    }
}
