//! The results of the checks.

use std::fmt;

use serde::Serialize;

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum CheckLevel {
    Ok,
    Warning,
    Failed,
}

impl fmt::Display for CheckLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warning => "WARNING",
            Self::Failed => "FAILED",
        })
    }
}

/// One check, its result and a text.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub(super) level: CheckLevel,
    /// A key of the settings.
    pub(super) what: &'static str,
    pub(super) message: String,
}

/// The results of all checks.
#[derive(Debug, Default)]
pub(super) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    pub(super) fn add(&mut self, level: CheckLevel, what: &'static str, message: impl Into<String>) {
        self.0.push(Finding { level, what, message: message.into() });
    }

    pub(super) fn ok(&mut self, what: &'static str, message: impl Into<String>) {
        self.add(CheckLevel::Ok, what, message);
    }

    pub(super) fn warn(&mut self, what: &'static str, message: impl Into<String>) {
        self.add(CheckLevel::Warning, what, message);
    }

    pub(super) fn fail(&mut self, what: &'static str, message: impl Into<String>) {
        self.add(CheckLevel::Failed, what, message);
    }

    /// Replaces the finding that the settings can be read.
    pub(super) fn fail_settings(&mut self, message: String) {
        self.0.retain(|finding| (finding.level, finding.what) != (CheckLevel::Ok, "SETTINGS"));
        self.fail("SETTINGS", message);
    }

    pub(super) fn count(&self, level: CheckLevel) -> u64 {
        self.0.iter().filter(|finding| finding.level == level).count() as u64
    }
}
