//! The plan of a bus, for people and for programs.

mod async_api;
mod backends;
mod description;
mod events;
mod facts;
mod general;

pub use self::async_api::AsyncApi;
pub use self::description::Description;
pub(super) use self::events::EventType;
