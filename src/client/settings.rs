//! Settings of a client.

use std::time::Duration;

/// The settings of a [`Client`](super::Client).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "settings", derive(serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
#[cfg_attr(
    not(feature = "client-cache"),
    allow(clippy::manual_non_exhaustive, reason = "the private field refuses a key")
)]
pub struct ClientSettings {
    /// How long to wait for a reply; 5 s by default. A [`ReplyTimeout`] in the extensions of a request wins.
    #[cfg_attr(feature = "settings", serde(deserialize_with = "crate::util::units::duration"))]
    pub timeout: Duration,
    /// The largest body of a request and of a reply, in bytes; 16 MiB by default, as for a consumer.
    #[cfg_attr(feature = "settings", serde(deserialize_with = "crate::util::units::size"))]
    pub max_bytes: usize,
    /// How many bytes of replies to keep; 0, none, by default. A successful reply whose `Cache-Control` has `max-age` answers later
    /// requests of the same method, path, query and body, and of the same headers that its `Vary` names. A request with
    /// `Cache-Control: no-cache` or `no-store` is always sent. A reply that takes a large share of the cache is not kept.
    #[cfg(feature = "client-cache")]
    #[cfg_attr(docsrs, doc(cfg(feature = "client-cache")))]
    #[cfg_attr(feature = "settings", serde(deserialize_with = "crate::util::units::size"))]
    pub cache_bytes: usize,
    /// The same key, without the feature.
    #[cfg(not(feature = "client-cache"))]
    #[cfg_attr(feature = "settings", serde(deserialize_with = "not_compiled"))]
    cache_bytes: (),
}

#[cfg(all(feature = "settings", not(feature = "client-cache")))]
fn not_compiled<'de, D: serde::Deserializer<'de>>(_: D) -> Result<(), D::Error> {
    let fault =
        "CACHE_BYTES is not compiled in: add the feature \"client-cache\" to tower-outbox in Cargo.toml";
    Err(serde::de::Error::custom(fault))
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(5), max_bytes: 16 << 20, cache_bytes: Default::default() }
    }
}

impl ClientSettings {
    /// Sets [`timeout`](Self::timeout).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets [`max_bytes`](Self::max_bytes).
    #[must_use]
    pub fn with_max_bytes(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Sets [`cache_bytes`](Self::cache_bytes).
    #[cfg(feature = "client-cache")]
    #[cfg_attr(docsrs, doc(cfg(feature = "client-cache")))]
    #[must_use]
    pub fn with_cache_bytes(mut self, cache_bytes: usize) -> Self {
        self.cache_bytes = cache_bytes;
        self
    }
}

/// How long a [`Client`](super::Client) waits for the reply to one request: an extension of that request.
///
/// ```
/// use std::time::Duration;
/// use axum::body::Body;
/// use axum::http::Request;
/// use tower_outbox::client::ReplyTimeout;
///
/// let request = Request::post("/report/yearly").extension(ReplyTimeout(Duration::from_secs(60))).body(Body::empty())?;
/// # Ok::<(), axum::http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTimeout(pub Duration);
