//! PEM blocks of keys.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::error::SigningError;

/// The label of a private key in PKCS #8.
pub(super) const PRIVATE: &str = "PRIVATE KEY";
/// The label of a private RSA key in PKCS #1.
pub(super) const RSA_PRIVATE: &str = "RSA PRIVATE KEY";
/// The label of a public key.
pub(super) const PUBLIC: &str = "PUBLIC KEY";
/// The label of a public RSA key in PKCS #1.
pub(super) const RSA_PUBLIC: &str = "RSA PUBLIC KEY";

/// From BEGIN to END.
pub(super) struct Block {
    pub(super) label: String,
    pub(super) der: Vec<u8>,
}

/// Reads the blocks of a text, which has one at least. Text between blocks is ignored.
pub(super) fn read(text: &str) -> Result<Vec<Block>, SigningError> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((_, begun)) = rest.split_once("-----BEGIN ") {
        let whole = begun.split_once("-----").and_then(|(label, begun)| {
            let (content, rest) = begun.split_once(&format!("-----END {label}-----"))?;
            Some((label, content, rest))
        });
        let Some((label, content, after)) = whole else {
            return Err(SigningError::new("it is cut off: a BEGIN has no END"));
        };
        let content: String = content.split_whitespace().collect();
        let der = match label {
            _ if label.contains("ENCRYPTED") || content.contains("ENCRYPTED") => {
                return Err(SigningError::new(
                    "its key is encrypted; decrypt it with openssl pkey -in OLD -out NEW",
                ));
            }
            _ => STANDARD.decode(content),
        };
        let der = der.map_err(|_| SigningError::new(format!("its {label} is not in base64")))?;
        blocks.push(Block { label: label.to_owned(), der });
        rest = after;
    }
    match blocks.is_empty() {
        true => Err(SigningError::new("it holds no key in PEM form")),
        false => Ok(blocks),
    }
}

/// Writes one block.
pub(super) fn write(label: &str, der: &[u8]) -> String {
    let content = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = content.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text + &format!("-----END {label}-----\n")
}
