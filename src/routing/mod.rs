//! A router for sites: messages on URIs, a queue for each subscriber that outlives power cuts, and the last value of each URI.
//!
//! ```no_run
//! use std::time::Duration;
//! use tower_outbox::routing::{Namespace, Pattern, PayloadObject, RoutedMessage, RouterSettings, SiteRouter, Uri};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let router = SiteRouter::open(RouterSettings::new("/var/lib/app/router")).await?;
//! let site = Namespace::named("site")?;
//! let subscription =
//!     router.subscribe(b"display", "main", &site, &Pattern::new("floor1/*")?, Duration::from_secs(3_600)).await?;
//! let object = PayloadObject { schema: "text".to_owned(), content: "21.5".into() };
//! router.publish(RoutedMessage::new(site, Uri::new("floor1/temperature")?, vec![object])).await?;
//! for leased in subscription.lease(10).await? {
//!     println!("{} {:?}", leased.message.uri, leased.message.payload);
//!     subscription.ack(&[leased.seq]);
//! }
//! # Ok(())
//! # }
//! ```

mod app;
mod command;
mod committer;
mod counters;
mod error;
#[cfg(feature = "_fuzzing")]
pub(crate) mod fuzzing;
mod grant;
mod grant_files;
mod message;
#[cfg(test)]
mod model;
mod namespace;
mod pattern;
mod queue;
mod queue_info;
mod record;
mod rewrite;
mod router;
mod router_folder;
mod router_shared;
mod router_state;
mod seal;
mod settings;
mod subject;
mod subscription;
mod subscriptions;
mod uri;
mod values;

pub use self::app::{LastValues, LinkInfo, Routing, RoutingSource, Upstream, is_persisted, persist};
#[cfg(feature = "settings")]
pub use self::app::{RoutingConsumerSettings, RoutingSettings};
pub use self::counters::RouterCounts;
pub use self::error::RouteError;
pub use self::grant::{Grant, Grants, Refused, Verb};
pub use self::grant_files::{GrantError, GrantTable};
pub use self::message::{PayloadObject, RoutedMessage};
pub use self::namespace::{Namespace, NamespaceError};
pub use self::pattern::Pattern;
pub use self::queue_info::QueueInfo;
pub use self::record::{QueueKind, QueueLimits};
pub use self::router::SiteRouter;
pub use self::seal::{Seal, SealError};
pub use self::settings::RouterSettings;
pub use self::subject::{Subject, SubjectError};
pub use self::subscription::{Leased, Subscription, Values};
pub use self::uri::{Uri, UriError};
pub use crate::log::error::OpenError;
