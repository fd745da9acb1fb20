//! The body of a message: decompressed, as JSON, text or bytes, and never more than a page can bear.

use std::fmt::Write as _;
use std::io::Read;

use flate2::read::{MultiGzDecoder, ZlibDecoder};
use maud::{Markup, html};

use super::json::pretty;
use super::text::visible;
use crate::message::Message;

/// How many bytes of a text are shown.
const TEXT_BYTES: usize = 256 << 10;

/// How many bytes are shown one by one.
const HEX_BYTES: usize = 16 << 10;

/// How many bytes are decompressed.
const DECOMPRESSED: u64 = 8 << 20;

/// The ways to show a body.
pub(super) const VIEWS: [(&str, &str); 4] =
    [("", "Automatic"), ("json", "JSON"), ("text", "Text"), ("hex", "Bytes")];

/// A body, and how it was compressed.
struct Plain<'a> {
    bytes: std::borrow::Cow<'a, [u8]>,
    compressed: Option<&'static str>,
    is_cut: bool,
}

/// Shows the body of a message.
pub(super) fn shown(message: &Message, view: &str) -> Markup {
    let plain = plain(message);
    let (content, kind, cut) = content(&plain.bytes, view);
    let total = plain.bytes.len();
    html! {
        p.soft {
            (kind)
            @if let Some(how) = plain.compressed { ", decompressed from " (how) }
            ", " (crate::util::readable::count(total as u64, "byte"))
            @if plain.is_cut { " and more" }
            @if let Some(shown) = cut { ", of which the first " (crate::util::readable::grouped(shown as u64)) " are shown" }
        }
        @if total == 0 { p { "The body is empty." } } @else { pre tabindex="0" role="region" aria-label="Body" { (content) } }
    }
}

/// Returns the content, its kind, and how many bytes are shown if not all.
fn content(bytes: &[u8], view: &str) -> (Markup, &'static str, Option<usize>) {
    let text = std::str::from_utf8(bytes).ok();
    let json = |text: &str| if view == "text" || view == "hex" { None } else { pretty(text) };
    match text {
        _ if view == "hex" => hex(bytes),
        Some(text) => match json(text) {
            Some(json) => cut(&json, "JSON", bytes.len()),
            None if view == "json" => {
                let (content, _, shown) = cut(text, "", bytes.len());
                (content, "Not JSON", shown)
            }
            None => cut(text, "Text", bytes.len()),
        },
        None if view == "text" || view == "json" => {
            let (start, _) = bytes.split_at(bytes.len().min(TEXT_BYTES));
            let shown = (start.len() < bytes.len()).then_some(start.len());
            (visible(&String::from_utf8_lossy(start)), "Not UTF-8", shown)
        }
        None => hex(bytes),
    }
}

fn cut(text: &str, kind: &'static str, total: usize) -> (Markup, &'static str, Option<usize>) {
    let start = crate::message::headers::start_of(text, TEXT_BYTES);
    let shown = (start.len() < text.len()).then_some(start.len().min(total));
    (visible(start), kind, shown)
}

fn hex(bytes: &[u8]) -> (Markup, &'static str, Option<usize>) {
    let start = &bytes[..bytes.len().min(HEX_BYTES)];
    let mut out = String::new();
    for (line, chunk) in start.chunks(16).enumerate() {
        let _ = write!(out, "{:08x} ", line * 16);
        for byte in chunk {
            let _ = write!(out, " {byte:02x}");
        }
        out.extend(std::iter::repeat_n("   ", 16 - chunk.len()));
        let readable = |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { *byte as char } else { '.' };
        out.push_str("  ");
        out.extend(chunk.iter().map(readable));
        out.push('\n');
    }
    (html! { (out) }, "Bytes", (start.len() < bytes.len()).then_some(start.len()))
}

/// The body without its compression. A body that does not decompress is shown as it is.
fn plain(message: &Message) -> Plain<'_> {
    let body = message.body();
    let encoding = message.headers().find(|(name, _)| {
        let name = name.to_ascii_lowercase();
        name == "content-encoding" || name == "content_encoding"
    });
    let encoding = encoding.map(|(_, value)| value.to_string().to_ascii_lowercase()).unwrap_or_default();
    let unpacked = if body.starts_with(&[0x1f, 0x8b]) {
        unpack(MultiGzDecoder::new(body.as_ref())).map(|bytes| (bytes, "gzip"))
    } else if encoding == "deflate" || encoding == "zlib" {
        unpack(ZlibDecoder::new(body.as_ref())).map(|bytes| (bytes, "deflate"))
    } else {
        None
    };
    match unpacked {
        Some((mut bytes, how)) => {
            let is_cut = bytes.len() as u64 > DECOMPRESSED;
            bytes.truncate(DECOMPRESSED as usize);
            Plain { bytes: bytes.into(), compressed: Some(how), is_cut }
        }
        None => Plain { bytes: body.as_ref().into(), compressed: None, is_cut: false },
    }
}

fn unpack(reader: impl Read) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(DECOMPRESSED + 1).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn text(body: &[u8], view: &str) -> String {
        shown(&Message::new("a", body.to_vec()).unwrap(), view).into_string()
    }

    #[test]
    fn a_body_is_shown_as_what_it_is() {
        assert!(text(br#"{"n":12345678901234567890}"#, "").contains("&quot;n&quot;: 12345678901234567890"));
        assert!(text(b"hello", "").contains("Text, 5 bytes"));
        assert!(text(b"\xff\x00A", "").contains("ff 00 41"));
        assert!(text(b"{}", "hex").contains("7b 7d"));
        assert!(text(b"hello", "json").contains("Not JSON"));
        assert!(text(b"", "").contains("empty"));
    }

    #[test]
    fn a_compressed_body_is_decompressed_within_bounds() {
        let pack = |bytes: &[u8]| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        assert!(text(&pack(b"{\"a\":1}"), "").contains("JSON, decompressed from gzip, 7 bytes"));
        let bomb = text(&pack(&vec![b'x'; 20 << 20]), "");
        assert!(bomb.contains("and more") && bomb.len() < 300_000, "{}", bomb.len());
        assert!(text(b"\x1f\x8bnot gzip", "").contains("Bytes"));
    }

    #[test]
    fn a_long_line_is_cut() {
        let long = text(&vec![b'<'; 1 << 20], "");
        assert!(long.contains("of which the first 262,144 are shown"), "{}", &long[..200]);
        assert!(long.len() < 1_200_000 && !long.contains("<<"));
    }
}
