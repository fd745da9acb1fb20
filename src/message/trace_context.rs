//! The trace context of a request, which its messages carry (W3C Trace Context, levels 1 and 2; W3C Baggage).

use std::sync::OnceLock;

use http::header::GetAll;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::message::Message;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// The length of a `traceparent` of version 00, and the longest that is taken of a later version.
const PARENT_LEN: usize = 55;
const PARENT_MAX: usize = 255;
/// How many members a `tracestate` has at most, and bytes (3.3.1.1 and 3.3.1.5).
const STATE: (usize, usize) = (32, 512);
/// The same of `baggage` (3.3.2).
const BAG: (usize, usize) = (64, 8_192);

/// The valid parts of a trace context. Invalid parts are ignored, since any client can send them.
#[derive(Default)]
pub(crate) struct TraceContext {
    /// That of the request, or else a new one, made for the first message.
    parent: OnceLock<Parent>,
    lists: Option<Box<Lists>>,
}

/// A `traceparent`.
enum Parent {
    Given(HeaderValue),
    /// A new trace, and the span that began it.
    Begun {
        trace: (u64, u64),
        span: u64,
    },
}

#[derive(Default)]
struct Lists {
    tracestate: Option<String>,
    baggage: Option<String>,
}

/// Whether a header is part of a trace context.
pub(crate) fn is_part(name: &HeaderName) -> bool {
    *name == TRACEPARENT || *name == TRACESTATE || *name == BAGGAGE
}

impl TraceContext {
    #[inline]
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        // Most requests have neither, and few headers: to look at each costs less than to hash two names.
        let is_there = headers.keys().any(|name| *name == TRACEPARENT || *name == BAGGAGE);
        if is_there { Self::read(headers) } else { Self::default() }
    }

    fn read(headers: &HeaderMap) -> Self {
        let traceparent = headers.get(TRACEPARENT).filter(|_| is_parent(headers));
        let tracestate = traceparent.and_then(|_| list(headers.get_all(TRACESTATE), STATE, is_state));
        let baggage = list(headers.get_all(BAGGAGE), BAG, is_bag);
        let has_lists = tracestate.is_some() || baggage.is_some();
        Self {
            parent: traceparent.cloned().map(Parent::Given).map_or_else(OnceLock::new, OnceLock::from),
            lists: has_lists.then(|| Box::new(Lists { tracestate, baggage })),
        }
    }

    /// Adds the parts that the message does not have itself. Without a context a new one begins.
    pub(crate) fn complete(&self, message: &mut Message) {
        if message.header("traceparent").is_none() {
            let parent = self.parent.get_or_init(|| Parent::begun(message)).text();
            message.set_header("traceparent", parent);
            if let Some(state) = self.lists.as_ref().and_then(|lists| lists.tracestate.as_ref()) {
                add(message, "tracestate", state);
            }
        }
        self.complete_baggage(message);
    }

    /// Adds the baggage, for a message whose trace is another one.
    pub(crate) fn complete_baggage(&self, message: &mut Message) {
        if let Some(baggage) = self.lists.as_ref().and_then(|lists| lists.baggage.as_ref()) {
            add(message, "baggage", baggage);
        }
    }

    /// Returns the parts that the request had, by their names.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let lists = self.lists.as_deref();
        let traceparent = match self.parent.get() {
            Some(Parent::Given(value)) => value.to_str().ok(),
            _ => None,
        };
        let state = lists.and_then(|lists| lists.tracestate.as_deref());
        let bag = lists.and_then(|lists| lists.baggage.as_deref());
        let parts = [("traceparent", traceparent), ("tracestate", state), ("baggage", bag)];
        parts.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

impl Parent {
    /// Begins a new trace, with the random bits of a new id, or else others.
    fn begun(message: &Message) -> Self {
        let (high, low) = match message.has_new_id() {
            true => message.id().as_u64_pair(),
            false => rand::random(),
        };
        // Samplers take a trace by the last bits of its id, which must be spread evenly.
        let low = spread(high ^ low.rotate_left(32)).max(1);
        Self::Begun { trace: (high, low), span: spread(low).max(1) }
    }

    /// Returns the `traceparent`. That of a new trace is sampled: a consumer that samples as its parent does would otherwise record
    /// nothing (3.2.2).
    fn text(&self) -> String {
        let (trace, span) = match self {
            Self::Given(value) => return value.to_str().unwrap_or_default().to_owned(),
            Self::Begun { trace, span } => (trace, span),
        };
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
        for (at, part) in [(3, trace.0), (19, trace.1), (36, *span)] {
            for (pair, byte) in text[at..at + 16].chunks_exact_mut(2).zip(part.to_be_bytes()) {
                pair.copy_from_slice(&HEX[usize::from(byte)]);
            }
        }
        std::str::from_utf8(&text).unwrap_or_default().to_owned()
    }
}

