//! The fields of a form or of a query.

use std::str::FromStr;

use super::error::PageError;

/// Names and values, of which a name may come several times.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    pub(super) fn parse(text: &[u8]) -> Self {
        Self(form_urlencoded::parse(text).into_owned().collect())
    }

    /// Returns the value of a field that is filled in, without spaces around it.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut values = self.0.iter().filter(|(of, _)| of == name).map(|(_, value)| value.trim());
        values.find(|value| !value.is_empty())
    }

    /// Returns the value as it is.
    pub(super) fn raw(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
    }

    /// Returns the value of a field, as a number for example.
    pub(super) fn parsed<T: FromStr>(&self, name: &str) -> Result<Option<T>, PageError> {
        self.get(name).map(|value| parsed(name, value)).transpose()
    }

    /// Returns all values of a field.
    pub(super) fn all<T: FromStr>(&self, name: &str) -> Result<Vec<T>, PageError> {
        self.0.iter().filter(|(of, _)| of == name).map(|(_, value)| parsed(name, value)).collect()
    }
}

fn parsed<T: FromStr>(name: &str, value: &str) -> Result<T, PageError> {
    value.parse().map_err(|_| PageError::bad_request(format!("the field {name} cannot be {value:?}")))
}
