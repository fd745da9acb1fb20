//! Headers that are facts about an HTTP request. They do not travel in messages.

/// Headers of the HTTP message itself (RFC 9110, RFC 9112), credentials, and headers by which a proxy describes the client.
const OF_HTTP: [&str; 23] = [
    "client-ip",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "remote-user",
    "te",
    "trailer",
    "transfer-encoding",
    "true-client-ip",
    "upgrade",
    "via",
    "x-access-token",
    "x-api-key",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-csrf-token",
    "x-http-method-override",
    "x-real-ip",
    "x-rewrite-url",
];

/// Parts and beginnings of the names of more such headers.
const PARTS: [&str; 4] = ["authenticat", "authorization", "cookie", "forwarded"];
const BEGINNINGS: [&str; 14] = [
    "cf-",
    "fastly-",
    "proxy-",
    "sec-",
    "ssl-client-",
    "x-amzn-oidc-",
    "x-auth-",
    "x-client-cert",
    "x-envoy-",
    "x-forwarded-",
    "x-goog-iap-",
    "x-original-",
    "x-remote-",
    "x-ssl-",
];

/// Whether a handler or a layer would take a header for a fact about an HTTP request. The name is in lower case.
pub(crate) fn is_of_http(name: &str) -> bool {
    OF_HTTP.contains(&name)
        || PARTS.iter().any(|part| name.contains(part))
        || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}