/// The two digits of each byte.
const HEX: [[u8; 2]; 256] = {
    let (digits, mut pairs, mut byte) = (*b"0123456789abcdef", [[0; 2]; 256], 0);
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

/// Spreads the bits of a number over all bits of the result (SplitMix64).
fn spread(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn add(message: &mut Message, name: &'static str, value: &str) {
    if message.header(name).is_none() {
        message.set_header(name, value.to_owned());
    }
}

/// Whether there is one `traceparent`, and it is valid (3.2).
fn is_parent(headers: &HeaderMap) -> bool {
    let mut all = headers.get_all(TRACEPARENT).iter();
    let is_valid = all.next().is_some_and(|value| is_traceparent(value.as_bytes())) && all.next().is_none();
    if !is_valid {
        tracing::debug!("ignored an invalid traceparent of a request");
    }
    is_valid
}

fn is_traceparent(value: &[u8]) -> bool {
    let Some((start, rest)) = value.split_at_checked(PARENT_LEN) else { return false };
    let (version, trace, span) = (&start[..2], &start[3..35], &start[36..52]);
    let is_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_id = |part: &[u8]| is_hex(part) && part.iter().any(|byte| *byte != b'0');
    let is_later = version != b"00" && value.len() <= PARENT_MAX && rest.starts_with(b"-");
    [2, 35, 52].iter().all(|at| start[*at] == b'-')
        && is_hex(version)
        && version != b"ff"
        && is_id(trace)
        && is_id(span)
        && is_hex(&start[53..])
        && (rest.is_empty() || is_later && rest.iter().all(u8::is_ascii_graphic))
}

/// The fields of one name as one list, unless it has too many members, too many bytes, or an odd member.
fn list(
    fields: GetAll<'_, HeaderValue>,
    (members, bytes): (usize, usize),
    is_member: fn(&str) -> bool,
) -> Option<String> {
    let (mut found, mut list) = (0, String::new());
    for field in fields {
        let text =
            field.to_str().ok().filter(|text| list.len() + text.len() < bytes + usize::from(list.is_empty()));
        let is_valid = text.is_some_and(|text| {
            let mut all = text.split(',').map(|member| member.trim_matches([' ', '\t']));
            all.all(|member| member.is_empty() || (is_member(member), found += 1).0) && found <= members
        });
        let Some(text) = text.filter(|_| is_valid) else {
            tracing::debug!("ignored a tracestate or baggage of a request, which is invalid or too large");
            return None;
        };
        if !list.is_empty() {
            list.push(',');
        }
        list.push_str(text);
    }
    (found > 0).then_some(list)
}

/// `key=value` (3.3.1.3).
fn is_state(member: &str) -> bool {
    let is_key = |key: &str| {
        key.len() <= 256
            && key.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && key
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@'))
    };
    let is_value = |value: &str| {
        (1..=256).contains(&value.len())
            && value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'=')
    };
    member.split_once('=').is_some_and(|(key, value)| is_key(key) && is_value(value))
}

/// `key=value;property` (W3C Baggage, 3.3.1).
fn is_bag(member: &str) -> bool {
    let is_key = |key: &str| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    member.split_once('=').is_some_and(|(key, value)| {
        is_key(key.trim_end_matches([' ', '\t']))
            && value.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t') && !matches!(byte, b'"' | b'\\'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last 8 bytes of the trace ids of new contexts.
    fn last_halves(message: impl Fn() -> Message) -> Vec<u64> {
        let begun = |_| {
            let mut message = message();
            TraceContext::default().complete(&mut message);
            let parent = message.header("traceparent").unwrap().as_str().unwrap();
            assert!(is_traceparent(parent.as_bytes()), "{parent}");
            u64::from_str_radix(&parent[19..35], 16).unwrap()
        };
        (0..1_000).map(begun).collect()
    }

    #[test]
    fn a_sampler_takes_its_share_of_new_traces() {
        let own = || Message::new("a", "").unwrap();
        for halves in [last_halves(own), last_halves(|| own().with_id(uuid::Uuid::nil()))] {
            for share in [2, 10] {
                let taken = halves.iter().filter(|half| **half >> 1 < (1 << 63) / share).count();
                let expected = 1_000 / share as usize;
                assert!(taken.abs_diff(expected) < 90, "{taken} of 1,000 at one in {share}");
            }
            let different: std::collections::HashSet<_> = halves.iter().collect();
            assert_eq!(different.len(), halves.len());
        }
    }
}
