//! Removal of headers from forwarded messages that do not fit into a frame.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::forwarding::text;
use super::incoming::REDELIVERY_COUNT;
use super::limits::{entry_size, size_of};
use crate::message::headers::{FAILURES, LEFT_OUT, OWN, REASON, read_failures, start_of, write_failures};

/// More than RabbitMQ adds when a message expires or is delivered again: `x-death`, `x-first-death-*` and `x-last-death-*` name
/// queues, exchanges and routing keys. A larger frame would end the connection of a consumer.
const OF_BROKER: usize = 2_560;

/// The bytes of a reason that are kept when it is shortened.
const REASON_LEN: usize = 100;

/// The most bytes for the names of removed headers.
const NAMES_LEN: usize = 200;

type Headers = BTreeMap<ShortString, AMQPValue>;

/// The same properties, in a frame of this size: with shorter reasons, then without the largest headers that are not
/// ours, then without any.
pub(super) fn fit(properties: BasicProperties, frame_max: u32) -> BasicProperties {
    let frame_max = frame_max as usize;
    let limit = frame_max - OF_BROKER.min(frame_max / 2);
    if size_of(&properties) <= limit {
        return properties;
    }
    let mut headers = headers_of(&properties);
    shorten(&mut headers);
    let properties = with(properties, headers.clone());
    let mut size = size_of(&properties);
    if size <= limit {
        return properties;
    }
    size += LEFT_OUT.len() + NAMES_LEN;
    let foreign = headers.iter().filter(|(name, _)| !is_own(name.as_str()));
    let mut foreign: Vec<_> = foreign.map(|entry| (Reverse(entry_size(entry)), entry.0.clone())).collect();
    foreign.sort();
    let mut gone = BTreeSet::new();
    for (Reverse(entry), name) in foreign {
        if size <= limit {
            break;
        }
        size -= entry;
        gone.insert(name);
    }
    leave_out(&mut headers, &gone);
    let properties = with(properties, headers);
    if size_of(&properties) > frame_max { with(properties, Headers::new()) } else { properties }
}

/// The properties for which no broker can reject a message: headers of ours, and no reply address.
pub(super) fn bare(properties: &BasicProperties) -> BasicProperties {
    let mut headers = headers_of(properties);
    let gone = headers.keys().filter(|name| !is_own(name.as_str())).cloned().collect();
    leave_out(&mut headers, &gone);
    let mut bare = BasicProperties::default();
    macro_rules! keep {
        ($($had:ident $with:ident),*) => {$(
            if let Some(value) = properties.$had() {
                bare = bare.$with(value.clone());
            }
        )*};
    }
    keep!(
        content_type with_content_type, content_encoding with_content_encoding, delivery_mode with_delivery_mode,
        message_id with_message_id, timestamp with_timestamp
    );
    with(bare, headers)
}

/// The header that names what was left out, as text.
pub(super) fn left_out(properties: &BasicProperties) -> Option<String> {
    match properties.headers().as_ref()?.inner().get(LEFT_OUT)? {
        AMQPValue::LongString(names) => Some(String::from_utf8_lossy(names.as_bytes()).into_owned()),
        _ => None,
    }
}

fn is_own(name: &str) -> bool {
    OWN.contains(&name) || name == REDELIVERY_COUNT
}

fn headers_of(properties: &BasicProperties) -> Headers {
    properties.headers().as_ref().map(|headers| headers.inner().clone()).unwrap_or_default()
}

fn with(properties: BasicProperties, headers: Headers) -> BasicProperties {
    properties.with_headers(FieldTable::from(headers))
}

/// Keeps the start of the last reason.
fn shorten(headers: &mut Headers) {
    for (name, value) in headers.iter_mut() {
        let AMQPValue::LongString(long) = &*value else { continue };
        let long = String::from_utf8_lossy(long.as_bytes());
        let short = match name.as_str() {
            REASON => start_of(&long, REASON_LEN).to_owned(),
            FAILURES => {
                let mut failures = read_failures(&long);
                failures.drain(..failures.len().saturating_sub(1));
                for failure in &mut failures {
                    failure.reason = start_of(&failure.reason, REASON_LEN).into();
                }
                write_failures(&failures)
            }
            _ => continue,
        };
        *value = text(&short);
    }
}

/// Removes these headers, and adds their names to a header of ours.
fn leave_out(headers: &mut Headers, gone: &BTreeSet<ShortString>) {
    headers.retain(|name, _| !gone.contains(name));
    if gone.is_empty() {
        return;
    }
    let before = match headers.get(LEFT_OUT) {
        Some(AMQPValue::LongString(names)) => Some(String::from_utf8_lossy(names.as_bytes()).into_owned()),
        _ => None,
    };
    let names: Vec<_> = before.into_iter().chain(gone.iter().map(ToString::to_string)).collect();
    let mut names = names.join(", ");
    if names.len() > NAMES_LEN {
        names = format!("{} ..", start_of(&names, NAMES_LEN - 3));
    }
    headers.insert(LEFT_OUT.into(), text(&names));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::headers::TOPIC;

    fn properties(headers: &[(&str, usize)]) -> BasicProperties {
        let headers = headers.iter().map(|(name, len)| ((*name).into(), text(&"x".repeat(*len))));
        with(BasicProperties::default().with_reply_to("amq.rabbitmq.reply-to".into()), headers.collect())
    }

    fn names(properties: &BasicProperties) -> Vec<String> {
        headers_of(properties).keys().map(ToString::to_string).collect()
    }

    #[test]
    fn what_fits_is_as_it_was() {
        let fits = properties(&[("a", 1_000), (TOPIC, 100)]);
        assert_eq!(fit(fits.clone(), 4_096), fits);
    }

    #[test]
    fn reasons_are_cut_before_a_header_goes() {
        let cut = fit(properties(&[("a", 1_000), (REASON, 2_000)]), 4_096);
        assert_eq!(names(&cut), ["a", REASON]);
        let cut = fit(properties(&[("a", 1_000), ("b", 4_000), ("c", 1_000), (REASON, 2_000)]), 8_192);
        assert_eq!(
            (names(&cut), left_out(&cut)),
            (["a", "c", LEFT_OUT, REASON].map(String::from).into(), Some("b".into()))
        );
        assert_eq!(left_out(&bare(&cut)).as_deref(), Some("b, a, c"));
    }

    #[test]
    fn what_fits_in_no_other_way_goes_without_headers() {
        assert!(names(&fit(properties(&[("a", 10), (TOPIC, 5_000)]), 4_096)).is_empty());
    }

    #[test]
    fn many_names_are_cut() {
        let many: Vec<_> = (0..1_000).map(|number| format!("number {number}")).collect();
        let many: Vec<_> = many.iter().map(|name| (name.as_str(), 10)).collect();
        let fitted = fit(properties(&many), 8_192);
        assert!(size_of(&fitted) <= 8_192 - OF_BROKER);
        let names = left_out(&fitted).unwrap();
        assert!(names.len() == NAMES_LEN && names.ends_with(" .."), "{names}");
        assert_eq!(bare(&fitted).reply_to(), &None);
    }
}
