//! The filter of a list: fields of the URL, a form, a sentence.

use maud::{Markup, html};
use serde_json::{Map, Value};

use super::fields::Fields;

/// The conditions of the JSON API, with their labels.
const CONDITIONS: [(&str, &str, &str); 6] = [
    ("state", "State", ""),
    ("topic", "Topic", "order.created or order.*"),
    ("key", "Key", "exactly"),
    ("reason", "Reason contains", "a part, in any case"),
    ("older_than", "Older than", "30m, 1d"),
    ("id", "Id", ""),
];

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
                    label {
                        (label)
                        @if name == "state" {
                            select name="state" {
                                option value="" { "any" }
                                option value="pending" selected[state == "pending"] { "pending" }
                                option value="dead" selected[state == "dead"] { "dead" }
                            }
                        } @else {
                            input name=(name) value=(self.value(name)) placeholder=[(!hint.is_empty()).then_some(hint)]
                                autocomplete="off" spellcheck="false";
                        }
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
                    dt { (CONDITIONS.iter().find(|(of, ..)| of == name).map_or(*name, |(_, label, _)| label)) }
                    dd { (super::text::visible(value)) }
                }
            }
        }
    }
}
