//! Channels: queues, streams, events and requests on the local disk, or on whatever implements [`Engine`].
//!
//! | pattern | a message goes to | delivery |
//! |---|---|---|
//! | [queue](Queues) | one of the consumers | at least once, kept until it is settled |
//! | [stream](Streams) | every subscription, one member of each group | at least once, kept up to the retention, read from any place |
//! | [events](Events) | every subscriber now, one member of each group | at most once |
//! | [requests](Requests) | one member of each group; the first answer wins | at most once, with a deadline |
//!
//! | module | content |
//! |---|---|
//! | [`Channels`] | the channels of an app: messengers and sources |
//! | [`embedded`] | the engine on the local disk |
//! | `jetstream` | the engine on NATS with JetStream, which several processes share (feature `nats`) |
//! | [`calls`] | request and reply for a [`Client`](crate::client::Client) and a [`Consumer`](crate::consumer::Consumer) |
//! | `engine` | the contract of an engine as a whole, with the administration of channels |
//! | `queue`, `stream`, `events`, `requests` | the contract of each pattern |
//! | `queue_types`, `stream_types`, `event_types`, `request_types` | their types |
//! | `name`, `info`, `content`, `error` | types that all patterns share |

mod app;
pub mod calls;
mod capabilities;
mod capacity;
mod content;
pub mod embedded;
mod engine;
mod error;
mod event_types;
mod events;
mod info;
#[cfg(feature = "nats")]
#[cfg_attr(docsrs, doc(cfg(feature = "nats")))]
pub mod jetstream;
mod name;
mod queue;
mod queue_types;
mod request_types;
mod requests;
mod stream;
mod stream_types;

#[cfg(feature = "admin")]
pub(crate) use self::app::ChannelDeadLetters;
#[cfg(all(feature = "settings", feature = "nats"))]
pub use self::app::JetstreamChannelsSettings;
#[cfg(feature = "settings")]
pub use self::app::{ChannelClientSettings, ChannelConsumerSettings, ChannelsSettings, ReceivePattern};
pub use self::app::{ChannelEvents, ChannelMessenger, ChannelQueue, ChannelStream, Channels, SendPattern};
pub use self::capabilities::EngineCapabilities;
pub use self::content::Content;
pub use self::engine::Engine;
pub use self::error::EngineError;
pub use self::event_types::{Event, EventSubscription};
pub use self::events::Events;
pub use self::info::{ChannelInfo, ChannelKind, ChannelLimits, Traffic};
pub use self::name::{ChannelName, NameError, Pattern};
pub use self::queue::Queues;
pub use self::queue_types::{
    Peeked, Policy, QueueDelivery, QueueMessage, Receipt, Receive, Received, Sent, Settle, Which,
};
pub use self::request_types::{
    Answered, Incoming, LateAnswer, Reply, Request, RequestKind, RequestSubscription, Responder,
};
pub use self::requests::Requests;
pub use self::stream::{StreamSubscription, Streams};
pub use self::stream_types::{Appended, Start, StreamMessage, Subscribe};
