//! PEM files, as people and tools write them.

use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::TlsError;
use crate::util::text_file;

/// A PEM file that a setting names.
pub(super) struct PemFile<'a> {
    setting: &'static str,
    path: &'a Path,
    sections: Vec<Section>,
    /// The kind of a file without sections.
    otherwise: &'static str,
}

/// From BEGIN to END, without blanks around the lines.
struct Section {
    label: String,
    text: String,
}

impl<'a> PemFile<'a> {
    pub(super) fn read(setting: &'static str, path: &'a Path) -> Result<Self, TlsError> {
        if path.as_os_str().as_encoded_bytes().windows(11).any(|bytes| bytes == b"-----BEGIN ") {
            return Err(TlsError::NotAPath { setting });
        }
        let bytes = text_file::read(path).map_err(|source| TlsError::Read {
            setting,
            path: path.to_owned(),
            source,
        })?;
        let otherwise = match bytes.as_slice() {
            // A SEQUENCE of ASN.1.
            [0x30, 0x80..=0x84, ..] => {
                "it is in DER or PKCS #12 form; convert it with openssl x509, pkey or pkcs12"
            }
            bytes if bytes.trim_ascii().is_empty() => "it is empty",
            _ => "it is another text, or cut off",
        };
        Ok(Self { setting, path, sections: sections(&String::from_utf8_lossy(&bytes)), otherwise })
    }

    /// The certificates in it, of which there is one at least.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let mut certificates = Vec::new();
        for section in self.sections.iter().filter(|section| section.label == "CERTIFICATE") {
            let fault = |problem| self.bad_certificate(certificates.len() + 1, problem);
            let certificate = CertificateDer::from_pem_slice(section.text.as_bytes())
                .map_err(|_| fault("is cut off or not in base64".to_owned()))?;
            match X509Certificate::from_der(&certificate) {
                Ok(([], _)) => certificates.push(certificate),
                Ok(_) => return Err(fault("has bytes after its end".to_owned())),
                Err(_) => return Err(fault("is no X.509 certificate".to_owned())),
            }
        }
        match certificates.is_empty() {
            true => {
                Err(self.no_certificate(self.found("write the certificate into it, or name another file")))
            }
            false => Ok(certificates),
        }
    }

    fn no_certificate(&self, found: String) -> TlsError {
        TlsError::NoCertificate { setting: self.setting, path: self.path.to_owned(), found }
    }

    /// The first key in it.
    pub(super) fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        let fault =
            |found| TlsError::NoPrivateKey { setting: self.setting, path: self.path.to_owned(), found };
        let key = self.sections.iter().find(|section| {
            section.label.ends_with("PRIVATE KEY") && !section.label.starts_with("ENCRYPTED")
        });
        let Some(section) = key else {
            return Err(fault(self.found("name the file of the key")));
        };
        if section.text.contains("ENCRYPTED") {
            return Err(fault(ENCRYPTED.to_owned()));
        }
        PrivateKeyDer::from_pem_slice(section.text.as_bytes()).map_err(|_| {
            fault(format!("its {} is cut off, not in base64, or of no form that is known", section.label))
        })
    }

    pub(super) fn bad_certificate(&self, number: usize, problem: String) -> TlsError {
        match number {
            1 => self.no_certificate(format!("certificate 1 {problem}; copy it there again")),
            _ => TlsError::BadCertificate {
                setting: self.setting,
                path: self.path.to_owned(),
                number,
                problem,
            },
        }
    }

    /// The content found instead of the expected one, and the cure.
    fn found(&self, cure: &str) -> String {
        let labels: Vec<_> = self.sections.iter().map(|section| section.label.as_str()).collect();
        match labels.first() {
            None => self.otherwise.to_owned(),
            Some(_) if labels.iter().any(|label| label.starts_with("ENCRYPTED")) => ENCRYPTED.to_owned(),
            Some(label) => format!("it holds a {label}; {cure}"),
        }
    }
}

const ENCRYPTED: &str = "its key is encrypted; decrypt it with openssl pkey -in OLD -out NEW";

fn sections(text: &str) -> Vec<Section> {
    let mut sections = Vec::new();
    let mut open: Option<Section> = None;
    for line in text.split(['\n', '\r']).map(str::trim) {
        if let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) {
            // A section that is cut off is reported.
            sections.extend(open.take());
            open = Some(Section { label: label.to_owned(), text: String::new() });
        }
        if let Some(section) = &mut open {
            section.text.push_str(line);
            section.text.push('\n');
        }
        if line.starts_with("-----END ") {
            sections.extend(open.take());
        }
    }
    sections.extend(open);
    sections
}
