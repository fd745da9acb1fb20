//! JSON on several lines, every token as it was written: big numbers keep all digits.

use serde::Deserialize;
use serde::de::IgnoredAny;

/// The deepest level that is indented.
const DEEPEST: usize = 40;

/// Breaks a JSON text into lines; `None` if it is none. It does not recurse, however deep the text is.
pub(super) fn pretty(text: &str) -> Option<String> {
    let mut reader = serde_json::Deserializer::from_str(text);
    // This reads without recursion.
    IgnoredAny::deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    Some(broken(text))
}

fn broken(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if quoted {
            out.push(character);
            quoted = escaped || character != '"';
            escaped = !escaped && character == '\\';
            continue;
        }
        match character {
            '"' => {
                quoted = true;
                out.push(character);
            }
            '{' | '[' => {
                out.push(character);
                while characters.next_if(char::is_ascii_whitespace).is_some() {}
                match characters.next_if(|next| matches!(next, '}' | ']')) {
                    Some(end) => out.push(end),
                    None => {
                        depth += 1;
                        line(&mut out, depth);
                    }
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(character);
            }
            ',' => {
                out.push(character);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            character if character.is_ascii_whitespace() => {}
            character => out.push(character),
        }
    }
    out
}

fn line(out: &mut String, depth: usize) {
    // Deeper levels stay on one line: the indentation would be larger than the text.
    if depth <= DEEPEST {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stay_as_they_are() {
        let text = r#"{"a":12345678901234567890123, "b" : [1.50,true,{}, [ ]],"c":"x,\"{ y"}"#;
        let lines = "{\n  \"a\": 12345678901234567890123,\n  \"b\": [\n    1.50,\n    true,\n    {},\n    []\n  ],\n  \"c\": \"x,\\\"{ y\"\n}";
        assert_eq!(pretty(text).unwrap(), lines);
    }

    #[test]
    fn only_json_is_broken_into_lines() {
        for text in ["", "{", "[1,]", "{} {}", "'a'"] {
            assert!(pretty(text).is_none(), "{text}");
        }
        assert_eq!(pretty(" 7 ").unwrap(), "7");
    }

    #[test]
    fn deep_json_neither_overflows_nor_explodes() {
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        let shown = pretty(&deep).unwrap();
        assert!(shown.len() < deep.len() * 2, "{}", shown.len());
    }
}
