//! Messages made of bytes, and shown as text, for the fuzz targets of every room.

use super::{Message, Scalar};

/// A message: lines of its fields, an empty line, and its body.
///
/// ```text
/// user.created
/// @key: user-7
/// name: a header
///
/// {"id": 7}
/// ```
pub(crate) fn message(data: &[u8]) -> Option<Message> {
    let split = data.windows(2).position(|bytes| bytes == b"\n\n").unwrap_or(data.len());
    let body = data.get(split + 2..).unwrap_or_default().to_vec();
    let head = String::from_utf8_lossy(&data[..split]);
    let mut lines = head.lines();
    let mut message = Message::new(lines.next()?.to_owned(), body).ok()?;
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        message = match name {
            "@content-type" => message.with_content_type(value.to_owned()),
            "@key" => message.with_key(value),
            "@priority" => message.with_priority(value.parse().ok()?),
            "@time" => message.with_time(humantime::parse_rfc3339_weak(value).ok()?),
            "@expiry" => message.with_expiry(std::time::Duration::from_millis(value.parse().ok()?)),
            _ => message.with_header(name.to_owned(), scalar(value)),
        };
    }
    Some(message)
}

fn scalar(text: &str) -> Scalar {
    match (text, text.parse::<i64>(), text.parse::<f64>()) {
        ("null", ..) => Scalar::Null,
        ("true" | "false", ..) => Scalar::Bool(text == "true"),
        _ if text.starts_with('"') => Scalar::from(text.trim_matches('"').to_owned()),
        (_, Ok(whole), _) => Scalar::Int(whole),
        (_, _, Ok(float)) => Scalar::Float(float),
        _ => Scalar::from(text.to_owned()),
    }
}

/// All of a message that can be compared, whatever the order of its headers.
pub(crate) fn shown(message: &Message) -> String {
    let mut headers: Vec<_> = message.headers().map(|(name, value)| format!("{name}: {value:?}")).collect();
    headers.sort();
    let (time, expiry, priority) = (message.time(), message.expiry(), message.priority());
    format!("{message:?} {time:?} {expiry:?} {priority:?} {headers:?} {:?}", message.body())
}
