//! The table `DASHBOARD`.

use serde::{Deserialize, Deserializer};

/// The table `DASHBOARD`: the pages for operators.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct DashboardSettings {
    /// The address of a trace, in which `{trace_id}` stands for its id; by default messages have no link to their trace.
    #[serde(deserialize_with = "trace_url")]
    pub trace_url: Option<TraceUrl>,
}

/// The address of a trace, with `{trace_id}` for its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceUrl(String);

/// Stands for the id of a trace.
const TRACE_ID: &str = "{trace_id}";

impl TraceUrl {
    /// Returns the address of a trace.
    pub(crate) fn of(&self, trace_id: &str) -> String {
        self.0.replace(TRACE_ID, trace_id)
    }
}

fn trace_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<TraceUrl>, D::Error> {
    let url = String::deserialize(deserializer)?;
    let is_http = url.starts_with("https://") || url.starts_with("http://");
    if !is_http || !url.contains(TRACE_ID) {
        return Err(serde::de::Error::custom(format!(
            "TRACE_URL is {url:?}; write an address with {TRACE_ID}, such as https://traces.example.com/trace/{TRACE_ID}"
        )));
    }
    Ok(Some(TraceUrl(url)))
}
