//! The address of a broker.

use std::fmt;

use url::Url;

use crate::message::headers::start_of;
use crate::util::error::debug_as_display;
use crate::util::secret::{Secret, redacted_url};

/// The schemes of one protocol, with their default ports, and the fault of an address with another one.
struct Schemes {
    plain: (&'static str, u16),
    tls: (&'static str, u16),
    fault: &'static str,
    /// A good address.
    example: &'static str,
}

#[cfg(any(test, feature = "amqp10", feature = "amqp091"))]
const AMQP: Schemes = Schemes {
    plain: ("amqp", 5672),
    tls: ("amqps", 5671),
    fault: "its scheme is neither amqp nor amqps",
    example: "amqps://host:5671",
};

#[cfg(feature = "kafka")]
const KAFKA: Schemes = Schemes {
    plain: ("kafka", 9092),
    tls: ("kafkas", 9093),
    fault: "its scheme is neither kafka nor kafkas",
    example: "kafkas://host:9093",
};

#[cfg(feature = "kubemq-client")]
const KUBEMQ: Schemes = Schemes {
    plain: ("kubemq", 50000),
    tls: ("kubemqs", 50000),
    fault: "its scheme is neither kubemq nor kubemqs",
    example: "kubemqs://host:50000",
};

#[cfg(feature = "mqtt")]
const MQTT: Schemes = Schemes {
    plain: ("mqtt", 1883),
    tls: ("mqtts", 8883),
    fault: "its scheme is neither mqtt nor mqtts",
    example: "mqtts://host:8883",
};

#[cfg(feature = "nats")]
const NATS: Schemes = Schemes {
    plain: ("nats", 4222),
    tls: ("tls", 4222),
    fault: "its scheme is neither nats nor tls",
    example: "tls://host:4222",
};

/// The address of a broker, with the credentials for it. It prints without the password.
#[derive(Clone)]
pub(crate) struct BrokerUrl {
    scheme: &'static str,
    host: String,
    port: u16,
    tls: bool,
    credentials: Option<(String, Secret)>,
    vhost: Option<String>,
}

impl BrokerUrl {
    /// An address without a path.
    #[cfg(any(test, feature = "amqp10"))]
    pub(crate) fn parse(text: &str) -> Result<Self, UrlError> {
        Self::parse_without_path(text, &AMQP)
    }

    /// An address of Kafka.
    #[cfg(feature = "kafka")]
    pub(crate) fn parse_kafka(text: &str) -> Result<Self, UrlError> {
        Self::parse_without_path(text, &KAFKA)
    }

    /// An address of KubeMQ.
    #[cfg(feature = "kubemq-client")]
    pub(crate) fn parse_kubemq(text: &str) -> Result<Self, UrlError> {
        Self::parse_without_path(text, &KUBEMQ)
    }

    /// An address of MQTT.
    #[cfg(feature = "mqtt")]
    pub(crate) fn parse_mqtt(text: &str) -> Result<Self, UrlError> {
        Self::parse_without_path(text, &MQTT)
    }

    /// An address of NATS.
    #[cfg(feature = "nats")]
    pub(crate) fn parse_nats(text: &str) -> Result<Self, UrlError> {
        Self::parse_without_path(text, &NATS)
    }

    #[cfg(any(
        test,
        feature = "amqp10",
        feature = "kafka",
        feature = "kubemq-client",
        feature = "mqtt",
        feature = "nats"
    ))]
    fn parse_without_path(text: &str, schemes: &Schemes) -> Result<Self, UrlError> {
        let url = Self::parse_as(text, schemes)?;
        match url.vhost {
            None => Ok(url),
            Some(_) => Err(UrlError {
                url: redacted_url(text),
                problem: "it has a path, which has no meaning here",
                example: schemes.example,
            }),
        }
    }

    /// An address whose path is a percent-encoded virtual host, as in AMQP 0-9-1; a query is left alone.
    #[cfg(any(test, feature = "amqp091"))]
    pub(crate) fn parse_with_vhost(text: &str) -> Result<Self, UrlError> {
        Self::parse_as(text, &AMQP)
    }

    fn parse_as(text: &str, schemes: &Schemes) -> Result<Self, UrlError> {
        let fault = |problem| UrlError { url: redacted_url(text), problem, example: schemes.example };
        let url = Url::parse(text).map_err(|_| fault("it is not a URL"))?;
        let (tls, (scheme, default_port)) = match url.scheme() {
            plain if plain == schemes.plain.0 => (false, schemes.plain),
            tls if tls == schemes.tls.0 => (true, schemes.tls),
            _ => return Err(fault(schemes.fault)),
        };
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| fault("it has no host"))?;
        if host.len() > 255 {
            return Err(fault("its host is longer than 255 bytes"));
        }
        if host.contains('%') {
            return Err(fault("its host is not in ASCII; write its form that begins with xn--"));
        }
        if url.port() == Some(0) {
            return Err(fault("its port is 0"));
        }
        if url.fragment().is_some() {
            return Err(fault("a fragment has no meaning in it"));
        }
        let decode = |text: &str| {
            let decoded = percent_decode(text).ok_or_else(|| fault("it is not percent-encoded UTF-8"))?;
            // SASL PLAIN separates user and password by it.
            if decoded.contains('\0') { Err(fault("it has a NUL character")) } else { Ok(decoded) }
        };
        let credentials = match (url.username(), url.password()) {
            ("", None) => None,
            (user, password) => Some((decode(user)?, Secret::new(decode(password.unwrap_or_default())?))),
        };
        let vhost = url.path().strip_prefix('/').filter(|path| !path.is_empty()).map(decode).transpose()?;
        if vhost.as_ref().is_some_and(|vhost| vhost.len() > 255) {
            return Err(fault("its virtual host is longer than 255 bytes"));
        }
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { scheme, host, port: url.port().unwrap_or(default_port), tls, credentials, vhost })
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Whether the broker is on this machine: a password does not cross the network.
    pub(crate) fn is_loopback(&self) -> bool {
        let address = self.host.parse::<std::net::IpAddr>();
        address.map_or_else(|_| self.host.eq_ignore_ascii_case("localhost"), |address| address.is_loopback())
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls
    }

    #[cfg(feature = "amqp091")]
    pub(crate) fn vhost(&self) -> Option<&str> {
        self.vhost.as_deref()
    }

    pub(crate) fn credentials(&self) -> Option<(&str, &Secret)> {
        self.credentials.as_ref().map(|(user, password)| (user.as_str(), password))
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme, self.host, self.port)?;
        let Some(vhost) = &self.vhost else { return Ok(()) };
        f.write_str("/")?;
        vhost.bytes().try_for_each(|byte| match byte {
            b'-' | b'.' | b'_' | b'~' => write!(f, "{}", char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => write!(f, "{}", char::from(byte)),
            byte => write!(f, "%{byte:02X}"),
        })
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A URL that is not the address of a broker.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{:?} in URLS is not the address of a broker: {problem}; write {example}", start_of(.url, 300))]
pub struct UrlError {
    url: String,
    problem: &'static str,
    example: &'static str,
}

debug_as_display!(UrlError);

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first == b'%' {
            let digits =
                std::str::from_utf8(rest.get(..2)?).ok().filter(|digits| !digits.starts_with('+'))?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(first);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_gives_host_port_and_credentials() {
        let url = BrokerUrl::parse("amqps://jo:p%40ss@broker.example.com").unwrap();
        assert_eq!((url.host(), url.port(), url.is_tls()), ("broker.example.com", 5671, true));
        let (user, password) = url.credentials().unwrap();
        assert_eq!((user, password.expose()), ("jo", "p@ss"));
        let url = BrokerUrl::parse("amqp://[::1]:5673/").unwrap();
        assert_eq!((url.host(), url.port(), url.is_tls()), ("::1", 5673, false));
        assert!(url.credentials().is_none());
    }

    #[test]
    fn the_virtual_host_is_shown() {
        for text in ["amqp://h:5672", "amqp://h:5672/%2F", "amqps://h:5671/a%20b"] {
            assert_eq!(BrokerUrl::parse_with_vhost(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_password_never_prints() {
        let url = BrokerUrl::parse("amqp://jo:geheim@h").unwrap();
        assert!(!format!("{url} {url:?} {:?}", url.credentials()).contains("geheim"));
        for bad in ["http://jo:geheim@h", "jo:geheim@h", "amqp://jo:geheim@h/path", "amqp://jo:geh:eim@"] {
            let error = BrokerUrl::parse(bad).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("geh"), "{error}");
        }
    }

    #[test]
    fn what_is_no_address_says_why() {
        for (bad, why) in [
            ("broker", "not a URL"),
            ("http://b", "scheme"),
            ("amqp:///", "no host"),
            ("amqp://b/vhost", "path"),
            (&format!("amqp://{}", "h".repeat(300)), "its host is longer than 255 bytes"),
        ] {
            let error = BrokerUrl::parse(bad).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("amqps://host:5671"), "{error}");
        }
    }
}
