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
    traceparent: OnceLock<HeaderValue>,
    lists: Option<Box<Lists>>,
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
            traceparent: traceparent.cloned().map_or_else(OnceLock::new, OnceLock::from),
            lists: has_lists.then(|| Box::new(Lists { tracestate, baggage })),
        }
    }

    /// Adds the parts that the message does not have itself. Without a context a new one begins.
    pub(crate) fn complete(&self, message: &mut Message) {
        let mut state = None;
        if message.header("traceparent").is_none()
            && let Ok(traceparent) = self.traceparent.get_or_init(begun).to_str()
        {
            message.set_header("traceparent", traceparent.to_owned());
            state = self.lists.as_ref().and_then(|lists| lists.tracestate.as_ref());
        }
        let bag = self.lists.as_ref().and_then(|lists| lists.baggage.as_ref());
        for (name, value) in [("tracestate", state), ("baggage", bag)] {
            if let Some(value) = value
                && message.header(name).is_none()
            {
                message.set_header(name, value.clone());
            }
        }
    }

    /// Returns the parts that the request had, by their names.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let lists = self.lists.as_deref();
        let traceparent = self.traceparent.get().and_then(|value| value.to_str().ok());
        let state = lists.and_then(|lists| lists.tracestate.as_deref());
        let bag = lists.and_then(|lists| lists.baggage.as_deref());
        let parts = [("traceparent", traceparent), ("tracestate", state), ("baggage", bag)];
        parts.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

/// Returns the `traceparent` of a new trace, which is sampled: a consumer that samples as its parent does would otherwise
/// record nothing (3.2.2).
fn begun() -> HeaderValue {
    const HEX: [u8; 16] = *b"0123456789abcdef";
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
    let (trace, span) = (rand::random::<u128>().max(1), rand::random::<u64>().max(1));
    let digits = |part: &mut [u8], bytes: &[u8]| {
        for (pair, byte) in part.chunks_exact_mut(2).zip(bytes) {
            pair.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    };
    digits(&mut text[3..35], &trace.to_be_bytes());
    digits(&mut text[36..52], &span.to_be_bytes());
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
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
