//! Replies that are kept for as long as their responders allow.

use std::hash::RandomState;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AGE, CACHE_CONTROL, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use tokio::time::Instant;

use crate::reply::Reply;

/// The size of a key and a value beside their texts and bodies, in bytes.
const OVERHEAD: usize = 256;

/// The request that a reply answers, without its headers. The whole body is compared, so no other body can have its reply.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Target {
    method: Method,
    path: String,
    body: Bytes,
    /// The values of the headers that the reply names in `Vary`; none in the key of [`Kept::Varies`].
    vary: Vec<Option<HeaderValue>>,
}

impl Target {
    pub(super) fn new(parts: &http::request::Parts, body: Bytes) -> Self {
        let path = parts.uri.path_and_query().map_or_else(String::new, ToString::to_string);
        Self { method: parts.method.clone(), path, body, vary: Vec::new() }
    }

    fn with_headers(&self, names: &[HeaderName], headers: &HeaderMap) -> Self {
        let vary = names.iter().map(|name| headers.get(name).cloned()).collect();
        Self { vary, ..self.clone() }
    }
}

#[derive(Clone)]
enum Kept {
    Reply(Arc<KeptReply>),
    /// The names of the headers that the reply depends on.
    Varies(Arc<[HeaderName]>),
}

struct KeptReply {
    reply: Reply,
    since: Instant,
    age: Duration,
    max_age: Duration,
}

/// Keeps replies, up to a number of bytes. The replies that are asked for least go first.
pub(super) struct ReplyCache(Cache<Target, Kept, Weight, RandomState>);

impl ReplyCache {
    /// A cache of at most this many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        let (hasher, lifecycle) = (RandomState::new(), DefaultLifecycle::default());
        Self(Cache::with((bytes / (4 * OVERHEAD)).min(10_000), bytes as u64, Weight, hasher, lifecycle))
    }

    /// Returns the reply that is kept for this request, with its age.
    pub(super) fn get(&self, target: &Target, headers: &HeaderMap) -> Option<Reply> {
        if directives(headers).any(|directive| matches!(directive.as_str(), "no-cache" | "no-store")) {
            return None;
        }
        let kept = match self.0.get(target)? {
            Kept::Varies(names) => self.0.get(&target.with_headers(&names, headers))?,
            kept => kept,
        };
        let Kept::Reply(kept) = kept else { return None };
        let age = kept.age + kept.since.elapsed();
        if age >= kept.max_age {
            return None;
        }
        let mut reply = kept.reply.clone();
        reply.headers_mut().insert(AGE, age.as_secs().into());
        Some(reply)
    }

    /// Keeps a reply if it allows that. `headers` are those of the request.
    pub(super) fn keep(&self, target: Target, headers: &HeaderMap, reply: &Reply) {
        let Some(max_age) = max_age(reply.headers()).filter(|_| reply.status().is_success()) else { return };
        let age = reply.headers().get(AGE).and_then(|age| age.to_str().ok()?.parse().ok()).unwrap_or(0);
        let (age, max_age) = (Duration::from_secs(age), Duration::from_secs(max_age));
        let kept =
            Kept::Reply(Arc::new(KeptReply { reply: reply.clone(), since: Instant::now(), age, max_age }));
        let Some(names) = varies(reply.headers()) else { return };
        if names.is_empty() {
            return self.0.insert(target, kept);
        }
        self.0.insert(target.with_headers(&names, headers), kept);
        self.0.insert(target, Kept::Varies(names.into()));
    }
}

/// Returns how many seconds a reply may be kept (RFC 9111, 5.2.2).
fn max_age(headers: &HeaderMap) -> Option<u64> {
    let mut max_age = None;
    for directive in directives(headers) {
        match directive.split_once('=') {
            Some(("max-age", seconds)) => max_age = seconds.trim_matches('"').parse().ok(),
            _ if matches!(directive.as_str(), "no-cache" | "no-store" | "private") => return None,
            _ => {}
        }
    }
    max_age.filter(|seconds| *seconds > 0)
}

fn directives(headers: &HeaderMap) -> impl Iterator<Item = String> {
    list(headers, CACHE_CONTROL)
}

/// Returns the names in `Vary`; `None` if the reply depends on more than headers.
fn varies(headers: &HeaderMap) -> Option<Vec<HeaderName>> {
    list(headers, VARY)
        .map(|name| HeaderName::from_bytes(name.as_bytes()).ok().filter(|_| name != "*"))
        .collect()
}

/// Returns the members of a list, in lower case.
fn list(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = String> {
    let fields = headers.get_all(name).into_iter().filter_map(|field| field.to_str().ok());
    fields.flat_map(|field| field.split(',')).map(|member| member.trim().to_ascii_lowercase())
}

#[derive(Clone)]
struct Weight;

impl Weighter<Target, Kept> for Weight {
    fn weight(&self, target: &Target, kept: &Kept) -> u64 {
        let vary: usize = target.vary.iter().flatten().map(HeaderValue::len).sum();
        let kept = match kept {
            Kept::Varies(names) => names.iter().map(|name| name.as_str().len()).sum(),
            Kept::Reply(kept) => {
                let headers = kept.reply.headers().iter();
                let headers: usize = headers.map(|(name, value)| name.as_str().len() + value.len()).sum();
                kept.reply.body().len() + headers
            }
        };
        (OVERHEAD + target.path.len() + target.body.len() + vary + kept) as u64
    }
}
