//! Foreign texts, times and numbers as HTML.

use std::fmt::Write;
use std::time::SystemTime;

use maud::{Escaper, Markup, PreEscaped, html};

use crate::util::readable::ago;

/// A foreign text. Characters that are not seen, or that reorder others, are shown by their numbers.
pub(super) fn visible(text: &str) -> Markup {
    let mut out = String::with_capacity(text.len());
    let mut plain = 0;
    for (at, character) in text.char_indices() {
        if !is_hidden(character) {
            continue;
        }
        // Writing to a String does not fail.
        let _ = Escaper::new(&mut out).write_str(&text[plain..at]);
        let _ = write!(out, "<span class=\"esc\">{}</span>", character.escape_unicode());
        plain = at + character.len_utf8();
    }
    let _ = Escaper::new(&mut out).write_str(&text[plain..]);
    PreEscaped(out)
}

/// A foreign text as the key of a row, by which the script knows the row again.
pub(super) fn key(text: &str) -> String {
    text.chars().map(|c| if is_hidden(c) { c.escape_unicode().to_string() } else { c.to_string() }).collect()
}

/// Whether a character is not seen, or changes how others are shown.
pub(super) fn is_hidden(character: char) -> bool {
    if character == '\n' || character == '\t' {
        return false;
    }
    character.is_control()
        || matches!(
            character,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
                | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// The start of a foreign text, on one line.
pub(super) fn short(text: &str, length: usize) -> Markup {
    let start: String = text.chars().take(length).map(|c| if c == '\n' { ' ' } else { c }).collect();
    let is_cut = start.len() < text.len();
    html! { (visible(&start)) @if is_cut { "…" } }
}

/// How long ago a time was, with the time itself.
pub(super) fn time_ago(time: SystemTime) -> Markup {
    let exact = crate::admin::format_time(time);
    html! { time datetime=(exact) title=(exact) { (ago(time)) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_characters_are_shown_by_their_numbers() {
        assert_eq!(visible("a\u{202e}b").0, "a<span class=\"esc\">\\u{202e}</span>b");
        assert_eq!(visible("\0\u{1b}").0.matches("<span").count(), 2);
        assert_eq!(visible("größe ☃\n\tx").0, "größe ☃\n\tx");
    }

    #[test]
    fn markup_is_escaped() {
        assert_eq!(visible("<script>\"&").0, "&lt;script&gt;&quot;&amp;");
        assert_eq!(visible("<\u{200b}>").0, "&lt;<span class=\"esc\">\\u{200b}</span>&gt;");
    }

    #[test]
    fn a_short_text_shows_that_it_is_cut() {
        assert_eq!(short("a\nb", 5).0, "a b");
        assert_eq!(short("☃☃☃", 2).0, "☃☃…");
    }
}
