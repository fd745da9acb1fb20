//! Authentication: the SASL layer (AMQP 1.0, part 5.3), before the connection proper.
//!
//! The client library can do this too, but sends no initial response with EXTERNAL, which breaks
//! RabbitMQ 3.10, and cannot choose by what the broker offers.

use std::io;

use fe2o3_amqp_types::primitives::{Binary, Symbol};
use fe2o3_amqp_types::sasl::{SaslCode, SaslInit, SaslMechanisms, SaslOutcome};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::backends::brokers::Sasl;
use crate::util::secret::Secret;

const HEADER: [u8; 8] = *b"AMQP\x03\x01\x00\x00";
const FRAME_TYPE: u8 = 1;
/// The largest frame a peer may send here (5.3.2: MIN-MAX-FRAME-SIZE).
const MAX_FRAME: usize = 512;

/// The identities that the client has for one broker.
pub(super) struct Identity<'a> {
    pub(super) sasl: Sasl,
    pub(super) certificate: bool,
    pub(super) credentials: Option<(&'a str, &'a Secret)>,
    pub(super) host: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mechanism {
    External,
    Plain,
    Anonymous,
}

impl Mechanism {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::External => "EXTERNAL",
            Self::Plain => "PLAIN",
            Self::Anonymous => "ANONYMOUS",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SaslError {
    #[error("the broker does not speak AMQP 1.0 with SASL on this port")]
    NotSpoken,
    #[error("the port answers no AMQP but TLS: write amqps:// in URLS")]
    SpeaksTls,
    #[error(
        "the broker offers SASL {offered}, and these settings allow only {wanted}: set SASL to an offered mechanism"
    )]
    NotOffered { offered: String, wanted: &'static str },
    #[error("the broker rejected SASL {mechanism}: {cure}")]
    AuthenticationFailed { mechanism: &'static str, cure: &'static str },
    #[error("the broker disconnected during SASL {mechanism}")]
    BrokenOff { mechanism: &'static str, source: io::Error },
    #[error("the broker violated the SASL protocol: {0}")]
    Protocol(String),
    #[error(transparent)]
    Io(io::Error),
}

/// Authenticates; afterwards the AMQP protocol header follows in the stream.
///
/// With `only`, that mechanism is used whatever else would be preferred.
pub(super) async fn authenticate<S>(
    stream: &mut S,
    identity: &Identity<'_>,
    only: Option<Mechanism>,
) -> Result<(), SaslError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(&HEADER).await.map_err(SaslError::Io)?;
    stream.flush().await.map_err(SaslError::Io)?;
    let mut header = [0; 8];
    // An answer of TLS (RFC 8446, 5.1) is shorter.
    stream.read_exact(&mut header[..2]).await.map_err(SaslError::Io)?;
    if header[..2] == [21, 3] {
        return Err(SaslError::SpeaksTls);
    }
    stream.read_exact(&mut header[2..]).await.map_err(SaslError::Io)?;
    if header != HEADER {
        return Err(SaslError::NotSpoken);
    }
    let offered: SaslMechanisms = read(stream).await?;
    let offered: Vec<String> =
        offered.sasl_server_mechanisms.0.into_iter().map(|Symbol(name)| name).collect();
    let mechanism = choose(identity, only, &offered)?;

    let init = SaslInit {
        mechanism: Symbol::from(mechanism.name()),
        initial_response: Some(initial_response(mechanism, identity)),
        hostname: Some(identity.host.to_owned()),
    };
    let broken_off = |source| SaslError::BrokenOff { mechanism: mechanism.name(), source };
    write(stream, &init).await.map_err(broken_off)?;
    let outcome: SaslOutcome = read(stream).await.map_err(|error| match error {
        SaslError::Io(source) => broken_off(source),
        error => error,
    })?;
    match outcome.code {
        SaslCode::Ok => Ok(()),
        SaslCode::Auth => {
            Err(SaslError::AuthenticationFailed { mechanism: mechanism.name(), cure: cure(mechanism) })
        }
        code => Err(SaslError::Protocol(format!("outcome {code:?}"))),
    }
}

