//! The headers of replies.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};

/// Headers about one connection (RFC 9110, 7.6.1), and the length, which the body has itself.
static OF_CONNECTION: [HeaderName; 9] = [
    CONTENT_LENGTH,
    CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// Removes the headers that do not travel in a reply.
pub(crate) fn retain_travelling(headers: &mut HeaderMap) {
    if headers.keys().any(|name| OF_CONNECTION.contains(name)) {
        OF_CONNECTION.iter().for_each(|name| drop(headers.remove(name)));
    }
}
