//! The style sheet and the script, in the binary. Their addresses contain their hash, so browsers may keep them for ever.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};

/// A file that pages load.
pub(super) struct Asset {
    /// Its address, relative to a page.
    pub(super) name: String,
    content_type: &'static str,
    bytes: &'static [u8],
}

pub(super) static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("style", "css", "text/css; charset=utf-8", include_bytes!("style.css")));
pub(super) static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("script", "js", "text/javascript; charset=utf-8", include_bytes!("script.js"))
});

impl Asset {
    fn new(stem: &str, ending: &str, content_type: &'static str, bytes: &'static [u8]) -> Self {
        Self { name: format!("{stem}-{:016x}.{ending}", fnv(bytes)), content_type, bytes }
    }

    pub(super) fn answer(&self) -> Response {
        let head =
            [(CONTENT_TYPE, self.content_type), (CACHE_CONTROL, "public, max-age=31536000, immutable")];
        (head, self.bytes).into_response()
    }
}

/// The hash FNV-1a: it only tells versions apart.
fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
