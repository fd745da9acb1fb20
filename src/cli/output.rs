//! Output: results on stdout, everything else on stderr.

use std::fmt::Display;
use std::io::{self, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::error::CliError;
pub(super) use crate::util::readable::{ago, count, harmless, span};

#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    pub(super) json: bool,
    pub(super) quiet: bool,
}

impl Output {
    /// A line of the result.
    #[allow(clippy::unused_self, reason = "results go through here")]
    pub(super) fn line(self, line: impl Display) -> Result<(), CliError> {
        writeln!(io::stdout(), "{line}").map_err(|error| CliError::stdout(&error))
    }

    /// The result as one JSON document, on one line.
    pub(super) fn document<T: Serialize>(self, value: &T) -> Result<(), CliError> {
        let text = serde_json::to_string(value).map_err(|error| CliError::error(&error))?;
        self.line(text)
    }

    /// A note for people, on stderr.
    pub(super) fn note(self, note: impl Display) {
        if !self.quiet {
            // A closed stderr is no fault.
            let _ = writeln!(io::stderr(), "{note}");
        }
    }

    /// A progress bar on stderr, if stderr is a terminal. Without a length it is a counter.
    pub(super) fn progress(self, length: Option<u64>, unit: Unit) -> ProgressBar {
        let target = if self.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(length, target);
        let template = match (unit, length) {
            (Unit::Messages, Some(_)) => "{bar:40} {human_pos}/{human_len} messages, {eta} left",
            (Unit::Messages, None) => "{spinner} {human_pos} messages",
            (Unit::Bytes, Some(_)) => "{bar:40} {bytes}/{total_bytes}, {eta} left",
            (Unit::Bytes, None) => "{spinner} {bytes}",
        };
        match ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }
    }
}

/// The unit of a progress bar.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unit {
    Messages,
    Bytes,
}

/// The widest column. A longer cell is not cut.
const WIDEST: usize = 100;

/// Lines with aligned columns; the last column is ragged.
pub(super) fn aligned<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(|column| width(column).min(WIDEST));
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// The [harmless] text on one line, of at most `length` characters.
pub(super) fn short(text: &str, length: usize) -> String {
    let line = harmless(text).replace(['\n', '\t'], " ");
    match line.char_indices().nth(length) {
        None => line,
        Some(_) => line.chars().take(length - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_told_what_to_do() {
        assert_eq!(harmless("a\u{1b}[2Jb\r\n\tc\u{9b}"), "a\u{fffd}[2Jb\u{fffd}\n\tc\u{fffd}");
        assert_eq!(short("a\nb", 10), "a b");
        assert_eq!(short("abcdef", 6), "abcdef");
        assert_eq!(short("☃☃☃☃", 3), "☃☃…");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["ä".to_owned(), "b".to_owned()], ["long".to_owned(), String::new()]];
        assert_eq!(aligned(&rows), ["ä     b", "long"]);
        let rows = [["x".repeat(70_000), "b".to_owned()], ["long".to_owned(), "c".to_owned()]];
        assert_eq!(aligned(&rows).iter().map(String::len).collect::<Vec<_>>(), [70_003, 103]);
    }
}
