//! Messages with everything that an envelope or a broker may reject, for tests.

use std::time::{Duration, SystemTime};

use crate::message::{Message, Scalar, headers};

/// Every combination of odd topics, bodies and headers, with odd times and other fields in turn.
pub(crate) fn odd_messages() -> Vec<Message> {
    let long = |len: usize| "x".repeat(len);
    let topics = ["user.created".to_owned(), long(240), long(255)];
    let bodies: [&[u8]; 9] = [
        b"{}",
        br#"{"a": {"b": [1, 2.50, "\u00fc"]}}"#,
        b"[1]",
        b"7",
        b"\"text\"",
        b"",
        b"{",
        b"{} {}",
        b"\xff\0",
    ];
    let text = |text: String| Scalar::from(text);
    let all_headers: Vec<Vec<(String, Scalar)>> = vec![
        vec![],
        vec![("name".to_owned(), text("value".to_owned())), ("ce-subject".to_owned(), text("s".to_owned()))],
        vec![
            ("petisco-type".to_owned(), text("command".to_owned())),
            ("petisco-version".to_owned(), Scalar::Int(-2)),
        ],
        vec![("petisco-type".to_owned(), text("order".to_owned()))],
        vec![("petisco-version".to_owned(), text("new".to_owned()))],
        vec![("petisco-version".to_owned(), Scalar::Int(i64::MIN))],
        vec![("cloudEvents:id".to_owned(), text("x".to_owned())), ("ce-source".to_owned(), Scalar::Null)],
        vec![("CC".to_owned(), text("x".to_owned()))],
        vec![("nan".to_owned(), Scalar::Float(f64::NAN)), ("large".to_owned(), Scalar::Int(i64::MAX))],
        vec![(long(256), Scalar::Bool(true))],
        vec![("long".to_owned(), text(long(5_000)))],
        (0..=headers::MOST as i64).map(|number| (format!("header{number}"), Scalar::Int(number))).collect(),
    ];
    let epoch = SystemTime::UNIX_EPOCH;
    let day = Duration::from_secs(86_400);
    let times = [epoch + day, epoch - day, epoch + day * 365 * 9_000];
    let finish: [fn(Message) -> Message; 5] = [
        |message| message,
        |message| message.with_key("a key").with_priority(3).with_content_type("application/json"),
        |message| message.with_content_type("a/".to_owned() + &"x".repeat(300)).with_key(""),
        |message| message.with_delay(Duration::from_secs(1)),
        |message| message.with_expiry(Duration::MAX).with_content_type("text/plain\u{e9}"),
    ];
    let mut messages = Vec::new();
    for topic in &topics {
        for body in bodies {
            for headers in &all_headers {
                let message = Message::new(topic.clone(), body.to_vec()).expect("a topic");
                let message = message.with_time(times[messages.len() / all_headers.len() % times.len()]);
                let message = headers
                    .iter()
                    .fold(message, |message, (name, value)| message.with_header(name.clone(), value.clone()));
                messages.push(finish[messages.len() % finish.len()](message));
            }
        }
    }
    messages
}
