//! The envelope of python-rhmsg, as PDC sent it.

use std::borrow::Cow;

use fe2o3_amqp_types::messaging::{AmqpValue, Body, Header};
use fe2o3_amqp_types::primitives::{OrderedMap, SimpleValue, Value};
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::outgoing::{AmqpMessage, Shape, assemble, insert_headers};
use super::settings::Amqp10Settings;
use crate::message::Message;
use crate::util::error::BoxError;

type Fields<'a> = IndexMap<Cow<'a, str>, &'a RawValue>;

/// A JSON object as an amqp-value string, its scalars repeated as application properties.
///
/// Consumers call `json.loads(message.body)`: only a string works for them. The scalars at the root of the
/// body become properties of the same name, those of its object `new_value` get `DATA:` before it:
/// texts, whole numbers (as `long`), truth values and null; never floats, lists or objects. That is what
/// PDC's `RHMsgMessenger._make_headers` does. The message's own headers are added to them.
#[derive(Debug)]
pub(super) struct Rhmsg;

impl Shape for Rhmsg {
    const ADDRESS: &'static str = "topic://{topic}";
    const DURABLE: bool = false;
    const WRAPS: bool = false;

    fn with_timeouts(settings: Amqp10Settings) -> Amqp10Settings {
        settings.with_rhmsg_timeouts()
    }

    fn check(message: &Message) -> Result<(), BoxError> {
        fields(message.body()).map(drop)
    }

    fn encode(header: Header, message: &Message) -> Result<AmqpMessage, BoxError> {
        let fields = fields(message.body())?;
        let mut application = OrderedMap::new();
        insert_scalars(&mut application, "", &fields);
        if let Some(new_value) = fields.get("new_value")
            && let Ok(new_value) = serde_json::from_str::<Fields<'_>>(new_value.get())
        {
            insert_scalars(&mut application, "DATA:", &new_value);
        }
        insert_headers(&mut application, message);
        let text = std::str::from_utf8(message.body())?.to_owned();
        Ok(assemble(header, None, application, Body::Value(AmqpValue(Value::String(text)))))
    }
}

fn fields(body: &[u8]) -> Result<Fields<'_>, BoxError> {
    serde_json::from_slice(body)
        .map_err(|error| format!("an rhmsg message must be a JSON object: {error}").into())
}

fn insert_scalars(application: &mut OrderedMap<String, SimpleValue>, prefix: &str, fields: &Fields<'_>) {
    for (name, value) in fields {
        if let Some(value) = scalar(value) {
            application.insert(format!("{prefix}{name}"), value);
        }
    }
}

fn scalar(value: &RawValue) -> Option<SimpleValue> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Scalar {
        Bool(bool),
        Int(i64),
        String(String),
    }
    if value.get() == "null" {
        return Some(SimpleValue::Null);
    }
    if value.get().starts_with(['[', '{']) {
        return None;
    }
    match serde_json::from_str(value.get()).ok()? {
        Scalar::Bool(value) => Some(SimpleValue::Bool(value)),
        Scalar::Int(value) => Some(SimpleValue::Long(value)),
        Scalar::String(value) => Some(SimpleValue::String(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(body: &str) -> AmqpMessage {
        Rhmsg::encode(Header::default(), &Message::new("a", body.to_owned()).unwrap()).unwrap()
    }

    fn properties(body: &str) -> Vec<(String, SimpleValue)> {
        encoded(body).application_properties.unwrap().0.into_iter().collect()
    }

    /// The pair that PDC's own tests assert (`pdc/apps/messaging/tests.py`).
    #[test]
    fn headers_are_those_of_pdc() {
        let text = |text: &str| SimpleValue::String(text.to_owned());
        assert_eq!(
            properties(r#"{"a": "b", "new_value": {"c": "d"}}"#),
            [("a".to_owned(), text("b")), ("DATA:c".to_owned(), text("d"))]
        );
    }

    #[test]
    fn only_what_rhmsg_can_carry_becomes_a_header() {
        let found = properties(
            r#"{"i": 7, "neg": -1, "t": true, "n": null, "f": 1.5, "e": 1e3, "l": [1], "o": {"x": 1},
                "big": 9223372036854775808, "new_value": {"i": 8, "l": []}, "old_value": {"i": 9}}"#,
        );
        let expected = [
            ("i", SimpleValue::Long(7)),
            ("neg", SimpleValue::Long(-1)),
            ("t", SimpleValue::Bool(true)),
            ("n", SimpleValue::Null),
            ("DATA:i", SimpleValue::Long(8)),
        ];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value)));
    }

    /// In PDC a `new_value` that was no object killed the one worker, and nothing was sent any more.
    #[test]
    fn a_new_value_that_is_no_object_is_left_alone() {
        for body in [r#"{"new_value": [1]}"#, r#"{"new_value": 1.5}"#] {
            assert_eq!(properties(body), []);
        }
        assert_eq!(properties(r#"{"new_value": "x"}"#).len(), 1);
    }

    #[test]
    fn the_body_is_the_text_as_it_was() {
        let body = r#"{"ü":  "☃", "x":1.50}"#;
        assert_eq!(encoded(body).body, Body::Value(AmqpValue(Value::String(body.to_owned()))));
    }

    #[test]
    fn what_is_no_object_is_refused_at_enqueue() {
        for body in ["[1]", "7", "", "\"text\"", "{"] {
            let error = Rhmsg::check(&Message::new("a", body).unwrap()).unwrap_err().to_string();
            assert!(error.contains("must be a JSON object"), "{error}");
        }
    }
}
