//! Channels for an app: messengers and sources.

#[cfg(feature = "admin")]
mod dead_letters;
mod events;
mod handle;
#[cfg(all(feature = "settings", feature = "nats"))]
mod jetstream;
mod message;
mod queue;
mod sender;
#[cfg(feature = "settings")]
mod settings;
mod stream;

#[cfg(feature = "admin")]
pub(crate) use self::dead_letters::ChannelDeadLetters;
pub use self::events::ChannelEvents;
pub use self::handle::Channels;
#[cfg(all(feature = "settings", feature = "nats"))]
pub use self::jetstream::JetstreamChannelsSettings;
pub use self::queue::ChannelQueue;
pub use self::sender::{ChannelMessenger, SendPattern};
#[cfg(feature = "settings")]
pub use self::settings::{ChannelClientSettings, ChannelConsumerSettings, ChannelsSettings, ReceivePattern};
pub use self::stream::ChannelStream;
