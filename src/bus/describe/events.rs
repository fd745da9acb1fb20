//! The types of events that an app has registered.

/// An event, and how its schema is made.
#[derive(Clone, Copy, Debug)]
pub(in crate::bus) struct EventType {
    pub(in crate::bus) topic: &'static str,
    #[cfg(feature = "schemas")]
    pub(in crate::bus) schema: fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
}

#[cfg(feature = "schemas")]
impl EventType {
    pub(in crate::bus) fn of<E: crate::message::Event + schemars::JsonSchema>() -> Self {
        Self { topic: E::TOPIC, schema: |generator| generator.subschema_for::<E>() }
    }
}
