//! Requests and their replies: the reply-to address and the correlation-id of AMQP 1.0.

use std::time::Duration;

use fe2o3_amqp_types::messaging::{Body, Data, Header, MessageId, Properties};
use fe2o3_amqp_types::primitives::{Binary, OrderedMap, SimpleValue, Symbol};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::time::Instant;

use super::original::Original;
use super::outgoing::{AmqpMessage, assemble};
use crate::message::headers::{MOST, STATUS};
use crate::reply::{Reply, ReplyTo};
use crate::util::deadline::after;
use crate::util::error::BoxError;

/// Where the reply to a message goes, if its address begins like one of these.
///
/// A broker vouches for no reply-to address: whoever may send names one, and the reply is sent with the rights of this client.
pub(super) fn reply_to(original: &Original, allowed: &[String], arrived: Instant) -> Option<ReplyTo> {
    let address = original.properties()?.reply_to.as_deref()?;
    let is_allowed = allowed.iter().any(|start| address.len() > start.len() && address.starts_with(start));
    let reply_to = is_allowed.then(|| ReplyTo::new(address))?;
    Some(match original.ttl() {
        Some(ttl) => reply_to.with_deadline(after(arrived, ttl)),
        None => reply_to,
    })
}

/// The address of a reply, and the reply as it is sent there.
pub(super) fn encode(request: &Original, reply: Reply) -> Option<(String, AmqpMessage)> {
    let properties = request.properties()?;
    let address = properties.reply_to.clone()?;
    let correlation_id = properties.correlation_id.clone().or_else(|| properties.message_id.clone());
    Some((address.clone(), message(&address, correlation_id, request.ttl(), reply)))
}

fn message(
    address: &str,
    correlation_id: Option<MessageId>,
    ttl: Option<Duration>,
    reply: Reply,
) -> AmqpMessage {
    let (head, body) = reply.into_parts();
    let mut application = OrderedMap::new();
    application.insert(STATUS.to_owned(), SimpleValue::Int(head.status.as_u16().into()));
    for name in head.headers.keys().filter(|name| *name != CONTENT_TYPE) {
        application.insert(name.to_string(), values(&head.headers, name));
    }
    let mut properties = Properties::new();
    properties.to = Some(address.to_owned());
    properties.correlation_id = correlation_id;
    let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    properties.content_type = content_type.map(Symbol::from);
    let ttl = ttl.map(|ttl| u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX));
    let header = Header { durable: false, ttl, ..Header::default() };
    assemble(header, Some(properties), application, Body::from(Data(Binary::from(body.to_vec()))))
}

/// All values of a header: application properties are named once. No value holds a line feed, so that separates them.
fn values(headers: &HeaderMap, name: &http::HeaderName) -> SimpleValue {
    let all: Vec<_> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    let all = all.join(&b'\n');
    match String::from_utf8(all) {
        Ok(text) => SimpleValue::String(text),
        Err(error) => SimpleValue::Binary(Binary::from(error.into_bytes())),
    }
}

/// The HTTP response in a message. Without a status it is that of another program: 200.
pub(super) fn decode(original: &Original) -> Result<Reply, BoxError> {
    let body = original.body().ok_or("its body is neither data nor text")?;
    let mut reply = Reply::new(body.clone());
    let content_type = original.properties().and_then(|properties| properties.content_type.as_ref());
    for (name, value) in original.headers() {
        if name == STATUS {
            let status = number(value).filter(|status| (200..600).contains(status));
            *reply.status_mut() = StatusCode::from_u16(status.ok_or("its status is none of HTTP")?)?;
            continue;
        }
        let all = match value {
            SimpleValue::String(text) => text.as_bytes(),
            SimpleValue::Symbol(symbol) => symbol.0.as_bytes(),
            SimpleValue::Binary(bytes) => bytes,
            _ => continue,
        };
        for value in all.split(|byte| *byte == b'\n') {
            put(&mut reply, name, value)?;
        }
    }
    if let Some(content_type) = content_type {
        put(&mut reply, CONTENT_TYPE.as_str(), content_type.0.as_bytes())?;
    }
    Ok(reply)
}

