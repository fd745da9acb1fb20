//! Requests and their replies: the response topic and the correlation data of MQTT 5.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, StatusCode};
use rumqttc::{Publish, PublishProperties};
use tokio::time::Instant;

use super::names::{fault_of, fault_of_name, matches};
use super::outgoing::Outgoing;
use crate::message::headers::{EXPIRY, MOST, STATUS};
use crate::reply::{Reply, ReplyTo};
use crate::util::error::BoxError;

/// Where the reply to a message goes, if one of these topic filters allows it.
///
/// A broker vouches for no response topic: whoever may publish names one, and the reply is published with the rights of this client.
pub(super) fn reply_to(publish: &Publish, allowed: &[String], arrived: Instant) -> Option<ReplyTo> {
    let properties = publish.properties.as_ref()?;
    let topic = properties.response_topic.as_deref()?;
    let is_allowed = fault_of_name(topic).is_none() && allowed.iter().any(|filter| matches(filter, topic));
    let reply_to = ReplyTo::new(topic);
    let millis = properties.user_properties.iter().find(|(name, _)| name == EXPIRY);
    let millis = millis.and_then(|(_, millis)| millis.parse().ok()).map(Duration::from_millis);
    let seconds = properties.message_expiry_interval.map(|left| Duration::from_secs(left.into()));
    let left = seconds.into_iter().chain(millis).min();
    is_allowed.then(|| match left.and_then(|left| arrived.checked_add(left)) {
        Some(deadline) => reply_to.with_deadline(deadline),
        None => reply_to,
    })
}

/// The HTTP response in a message. Without a status it is that of another program: 200.
pub(super) fn decode(publish: &Publish) -> Result<Reply, BoxError> {
    let mut reply = Reply::new(publish.payload.clone());
    let Some(properties) = &publish.properties else { return Ok(reply) };
    let content_type = properties.content_type.iter().map(|it| (CONTENT_TYPE.as_str(), it.as_str()));
    let others = properties.user_properties.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in content_type.chain(others) {
        if name == STATUS {
            let status = value.parse().ok().filter(|status| (200..600).contains(status));
            *reply.status_mut() = StatusCode::from_u16(status.ok_or("its status is none of HTTP")?)?;
            continue;
        }
        if reply.headers().len() >= MOST {
            return Err(format!("it has more than {MOST} headers").into());
        }
        let value = HeaderValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), value) {
            reply.headers_mut().append(name, value);
        }
    }
    Ok(reply)
}

/// The reply on the wire: the status and the headers are user properties.
pub(super) fn reply(request: &Publish, reply: Reply) -> Outgoing {
    let (head, body) = reply.into_parts();
    let properties = request.properties.as_ref();
    let mut user_properties = vec![(STATUS.to_owned(), head.status.as_u16().to_string())];
    let text = |value: &http::HeaderValue| {
        let text = std::str::from_utf8(value.as_bytes()).ok()?;
        fault_of(text).is_none().then(|| text.to_owned())
    };
    let headers = head.headers.iter().filter(|(name, _)| *name != CONTENT_TYPE);
    user_properties.extend(headers.filter_map(|(name, value)| Some((name.to_string(), text(value)?))));
    let properties = PublishProperties {
        message_expiry_interval: properties.and_then(|of| of.message_expiry_interval),
        correlation_data: properties.and_then(|of| of.correlation_data.clone()),
        content_type: head.headers.get(CONTENT_TYPE).and_then(text),
        user_properties,
        ..PublishProperties::default()
    };
    let topic = request.properties.as_ref().and_then(|of| of.response_topic.clone()).unwrap_or_default();
    Outgoing { topic, retain: false, payload: body, properties }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rumqttc::QoS;

    use super::*;

    fn publish(properties: PublishProperties, body: &Bytes) -> Publish {
        let mut publish = Publish::new("replies/7", QoS::AtMostOnce, body.clone(), None);
        publish.properties = Some(properties);
        publish
    }

    #[test]
    fn a_reply_survives_the_wire() {
        let mut sent = Reply::new(Bytes::from_static(b"gone"));
        *sent.status_mut() = StatusCode::GONE;
        sent.headers_mut().append(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        sent.headers_mut().append("set-cookie", HeaderValue::from_static("a=1"));
        sent.headers_mut().append("set-cookie", HeaderValue::from_static("b=2"));
        let outgoing = reply(&publish(PublishProperties::default(), &Bytes::new()), sent.clone());
        let got = decode(&publish(outgoing.properties, &outgoing.payload)).unwrap();
        assert_eq!((got.status(), got.body(), got.headers()), (sent.status(), sent.body(), sent.headers()));
    }

    #[test]
    fn an_odd_status_of_a_reply_is_an_error() {
        for (status, is_good) in [("404", true), ("101", false), ("x", false), ("", false)] {
            let user_properties = vec![(STATUS.to_owned(), status.to_owned())];
            let properties = PublishProperties { user_properties, ..PublishProperties::default() };
            assert_eq!(decode(&publish(properties, &Bytes::new())).is_ok(), is_good, "{status}");
        }
    }
}
