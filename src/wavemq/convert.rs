//! Messages on the wire, and in a router.

use std::sync::Arc;

use crate::routing::{Namespace, Pattern, PayloadObject, RouteError, RoutedMessage, Uri};
use crate::wavemq_wire as wire;

/// The largest number of hops that a message may have.
const HOPS: usize = 64;
/// The largest number of objects and partitions of a message.
const PARTS: usize = 1_024;

/// The codes of the original's errors.
pub(super) mod code {
    pub(in super::super) const UNSUBSCRIBED: i32 = 701;
    pub(in super::super) const SUBSCRIPTION_FAILED: i32 = 702;
    pub(in super::super) const NO_SUCH_SUBSCRIPTION: i32 = 703;
    pub(in super::super) const QUEUE_ERROR: i32 = 704;
    pub(in super::super) const LINK_DOWN: i32 = 705;
    pub(in super::super) const UPSTREAM_ERROR: i32 = 706;
}

pub(super) fn error(code: i32, message: impl Into<String>) -> wire::Error {
    wire::Error { code, message: message.into() }
}

/// Returns the error of a call. `refused` is the code for what no grant allows.
pub(super) fn route_error(failure: &RouteError, refused: i32) -> wire::Error {
    let code = match failure {
        RouteError::Unsubscribed => code::UNSUBSCRIBED,
        RouteError::SubscriptionFailed(_) => code::SUBSCRIPTION_FAILED,
        RouteError::LinkDown => code::LINK_DOWN,
        RouteError::Upstream(_) => code::UPSTREAM_ERROR,
        RouteError::Refused(_) => refused,
        _ => code::QUEUE_ERROR,
    };
    error(code, failure.to_string())
}

/// A text for people that says what is wrong with a request.
pub(super) type Fault = String;

pub(super) fn namespace(bytes: &[u8]) -> Result<Namespace, Fault> {
    Namespace::from_bytes(bytes).map_err(|error| error.to_string())
}

pub(super) fn pattern(text: &str) -> Result<Pattern, Fault> {
    Pattern::new(text).map_err(|error| error.to_string())
}

pub(super) fn uri(text: &str) -> Result<Uri, Fault> {
    Uri::new(text).map_err(|error| error.to_string())
}

pub(super) fn payload(objects: Vec<wire::PayloadObject>) -> Result<Vec<PayloadObject>, Fault> {
    if objects.len() > PARTS {
        return Err(format!("the message has more than {PARTS} objects"));
    }
    let object = |it: wire::PayloadObject| PayloadObject { schema: it.schema, content: it.content };
    Ok(objects.into_iter().map(object).collect())
}

/// Reads a message that another router sent.
pub(super) fn message(message: wire::Message) -> Result<RoutedMessage, Fault> {
    let tbs = message.tbs.ok_or("the message has no content")?;
    if message.timestamps.len() > HOPS || message.drops.len() > 2 * HOPS {
        return Err(format!("the message has passed more than {HOPS} routers"));
    }
    if message.encryption_partition.len() > PARTS {
        return Err(format!("the message has more than {PARTS} partitions"));
    }
    let mut out = RoutedMessage::new(namespace(&tbs.namespace)?, uri(&tbs.uri)?, payload(tbs.payload)?);
    out.persist = message.persist;
    out.source = tbs.source_entity;
    out.origin = Arc::from(tbs.origin_router);
    out.signature = message.signature;
    out.partition = message.encryption_partition;
    (out.timestamps, out.drops) = (message.timestamps, message.drops);
    Ok(out)
}

pub(super) fn wire_message(message: RoutedMessage) -> wire::Message {
    let object = |it: PayloadObject| wire::PayloadObject { schema: it.schema, content: it.content };
    wire::Message {
        tbs: Some(wire::MessageTbs {
            source_entity: message.source,
            source_location: None,
            namespace: message.namespace.as_bytes().to_vec().into(),
            uri: message.uri.as_str().to_owned(),
            payload: message.payload.into_iter().map(object).collect(),
            origin_router: message.origin.to_string(),
        }),
        signature: message.signature,
        encryption_partition: message.partition,
        timestamps: message.timestamps,
        drops: message.drops,
        persist: message.persist,
        ..wire::Message::default()
    }
}
