//! Requests and their replies: the response topic and the correlation data of MQTT 5.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use rumqttc::{Publish, PublishProperties};
use tokio::time::Instant;

use super::names::{fault_of, fault_of_name, matches};
use super::outgoing::Outgoing;
use crate::message::headers::STATUS;
use crate::reply::{Reply, ReplyTo};

/// Where the reply to a message goes, if one of these topic filters allows it.
///
/// A broker vouches for no response topic: whoever may publish names one, and the reply is published with the rights of this client.
pub(super) fn reply_to(publish: &Publish, allowed: &[String], arrived: Instant) -> Option<ReplyTo> {
    let properties = publish.properties.as_ref()?;
    let topic = properties.response_topic.as_deref()?;
    let is_allowed = fault_of_name(topic).is_none() && allowed.iter().any(|filter| matches(filter, topic));
    let reply_to = ReplyTo::new(topic);
    let left = properties.message_expiry_interval.map(|left| Duration::from_secs(left.into()));
    is_allowed.then(|| match left.and_then(|left| arrived.checked_add(left)) {
        Some(deadline) => reply_to.with_deadline(deadline),
        None => reply_to,
    })
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
