//! Passwords, and texts that may contain one, which must not be printed.

#[cfg(feature = "_brokers")]
use std::fmt;

/// A password. `Debug` shows only that there is one.
#[cfg(feature = "_brokers")]
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

#[cfg(feature = "_brokers")]
impl Secret {
    pub(crate) fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// Returns the secret itself, for the wire only.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

#[cfg(feature = "_brokers")]
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Keys of a query or of a connection string whose values are secrets.
#[cfg(any(feature = "settings", feature = "amqp091"))]
const KEYS: [&str; 7] = ["password=", "passwd=", "passphrase=", "pwd=", "secret=", "token=", "key="];

/// A URL without whatever may be a password in it: the user, the query, and all of it where it is not clear which part is which.
#[cfg(feature = "_brokers")]
pub(crate) fn redacted_url(text: &str) -> String {
    let (text, query) = text.split_once('?').unwrap_or((text, ""));
    let (scheme, rest) = match text.find("://") {
        Some(end) if text[..end].bytes().all(|byte| byte.is_ascii_alphanumeric()) => text.split_at(end + 3),
        _ => ("", text),
    };
    match rest.rfind('@') {
        // The question mark may be one of the password.
        _ if query.contains('@') => format!("{scheme}***"),
        Some(at) => format!("{scheme}***{}", &rest[at..]),
        None if has_only_ports(rest) => text.to_owned(),
        None => format!("{scheme}***"),
    }
}

/// Whether each colon outside of an IPv6 address is followed by digits alone.
fn has_only_ports(text: &str) -> bool {
    let text = match (text.strip_prefix('['), text.find(']')) {
        (Some(_), Some(end)) => &text[end + 1..],
        _ => text,
    };
    text.split(':').skip(1).all(|port| {
        let port = port.split('/').next().unwrap_or_default();
        !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// A text for people, as an error, without whatever may be a password in it.
#[cfg(any(feature = "settings", feature = "amqp091"))]
pub(crate) fn redacted(text: &str) -> String {
    let mut text = text.to_owned();
    if let Some(begin) = text.find("-----BEGIN ").filter(|_| text.contains("PRIVATE KEY-----")) {
        text.replace_range(begin.., "***");
    }
    // A password may hold any character, so all up to the last @ is taken for one.
    if let Some(begin) = text.find("://").map(|scheme| scheme + 3)
        && let Some(end) = text.rfind('@').filter(|end| begin <= *end)
    {
        text.replace_range(begin..end, "***");
    }
    let mut done = 0;
    while let Some(begin) = text[done..].find("://").map(|scheme| done + scheme + 3) {
        done = begin;
        let end = begin + value_len(&text[begin..]);
        if !has_only_ports(&text[begin..end]) {
            text.replace_range(begin..end, "***");
        }
    }
    for key in KEYS {
        let mut done = 0;
        while let Some(begin) =
            text[done..].to_ascii_lowercase().find(key).map(|found| done + found + key.len())
        {
            let end = begin + value_len(&text[begin..]);
            text.replace_range(begin..end, "***");
            done = begin;
        }
    }
    text
}

/// Where a value ends inside a text.
#[cfg(any(feature = "settings", feature = "amqp091"))]
fn value_len(text: &str) -> usize {
    text.find(|c: char| c.is_whitespace() || matches!(c, '"' | '`' | '&')).unwrap_or(text.len())
}

#[cfg(all(test, feature = "_brokers", feature = "settings"))]
mod tests {
    use super::*;

    #[test]
    fn a_url_prints_what_is_surely_no_secret() {
        for (text, printed) in [
            ("amqps://broker.example.com:5671", "amqps://broker.example.com:5671"),
            ("amqp://[::1]:5673/vhost", "amqp://[::1]:5673/vhost"),
            ("amqp://h:99999", "amqp://h:99999"),
            ("broker", "broker"),
            ("amqp://jo:geheim@h/v", "amqp://***@h/v"),
            ("amqp://jo:ge@heim@h", "amqp://***@h"),
            ("amqp://jo:ge/heim@h", "amqp://***@h"),
            ("amqp://jo:ge?heim@h", "amqp://***"),
            ("amqp://jo:12?heim@h", "amqp://***"),
            ("amqp://a@jo:12?heim@h", "amqp://***"),
            ("amqp://jo:geheim", "amqp://***"),
            ("amqp:/jo:geheim@h", "***@h"),
            ("amqp:/jo:geheim", "***"),
            ("jo:geheim", "***"),
            ("amqp://h/v?password=geheim", "amqp://h/v"),
        ] {
            assert_eq!(redacted_url(text), printed, "{text}");
        }
    }

    #[test]
    fn an_error_prints_without_passwords() {
        for (text, printed) in [
            (
                "invalid type: string \"amqp://jo:geheim@h\", expected",
                "invalid type: string \"amqp://***@h\", expected",
            ),
            ("\"amqp://jo:geh eim@a,amqp://jo:geheim@b\"", "\"amqp://***@b\""),
            ("cannot reach amqp://jo:geheim now", "cannot reach amqp://*** now"),
            ("cannot reach amqp://h:5672/v now", "cannot reach amqp://h:5672/v now"),
            ("host=h PASSWORD=geheim user=jo", "host=h PASSWORD=*** user=jo"),
            ("postgres://h/a?sslpassword=geheim&x=1", "postgres://h/a?sslpassword=***&x=1"),
            ("\"-----BEGIN PRIVATE KEY-----\\nABC\"", "\"***"),
            ("nothing@all", "nothing@all"),
        ] {
            assert_eq!(redacted(text), printed);
        }
    }
}
