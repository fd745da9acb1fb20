//! Explanations of failed handshakes, with the cure.

use rustls::{AlertDescription, CertificateError};

/// Explains the TLS error inside an I/O error, if there is one.
///
/// In TLS 1.3 the broker's verdict on our certificate arrives after the handshake, with the first read.
pub(crate) fn explain(error: &std::io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidCertificate(certificate) => invalid(certificate),
        rustls::Error::AlertReceived(alert) => refused(*alert),
        rustls::Error::InvalidMessage(_) => {
            "the broker does not speak TLS on this port: use amqp://, kafka://, mqtt:// or nats://, or its TLS port"
                .to_owned()
        }
        _ => return None,
    })
}

fn invalid(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "the broker's certificate is not signed by a CA we trust: set CACERT to the CA that signed it"
                .to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the broker's certificate has expired: the broker needs a new one".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "the broker's certificate is not valid for the host name {}, only for {}: use that name in URLS",
            expected.to_str(),
            presented.join(", ")
        ),
        CertificateError::NotValidForName => {
            "the broker's certificate is not valid for its host name: use the name it was issued for in URLS"
                .to_owned()
        }
        other => format!("the broker's certificate is not valid: {other:?}"),
    }
}

fn refused(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired => {
            "the broker requires a client certificate: set CERTIFICATE".to_owned()
        }
        AlertDescription::BadCertificate => {
            "the broker refused our client certificate, or requires one: check CERTIFICATE".to_owned()
        }
        AlertDescription::UnknownCA | AlertDescription::CertificateUnknown => {
            "the broker does not trust our client certificate: it must be signed by a CA the broker knows"
                .to_owned()
        }
        AlertDescription::CertificateExpired => {
            "the broker reports that our client certificate has expired".to_owned()
        }
        AlertDescription::CertificateRevoked => {
            "the broker reports that our client certificate is revoked".to_owned()
        }
        other => format!("the broker ended the TLS handshake: {other:?}"),
    }
}
