//! JSON as Python's `json.dumps(value, sort_keys=True)` writes it, byte by byte: signatures of mqfactory cover this text.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::value::RawValue;

use crate::util::error::BoxError;

/// The deepest nesting that is written. Python itself reads about 1,000 levels.
const DEEPEST: usize = 128;
/// The longest whole number that Python reads, in digits.
const MOST_DIGITS: usize = 4_300;

/// Writes a JSON value as Python writes it after reading it: whole numbers of any size keep their digits, and the last of
/// several fields of one name counts.
pub(super) fn write(value: &RawValue, text: &mut String) -> Result<(), BoxError> {
    write_at(value, text, 0)
}

fn write_at(value: &RawValue, text: &mut String, depth: usize) -> Result<(), BoxError> {
    if depth > DEEPEST {
        return Err(format!("the JSON is nested more than {DEEPEST} deep").into());
    }
    let json = value.get();
    match json.as_bytes().first() {
        Some(b'{') => {
            // Rust and Python sort alike: the order of UTF-8 is that of code points.
            let fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(json)?;
            text.push('{');
            for (at, (name, value)) in fields.into_iter().enumerate() {
                text.push_str(if at == 0 { "" } else { ", " });
                string(&name, text);
                text.push_str(": ");
                write_at(value, text, depth + 1)?;
            }
            text.push('}');
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(json)?;
            text.push('[');
            for (at, value) in items.into_iter().enumerate() {
                text.push_str(if at == 0 { "" } else { ", " });
                write_at(value, text, depth + 1)?;
            }
            text.push(']');
        }
        Some(b'"') => string(&serde_json::from_str::<Cow<'_, str>>(json)?, text),
        Some(b'-' | b'0'..=b'9') => number(json, text)?,
        _ => text.push_str(json),
    }
    Ok(())
}

/// Writes a string: ASCII, with the rest as `\u` escapes of UTF-16.
pub(super) fn string(value: &str, text: &mut String) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            ' '..='~' => text.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(text, "\\u{unit:04x}");
                }
            }
        }
    }
    text.push('"');
}

fn number(json: &str, text: &mut String) -> Result<(), BoxError> {
    if json.contains(['.', 'e', 'E']) {
        return float(json.parse()?, text);
    }
    if json.len() > MOST_DIGITS {
        return Err(format!("a number has more than {MOST_DIGITS} digits, which Python does not read").into());
    }
    text.push_str(if json == "-0" { "0" } else { json });
    Ok(())
}

/// Writes a float as Python's `repr`: the shortest digits that read back as the same number, with an exponent if that is below
/// -4 or above 15.
pub(super) fn float(value: f64, text: &mut String) -> Result<(), BoxError> {
    if !value.is_finite() {
        return Err(format!("JSON has no number {value}").into());
    }
    let mut shortest = format!("{value:e}");
    // Of two shortest texts that are equally near, Python takes the even one, and Rust the larger one.
    let digits = shortest.bytes().take_while(|byte| *byte != b'e').filter(u8::is_ascii_digit).count();
    let even = format!("{value:.*e}", digits - 1);
    if even.parse() == Ok(value) {
        shortest = even;
    }
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse()?;
    let digits = mantissa.trim_start_matches('-').replace('.', "");
    text.push_str(if value.is_sign_negative() { "-" } else { "" });
    match exponent {
        0..16 => {
            let whole = exponent as usize + 1;
            match digits.split_at_checked(whole) {
                Some((whole, fraction)) => {
                    let _ = write!(text, "{whole}.{}", if fraction.is_empty() { "0" } else { fraction });
                }
                None => {
                    let _ = write!(text, "{digits:0<whole$}.0");
                }
            }
        }
        -4..0 => {
            let zeros = "0".repeat(exponent.unsigned_abs() as usize - 1);
            let _ = write!(text, "0.{zeros}{digits}");
        }
        _ => {
            let (first, rest) = digits.split_at(1);
            let point = if rest.is_empty() { "" } else { "." };
            let sign = if exponent < 0 { '-' } else { '+' };
            let _ = write!(text, "{first}{point}{rest}e{sign}{:02}", exponent.unsigned_abs());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(json: &str) -> Result<String, BoxError> {
        let mut text = String::new();
        write(serde_json::from_str(json)?, &mut text).map(|()| text)
    }

    #[test]
    fn floats_are_those_of_python() {
        for (json, python) in [
            ("0.0", "0.0"),
            ("-0.0", "-0.0"),
            ("1e0", "1.0"),
            ("1e15", "1000000000000000.0"),
            ("1e16", "1e+16"),
            ("123456789012345680.0", "1.2345678901234568e+17"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("1.5E-7", "1.5e-07"),
            ("12.50", "12.5"),
            ("5e-324", "5e-324"),
            ("1.7976931348623157e308", "1.7976931348623157e+308"),
            ("9007199254740993.0", "9007199254740992.0"),
            ("1.1894334094130333e15", "1189433409413033.2"),
        ] {
            assert_eq!(written(json).unwrap(), python);
        }
        assert!(written("1e400").is_err());
    }

    #[test]
    fn whole_numbers_keep_their_digits() {
        for number in ["0", "-7", "9007199254740993", "123456789012345678901234567890"] {
            assert_eq!(written(number).unwrap(), number);
        }
        assert_eq!(written("-0").unwrap(), "0");
        assert!(written(&"7".repeat(4_301)).is_err());
    }

    #[test]
    fn objects_are_sorted_and_strings_are_ascii() {
        let json = r#"{"z":1,"Z":[ 1 ,2],"😀":"\u00e9€\u007f\/","\ufffd":{},"z":[]}"#;
        let python = r#"{"Z": [1, 2], "z": [], "\ufffd": {}, "\ud83d\ude00": "\u00e9\u20ac\u007f/"}"#;
        assert_eq!(written(json).unwrap(), python);
    }

    #[test]
    fn json_that_python_would_not_read_back_is_an_error() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        for json in [deep.as_str(), r#""\ud800""#, r#"{"\udc00": 1}"#, "Infinity", ""] {
            assert!(written(json).is_err(), "{json}");
        }
    }
}
