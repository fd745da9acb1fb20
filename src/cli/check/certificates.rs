//! The certificate files that the settings name, and how long they are valid.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Findings, Verdict};
use crate::bus;
use crate::settings::Settings;
use crate::tls::{Certificate, TlsSettings, inspect};
use crate::util::error::Chain;

/// A certificate that expires in fewer days than these is worth a warning.
const DAYS: i64 = 30;

/// Of a file with more authorities than these only the number is said.
const FEW: usize = 5;

const DAY: i64 = 86_400;

/// Checks each file. The backend itself reports keys that cannot be read.
pub(super) fn check(settings: &Settings, findings: &mut Findings) {
    if let Some(broker) = bus::broker_settings(&settings.backend, &settings.backend_keys) {
        files(&broker.tls(), findings);
    }
}

fn files(tls: &TlsSettings<'_>, findings: &mut Findings) {
    if let Some(path) = tls.certificate {
        client(path, findings);
    }
    if let Some(path) = tls.cacert {
        authorities(path, findings);
    }
}

/// Every certificate of the chain must be valid.
fn client(path: &Path, findings: &mut Findings) {
    match inspect(path, "CERTIFICATE") {
        Ok(chain) => {
            for certificate in &chain {
                let (verdict, validity) = validity(certificate);
                findings.add(verdict, "CERTIFICATE", said(path, certificate, &validity));
            }
        }
        Err(error) => findings.fail("CERTIFICATE", Chain(&error).to_string()),
    }
}

/// One that is valid is enough.
fn authorities(path: &Path, findings: &mut Findings) {
    let authorities = match inspect(path, "CACERT") {
        Ok(authorities) => authorities,
        Err(error) => return findings.fail("CACERT", Chain(&error).to_string()),
    };
    let expired = authorities.iter().filter(|authority| validity(authority).0 == Verdict::Failed).count();
    let worst = if expired == authorities.len() { Verdict::Failed } else { Verdict::Warning };
    if authorities.len() > FEW {
        let verdict = if expired > 0 { worst } else { Verdict::Ok };
        let text =
            format!("{}: {} authorities, {expired} of them not valid now", path.display(), authorities.len());
        return findings.add(verdict, "CACERT", text);
    }
    for authority in &authorities {
        let (verdict, validity) = validity(authority);
        let verdict = if verdict == Verdict::Failed { worst } else { verdict };
        findings.add(verdict, "CACERT", said(path, authority, &validity));
    }
}

fn said(path: &Path, certificate: &Certificate, validity: &str) -> String {
    format!("{}: {}; {validity}", path.display(), certificate.subject)
}

fn validity(certificate: &Certificate) -> (Verdict, String) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
    let Certificate { not_before, not_after, .. } = *certificate;
    if not_before > now {
        return (Verdict::Failed, format!("is valid only from {}", date(not_before)));
    }
    let left = not_after - now;
    if left < 0 {
        return (Verdict::Failed, format!("expired on {}, {} ago: renew it", date(not_after), days(-left)));
    }
    let verdict = if left < DAYS * DAY { Verdict::Warning } else { Verdict::Ok };
    (verdict, format!("expires on {}, {} left", date(not_after), days(left)))
}

fn days(seconds: i64) -> String {
    match seconds / DAY {
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

fn date(seconds: i64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.max(0) as u64);
    let text = crate::admin::format_time(time);
    text.split('T').next().unwrap_or_default().to_owned()
}
