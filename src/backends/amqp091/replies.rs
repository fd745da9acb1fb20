//! Replies on the wire, over RabbitMQ's direct reply-to: an HTTP response as a message, and back.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, StatusCode};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use super::outgoing::Publish;
use crate::message::headers::{MOST, STATUS};
use crate::reply::Reply;
use crate::util::error::BoxError;

/// The queue of a channel's own replies.
pub(super) const DIRECT: &str = "amq.rabbitmq.reply-to";

/// Whether the broker made this reply address: it leads to the channel of the caller, and to no queue.
pub(super) fn is_direct(address: &str) -> bool {
    address.strip_prefix(DIRECT).is_some_and(|rest| rest.len() > 1 && rest.starts_with('.'))
}

/// The reply as it is published.
pub(super) fn encode(address: &str, request: &BasicProperties, reply: Reply) -> Publish {
    let (head, body) = reply.into_parts();
    let mut table = FieldTable::default();
    table.insert(STATUS.into(), AMQPValue::LongInt(head.status.as_u16().into()));
    for name in head.headers.keys().filter(|name| *name != CONTENT_TYPE) {
        let all: Vec<_> =
            head.headers.get_all(name).iter().map(|value| long_string(value.as_bytes())).collect();
        let value = match <[AMQPValue; 1]>::try_from(all) {
            Ok([one]) => one,
            Err(all) => AMQPValue::FieldArray(all.into()),
        };
        table.insert(name.as_str().into(), value);
    }
    let mut properties = BasicProperties::default().with_headers(table).with_delivery_mode(1);
    if let Some(correlation_id) = request.correlation_id() {
        properties = properties.with_correlation_id(correlation_id.clone());
    }
    if let Some(content_type) = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) {
        properties = properties.with_content_type(content_type.into());
    }
    Publish { exchange: String::new(), routing_key: address.to_owned(), mandatory: false, properties, body }
}

fn long_string(bytes: &[u8]) -> AMQPValue {
    AMQPValue::LongString(bytes.to_vec().into())
}

/// The HTTP response in a message. Without a status it is that of another program: 200.
pub(super) fn decode(properties: &BasicProperties, body: Vec<u8>) -> Result<Reply, BoxError> {
    let mut reply = Reply::new(Bytes::from(body));
    let mut put = |name: HeaderName, value: &[u8]| {
        if reply.headers().len() >= MOST {
            return Err(format!("it has more than {MOST} headers"));
        }
        if let Ok(value) = HeaderValue::from_bytes(value) {
            reply.headers_mut().append(name, value);
        }
        Ok(())
    };
    let mut status = Some(200);
    for (name, value) in properties.headers().iter().flat_map(|table| table.inner()) {
        if name.as_str() == STATUS {
            status = number(value);
            continue;
        }
        let Ok(name) = HeaderName::from_bytes(name.as_str().as_bytes()) else { continue };
        match value {
            AMQPValue::LongString(text) => put(name, text.as_bytes())?,
            AMQPValue::FieldArray(all) => {
                for value in all.as_slice() {
                    if let AMQPValue::LongString(text) = value {
                        put(name.clone(), text.as_bytes())?;
                    }
                }
            }
            _ => {}
        }
    }
    if let Some(content_type) = properties.content_type() {
        put(CONTENT_TYPE, content_type.as_str().as_bytes())?;
    }
    let status = status.filter(|status| (200..600).contains(status)).ok_or("its status is none of HTTP")?;
    *reply.status_mut() = StatusCode::from_u16(status)?;
    Ok(reply)
}

fn number(value: &AMQPValue) -> Option<u16> {
    match value {
        AMQPValue::LongInt(number) => u16::try_from(*number).ok(),
        AMQPValue::LongLongInt(number) => u16::try_from(*number).ok(),
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok()?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_survives_the_wire() {
        let mut reply = Reply::new(Bytes::from_static(b"gone"));
        *reply.status_mut() = StatusCode::GONE;
        reply.headers_mut().append(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        reply.headers_mut().append("x-one", HeaderValue::from_static("1"));
        reply.headers_mut().append("set-cookie", HeaderValue::from_static("a=1"));
        reply.headers_mut().append("set-cookie", HeaderValue::from_static("b=2"));
        let request = BasicProperties::default().with_correlation_id("7".into());
        let sent = encode("amq.rabbitmq.reply-to.x", &request, reply.clone());
        assert_eq!((sent.exchange.as_str(), sent.routing_key.as_str()), ("", "amq.rabbitmq.reply-to.x"));
        assert_eq!(sent.properties.correlation_id().as_ref().unwrap().as_str(), "7");
        let got = decode(&sent.properties, sent.body.to_vec()).unwrap();
        assert_eq!(
            (got.status(), got.body(), got.headers()),
            (reply.status(), reply.body(), reply.headers())
        );
    }

    #[test]
    fn a_reply_of_another_program_is_200_and_an_odd_status_an_error() {
        assert_eq!(decode(&BasicProperties::default(), vec![1]).unwrap().status(), StatusCode::OK);
        for odd in [AMQPValue::LongInt(101), AMQPValue::LongInt(-1), AMQPValue::Void, long_string(b"x")] {
            let mut table = FieldTable::default();
            table.insert(STATUS.into(), odd.clone());
            let properties = BasicProperties::default().with_headers(table);
            assert!(decode(&properties, Vec::new()).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn only_the_broker_makes_a_reply_address() {
        assert!(is_direct("amq.rabbitmq.reply-to.g1h2AA5yZXBseUAxMjM"));
        for other in
            ["", "orders", "amq.rabbitmq.reply-to", "amq.rabbitmq.reply-to.", "amq.rabbitmq.reply-tox.y"]
        {
            assert!(!is_direct(other), "{other}");
        }
    }
}
