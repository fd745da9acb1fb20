//! The fields of a form or of a query.

use std::str::FromStr;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use http::{Method, StatusCode};

use super::error::PageError;
use crate::util::percent::decoded;

/// The longest query, in bytes. Each message that is selected on a page takes some 40.
const LONGEST_QUERY: usize = 16 << 10;

/// How many fields a form or a query has at most.
const MOST: usize = 1_000;

/// Names and values, of which a name may come several times.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<(String, String)>);

/// The form of a POST, or the query of another request.
impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = PageError;

    async fn from_request(request: Request, state: &S) -> Result<Self, PageError> {
        if request.method() == Method::POST {
            let form = Bytes::from_request(request, state).await;
            return Self::parse(&form.map_err(|error| PageError::new(error.status(), error.body_text()))?);
        }
        let query = request.uri().query().unwrap_or_default();
        if query.len() > LONGEST_QUERY {
            return Err(PageError::new(
                StatusCode::URI_TOO_LONG,
                "the address is too long: select fewer messages",
            ));
        }
        Self::parse(query.as_bytes())
    }
}

impl Fields {
    fn parse(text: &[u8]) -> Result<Self, PageError> {
        if std::str::from_utf8(&decoded(text)).is_err() {
            return Err(PageError::bad_request("a field is no UTF-8 text"));
        }
        let fields: Vec<_> = form_urlencoded::parse(text).take(MOST + 1).collect();
        if fields.len() > MOST {
            return Err(PageError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "there are too many fields: select fewer messages",
            ));
        }
        Ok(Self(fields.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()))
    }

    /// Refuses fields of other names than `once` and `often`, and those of `once` that come several times. An address with a wrong name
    /// would else mean more messages than its author thinks.
    pub(super) fn only(self, once: &[&str], often: &[&str]) -> Result<Self, PageError> {
        let mut seen = Vec::new();
        for (name, _) in &self.0 {
            let name = name.as_str();
            if often.contains(&name) {
                continue;
            }
            if !once.contains(&name) {
                let known = [once, often].concat().join(", ");
                return Err(PageError::bad_request(format!(
                    "there is a field that this page does not know; it knows {known}"
                )));
            }
            if seen.contains(&name) {
                return Err(PageError::bad_request(format!(
                    "the field {name} is there twice; write it once"
                )));
            }
            seen.push(name);
        }
        Ok(self)
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
    value.parse().map_err(|_| {
        let shown: String = value.chars().take(200).collect();
        PageError::bad_request(format!("the field {name} cannot be {shown:?}"))
    })
}
