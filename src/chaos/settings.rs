//! The rates of faults.

use std::time::Duration;

use crate::util::error::debug_as_display;

/// The rates of faults, zero by default. In a settings file this is the table `CHAOS`.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "settings", derive(serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct ChaosSettings {
    /// The share of messages that are returned untried, from 0 to 1; 0 by default.
    pub nacked: f64,
    /// The delay of every other message; none by default.
    #[cfg_attr(feature = "settings", serde(deserialize_with = "crate::util::units::duration"))]
    pub delay: Duration,
    /// The share of the others that fail, from 0 to 1; 0 by default.
    pub failed: f64,
    /// The topics without faults; none by default.
    pub protected: Vec<String>,
}

impl ChaosSettings {
    /// Reads the settings from the environment, with the names of petisco:
    ///
    /// | variable | sets |
    /// |---|---|
    /// | `MESSAGE_CHAOS_PERCENTAGE_SIMULATE_NACK` | [`nacked`](Self::nacked), from 0 to 1 |
    /// | `MESSAGE_CHAOS_DELAY_BEFORE_EVENT_HANDLER_SECONDS` | [`delay`](Self::delay), in seconds |
    /// | `MESSAGE_CHAOS_PERCENTAGE_SIMULATE_FAILURES` | [`failed`](Self::failed), from 0 to 1 |
    /// | `MESSAGE_CHAOS_PROTECTED_ROUTING_KEYS` | [`protected`](Self::protected), separated by commas |
    ///
    /// # Errors
    /// [`ChaosError`] for a value that is not a number of this range.
    pub fn from_env() -> Result<Self, ChaosError> {
        Self::default().over_env()
    }

    /// Replaces those settings that have a variable in the environment, as by [`from_env`](Self::from_env).
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env).
    pub fn over_env(self) -> Result<Self, ChaosError> {
        self.over(|name| std::env::var(name).ok())
    }

    fn over(mut self, variable: impl Fn(&str) -> Option<String>) -> Result<Self, ChaosError> {
        let number = |name: &'static str, most: f64| {
            let Some(value) = variable(name) else { return Ok(None) };
            let number = value.trim().parse().ok().filter(|number| (0.0..=most).contains(number));
            number.map(Some).ok_or(ChaosError { name, most, value })
        };
        if let Some(nacked) = number("MESSAGE_CHAOS_PERCENTAGE_SIMULATE_NACK", 1.0)? {
            self.nacked = nacked;
        }
        if let Some(seconds) = number("MESSAGE_CHAOS_DELAY_BEFORE_EVENT_HANDLER_SECONDS", 86_400.0)? {
            self.delay = Duration::from_secs_f64(seconds);
        }
        if let Some(failed) = number("MESSAGE_CHAOS_PERCENTAGE_SIMULATE_FAILURES", 1.0)? {
            self.failed = failed;
        }
        if let Some(protected) = variable("MESSAGE_CHAOS_PROTECTED_ROUTING_KEYS") {
            let topics = protected.split(',').map(str::trim).filter(|topic| !topic.is_empty());
            self.protected = topics.map(str::to_owned).collect();
        }
        Ok(self)
    }

    /// Sets [`nacked`](Self::nacked).
    #[must_use]
    pub fn with_nacked(mut self, nacked: f64) -> Self {
        self.nacked = nacked;
        self
    }

    /// Sets [`delay`](Self::delay).
    #[must_use]
    pub fn with_delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Sets [`failed`](Self::failed).
    #[must_use]
    pub fn with_failed(mut self, failed: f64) -> Self {
        self.failed = failed;
        self
    }

    /// Adds to [`protected`](Self::protected).
    #[must_use]
    pub fn with_protected(mut self, topic: impl Into<String>) -> Self {
        self.protected.push(topic.into());
        self
    }
}

/// The value of an environment variable is invalid.
#[derive(Clone, thiserror::Error)]
#[error("{name} is {value:?}; write a number from 0 to {most}")]
#[non_exhaustive]
pub struct ChaosError {
    name: &'static str,
    most: f64,
    value: String,
}

debug_as_display!(ChaosError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_the_environment_replace_settings() {
        let settings = ChaosSettings::default().with_failed(0.5).with_nacked(0.5);
        let variables = |name: &str| match name {
            "MESSAGE_CHAOS_PERCENTAGE_SIMULATE_NACK" => Some("0.25".to_owned()),
            "MESSAGE_CHAOS_DELAY_BEFORE_EVENT_HANDLER_SECONDS" => Some("1.5".to_owned()),
            "MESSAGE_CHAOS_PROTECTED_ROUTING_KEYS" => Some("a.b, c".to_owned()),
            _ => None,
        };
        let wanted = ChaosSettings {
            nacked: 0.25,
            delay: Duration::from_millis(1_500),
            failed: 0.5,
            protected: vec!["a.b".to_owned(), "c".to_owned()],
        };
        assert_eq!(settings.over(variables).unwrap(), wanted);
    }

    #[test]
    fn a_value_that_is_no_share_is_an_error() {
        for value in ["much", "-0.1", "1.1", "NaN"] {
            let error = ChaosSettings::default().over(|_| Some(value.to_owned())).unwrap_err().to_string();
            assert!(error.contains("from 0 to 1") && error.contains("SIMULATE_NACK"), "{error}");
        }
    }
}
