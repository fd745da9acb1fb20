//! The filter of a list: fields of the URL, a form, a sentence.

use maud::{Markup, html};
use serde::de::IntoDeserializer;
use serde::de::value::Error;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::fields::Fields;
use super::text::is_hidden;
use crate::util::units::optional_duration;

/// The conditions of the JSON API, with their labels.
const CONDITIONS: [(&str, &str, &str); 6] = [
    ("state", "State", ""),
    ("topic", "Topic", "order.*"),
    ("key", "Key", "exactly"),
    ("reason", "Reason contains", "a part, in any case"),
    ("older_than", "Older than", "30m, 1d"),
    ("id", "Id", ""),
];

/// The names of the conditions.
pub(super) const NAMES: [&str; CONDITIONS.len()] = {
    let mut names = [""; CONDITIONS.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = CONDITIONS[at].0;
        at += 1;
    }
    names
};

/// Says how a value is written, if it is written in another way.
fn expected(name: &str, value: &str) -> Option<&'static str> {
    let is_duration =
        |value: &str| optional_duration(IntoDeserializer::<Error>::into_deserializer(value)).is_ok();
    match name {
        "state" if !matches!(value, "pending" | "dead") => Some("Choose pending or dead."),
        "topic" if value.trim_end_matches('*').contains('*') || value.ends_with("**") => {
            Some("Write a topic, such as order.created, or its start and one *, such as order.*")
        }
        "older_than" if !is_duration(value) => Some("Write an age, such as 90s, 30m or 1d."),
        "id" if Uuid::parse_str(value).is_err() => {
            Some("Write a whole id, such as 01890a5d-ac96-774b-bcce-b302099a8057.")
        }
        _ if value.contains('\0') => Some("Write a text without a NUL character."),
        _ => None,
    }
}

/// The conditions that are filled in.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions(Vec<(&'static str, String)>);

impl Conditions {
    pub(super) fn of(fields: &Fields) -> Self {
        let given = |(name, ..): &(&'static str, _, _)| Some((*name, fields.get(name)?.to_owned()));
        Self(CONDITIONS.iter().filter_map(given).collect())
    }

    pub(super) fn dead() -> Self {
        Self(vec![("state", "dead".to_owned())])
    }

    #[must_use]
    pub(super) fn and(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    /// Sets the state, if none is given.
    #[must_use]
    pub(super) fn or_state(self, state: &str) -> Self {
        if self.value("state").is_empty() { self.and("state", state) } else { self }
    }

    /// Returns the first fault, as a sentence.
    pub(super) fn fault(&self) -> Option<String> {
        let fault =
            |(name, value): &(&str, String)| Some(format!("{}: {}", label(name), expected(name, value)?));
        self.0.iter().find_map(fault)
    }

    pub(super) fn pairs(&self) -> Vec<(&'static str, String)> {
        self.0.clone()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn is_dead(&self) -> bool {
        self.value("state") == "dead"
    }

    /// The filter of a requeue or drop.
    pub(super) fn object(&self) -> Value {
        let pairs = self.0.iter().map(|(name, value)| ((*name).to_owned(), Value::from(value.as_str())));
        pairs.collect::<Map<_, _>>().into()
    }

    /// The query of a link to a page with these conditions.
    pub(super) fn query(&self, more: &[(&str, String)]) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(&self.0).extend_pairs(more);
        query.finish()
    }

    /// Hidden fields of a form.
    pub(super) fn hidden(&self) -> Markup {
        html! { @for (name, value) in &self.0 { input type="hidden" name=(name) value=(value); } }
    }

    fn value(&self, name: &str) -> &str {
        self.0.iter().find(|(of, _)| *of == name).map_or("", |(_, value)| value)
    }

    /// The form that sets the conditions.
    pub(super) fn form(&self) -> Markup {
        let state = self.value("state");
        html! {
            form.filter method="get" action="messages" role="search" aria-label="Filter messages" {
                @for (name, label, hint) in CONDITIONS {
                    @let fault = expected(name, self.value(name)).filter(|_| !self.value(name).is_empty());
                    @let (invalid, id) = (fault.map(|_| "true"), format!("fault-{name}"));
                    div.field {
                        label {
                            (label)
                            @if name == "state" {
                                select name="state" aria-invalid=[invalid] aria-describedby=[fault.map(|_| &id)] {
                                    option value="" { "any" }
                                    option value="pending" selected[state == "pending"] { "pending" }
                                    option value="dead" selected[state == "dead"] { "dead" }
                                }
                            } @else {
                                input name=(name) value=(seen(self.value(name))) placeholder=[(!hint.is_empty()).then_some(hint)]
                                    autocomplete="off" spellcheck="false" aria-invalid=[invalid] aria-describedby=[fault.map(|_| &id)];
                            }
                        }
                        @if let Some(fault) = fault { p.fault id=(id) { (fault) } }
                    }
                }
                button.main type="submit" { "Filter" }
                @if !self.is_empty() { a.button href="messages" { "Clear" } }
            }
        }
    }

    /// The conditions as rows of a list.
    pub(super) fn described(&self) -> Markup {
        html! {
            dl {
                @if self.is_empty() { dt { "Which" } dd { "every stored message" } }
                @for (name, value) in &self.0 {
                    dt { (label(name)) }
                    dd { (super::text::visible(value)) }
                }
            }
        }
    }
}

/// The value of a field, without the characters that a page must not have.
fn seen(value: &str) -> String {
    value.chars().map(|c| if is_hidden(c) { '\u{fffd}' } else { c }).collect()
}

fn label(name: &str) -> &str {
    CONDITIONS.iter().find(|(of, ..)| *of == name).map_or(name, |(_, label, _)| label)
}
