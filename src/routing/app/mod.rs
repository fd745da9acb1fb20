//! A router in an app: a messenger that publishes, sources that subscribe, and last values.

mod handle;
mod last_values;
mod link_info;
#[cfg(not(feature = "_fuzzing"))]
mod message;
#[cfg(feature = "_fuzzing")]
pub(super) mod message;
mod persist;
#[cfg(feature = "settings")]
mod settings;
mod source;

pub use self::handle::Routing;
pub use self::last_values::{LastValues, Upstream};
pub use self::link_info::LinkInfo;
pub use self::persist::{is_persisted, persist};
#[cfg(feature = "settings")]
pub use self::settings::{RoutingConsumerSettings, RoutingSettings};
pub use self::source::RoutingSource;