fn choose(
    identity: &Identity<'_>,
    only: Option<Mechanism>,
    offered: &[String],
) -> Result<Mechanism, SaslError> {
    let (wanted, mechanisms): (_, &[Mechanism]) = match (only, identity.sasl) {
        (Some(Mechanism::Anonymous), _) | (None, Sasl::Anonymous) => ("ANONYMOUS", &[Mechanism::Anonymous]),
        (Some(Mechanism::External), _) | (None, Sasl::External) => ("EXTERNAL", &[Mechanism::External]),
        (Some(Mechanism::Plain), _) | (None, Sasl::Plain) => ("PLAIN", &[Mechanism::Plain]),
        (None, Sasl::Auto) => match (identity.certificate, identity.credentials) {
            (true, Some(_)) => (
                "EXTERNAL, PLAIN or ANONYMOUS",
                &[Mechanism::External, Mechanism::Plain, Mechanism::Anonymous],
            ),
            (true, None) => ("EXTERNAL or ANONYMOUS", &[Mechanism::External, Mechanism::Anonymous]),
            (false, Some(_)) => ("PLAIN", &[Mechanism::Plain]),
            (false, None) => ("ANONYMOUS", &[Mechanism::Anonymous]),
        },
    };
    let is_offered = |mechanism: &Mechanism| offered.iter().any(|offer| offer == mechanism.name());
    mechanisms
        .iter()
        .copied()
        .find(is_offered)
        .ok_or_else(|| SaslError::NotOffered { offered: offered.join(", "), wanted })
}

/// EXTERNAL: empty, no other identity is asked for (RFC 4422, A.1). PLAIN: RFC 4616. ANONYMOUS: a trace (RFC 4505).
fn initial_response(mechanism: Mechanism, identity: &Identity<'_>) -> Binary {
    match mechanism {
        Mechanism::External => Binary::new(),
        Mechanism::Plain => {
            let (user, password) =
                identity.credentials.map_or(("", ""), |(user, secret)| (user, secret.expose()));
            Binary::from(format!("\0{user}\0{password}").into_bytes())
        }
        Mechanism::Anonymous => Binary::from(b"anonymous".to_vec()),
    }
}

fn cure(mechanism: Mechanism) -> &'static str {
    match mechanism {
        Mechanism::External => "it has no user for the subject of the client certificate",
        Mechanism::Plain => "check user and password in URLS",
        Mechanism::Anonymous => "it requires an identity: set CERTIFICATE, or a user and password in URLS",
    }
}

async fn write<S: AsyncWrite + Unpin>(stream: &mut S, init: &SaslInit) -> io::Result<()> {
    let body = serde_amqp::to_vec(init).map_err(io::Error::other)?;
    let size = u32::try_from(8 + body.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(8 + body.len());
    frame.extend(size.to_be_bytes());
    frame.extend([2, FRAME_TYPE, 0, 0]);
    frame.extend(body);
    stream.write_all(&frame).await?;
    stream.flush().await
}

async fn read<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> Result<T, SaslError> {
    let mut head = [0; 8];
    stream.read_exact(&mut head).await.map_err(SaslError::Io)?;
    let size = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let data_offset = usize::from(head[4]) * 4;
    if head[5] != FRAME_TYPE || !(8..=MAX_FRAME).contains(&size) || !(8..=size).contains(&data_offset) {
        return Err(SaslError::Protocol(format!("frame of size {size}, type {}", head[5])));
    }
    let mut rest = vec![0; size - 8];
    stream.read_exact(&mut rest).await.map_err(SaslError::Io)?;
    serde_amqp::from_slice(&rest[data_offset - 8..]).map_err(|error| SaslError::Protocol(error.to_string()))
}
