//! The certificate files that the settings name, and how long they are valid.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::findings::{CheckLevel, Findings};
use crate::bus;
use crate::settings::Settings;
use crate::tls::{Certificate, TlsSettings, inspect};
use crate::util::error::Chain;

/// A certificate that expires in fewer days than these is worth a warning.
const DAYS: i64 = 30;

/// The largest number of authorities of a file that are listed one by one.
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
                let (level, validity) = validity(certificate);
                findings.add(level, "CERTIFICATE", finding(path, certificate, &validity));
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
    let expired = authorities.iter().filter(|authority| validity(authority).0 == CheckLevel::Failed).count();
    let worst = if expired == authorities.len() { CheckLevel::Failed } else { CheckLevel::Warning };
    if authorities.len() > FEW {
        let level = if expired > 0 { worst } else { CheckLevel::Ok };
        let text =
            format!("{}: {} authorities, {expired} of them not valid now", path.display(), authorities.len());
        return findings.add(level, "CACERT", text);
    }
    for authority in &authorities {
        let (level, validity) = validity(authority);
        let level = if level == CheckLevel::Failed { worst } else { level };
        findings.add(level, "CACERT", finding(path, authority, &validity));
    }
}

fn finding(path: &Path, certificate: &Certificate, validity: &str) -> String {
    format!("{}: {}; {validity}", path.display(), certificate.subject)
}

fn validity(certificate: &Certificate) -> (CheckLevel, String) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
    let Certificate { not_before, not_after, .. } = *certificate;
    if not_before > now {
        return (CheckLevel::Failed, format!("is valid only from {}", date(not_before)));
    }
    let left = not_after - now;
    if left < 0 {
        return (
            CheckLevel::Failed,
            format!("expired on {}, {} ago: renew it", date(not_after), days(-left)),
        );
    }
    let level = if left < DAYS * DAY { CheckLevel::Warning } else { CheckLevel::Ok };
    (level, format!("expires on {}, {} left", date(not_after), days(left)))
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