/// Adds a header, unless HTTP has no such one.
fn put(reply: &mut Reply, name: &str, value: &[u8]) -> Result<(), String> {
    if reply.headers().len() >= MOST {
        return Err(format!("it has more than {MOST} headers"));
    }
    if let (Ok(name), Ok(value)) =
        (http::HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value))
    {
        reply.headers_mut().append(name, value);
    }
    Ok(())
}

fn number(value: &SimpleValue) -> Option<u16> {
    match value {
        SimpleValue::Ubyte(number) => Some((*number).into()),
        SimpleValue::Ushort(number) => Some(*number),
        SimpleValue::Uint(number) => u16::try_from(*number).ok(),
        SimpleValue::Ulong(number) => u16::try_from(*number).ok(),
        SimpleValue::Short(number) => u16::try_from(*number).ok(),
        SimpleValue::Int(number) => u16::try_from(*number).ok(),
        SimpleValue::Long(number) => u16::try_from(*number).ok(),
        SimpleValue::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// The id in a correlation-id of ours.
pub(super) fn correlation(original: &Original) -> Option<&str> {
    match original.properties()?.correlation_id.as_ref()? {
        MessageId::String(id) => Some(id),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use fe2o3_amqp_types::messaging::message::__private::Serializable;

    use super::*;

    fn original(message: AmqpMessage) -> Original {
        Original::read(&serde_amqp::to_vec(&Serializable(message)).unwrap()).unwrap()
    }

    #[test]
    fn a_reply_survives_the_wire() {
        let mut sent = Reply::new(Bytes::from_static(b"gone"));
        *sent.status_mut() = StatusCode::GONE;
        sent.headers_mut().append(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        sent.headers_mut().append("set-cookie", HeaderValue::from_static("a=1, x"));
        sent.headers_mut().append("set-cookie", HeaderValue::from_static("b=2"));
        sent.headers_mut().append("x-latin", HeaderValue::from_bytes(b"caf\xe9").unwrap());
        let correlation_id = Some(MessageId::String("7".to_owned()));
        let got = original(message("temp-queue://a", correlation_id, None, sent.clone()));
        assert_eq!(correlation(&got), Some("7"));
        let got = decode(&got).unwrap();
        assert_eq!((got.status(), got.body(), got.headers()), (sent.status(), sent.body(), sent.headers()));
    }

    #[test]
    fn a_reply_of_another_program_is_200_and_an_odd_status_an_error() {
        let with = |status: Option<SimpleValue>| {
            let mut application = OrderedMap::new();
            if let Some(status) = status {
                application.insert(STATUS.to_owned(), status);
            }
            let body = Body::from(Data(Binary::from(vec![1])));
            decode(&original(assemble(Header::default(), None, application, body)))
        };
        assert_eq!(with(None).unwrap().status(), StatusCode::OK);
        assert_eq!(with(Some(SimpleValue::Ushort(404))).unwrap().status(), StatusCode::NOT_FOUND);
        for odd in
            [SimpleValue::Int(101), SimpleValue::Int(-1), SimpleValue::Null, SimpleValue::Long(1 << 40)]
        {
            assert!(with(Some(odd.clone())).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn a_reply_goes_only_to_addresses_that_are_allowed() {
        let to = |address: &str| {
            let properties = Properties { reply_to: Some(address.to_owned()), ..Properties::default() };
            let header = Header { ttl: Some(1_000), ..Header::default() };
            let body = Body::from(Data(Binary::from(Vec::new())));
            let original = original(assemble(header, Some(properties), OrderedMap::new(), body));
            reply_to(&original, &["temp-queue://".to_owned()], Instant::now())
        };
        let good = to("temp-queue://ID:host-1:2").unwrap();
        assert_eq!(good.address(), "temp-queue://ID:host-1:2");
        assert!(good.deadline().is_some());
        for other in ["", "queue://orders", "temp-queue://", "orders", "x temp-queue://a"] {
            assert!(to(other).is_none(), "{other}");
        }
    }
}
