//! The streams and consumers of an app: a plan, and what is missing is created.

use std::fmt;
use std::sync::Arc;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::{ConsumerInfoErrorKind, GetStreamByNameErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{ErrorCode, consumer};
use rustls::ClientConfig;

use super::client;
use super::settings::NatsSettings;
use super::setup::{self, fault_of_consumer, filters_of, stream_config};
use super::subscription::{NatsSubscription, SubscriptionPattern};
use crate::backends::brokers::{BrokerUrl, BrokersError};
use crate::messenger::Failure;
use crate::util::error::{Chain, debug_as_display};

/// The streams and durable consumers that sources use.
///
/// ```no_run
/// use tower_outbox::nats::{NatsSettings, NatsSubscription, NatsTopology};
///
/// # async fn example() -> Result<(), tower_outbox::BoxError> {
/// let settings = NatsSettings::new(["nats://localhost:4222"]);
/// let mail = NatsSubscription::new("orders", "mail").with_subject("order.>");
/// let topology = NatsTopology::new(&settings, [mail])?;
/// print!("{}", topology.plan().await?);
/// topology.apply().await?;
/// # Ok(())
/// # }
/// ```
pub struct NatsTopology {
    settings: NatsSettings,
    urls: Vec<BrokerUrl>,
    tls: Option<Arc<ClientConfig>>,
    subscriptions: Vec<NatsSubscription>,
}

impl NatsTopology {
    /// The streams and consumers of these subscriptions; requests have none.
    ///
    /// # Errors
    /// [`BrokersError`] names the wrong setting or file, and the cure.
    pub fn new(
        settings: &NatsSettings,
        subscriptions: impl IntoIterator<Item = NatsSubscription>,
    ) -> Result<Self, BrokersError> {
        let (urls, tls) = settings.check()?;
        let is_of_stream = |it: &NatsSubscription| it.pattern == SubscriptionPattern::Streams;
        let subscriptions: Vec<_> = subscriptions.into_iter().filter(is_of_stream).collect();
        subscriptions.iter().try_for_each(|subscription| subscription.check(settings))?;
        Ok(Self { settings: settings.clone(), urls, tls, subscriptions })
    }

    /// Compares them with those of one of the servers, and changes nothing.
    ///
    /// # Errors
    /// [`NatsTopologyError`] when no server responds, or it refuses to show them.
    pub async fn plan(&self) -> Result<NatsPlan, NatsTopologyError> {
        let context = self.connect().await?;
        let mut plan = NatsPlan::default();
        for subscription in &self.subscriptions {
            self.compare(&context, subscription, &mut plan).await?;
        }
        Ok(plan)
    }

    /// Creates what is missing, and returns what that was. Existing streams and consumers stay as they are.
    ///
    /// # Errors
    /// [`NatsTopologyError`] when no server responds, or it refuses one. Those before it are created.
    pub async fn apply(&self) -> Result<NatsPlan, NatsTopologyError> {
        let plan = self.plan().await?;
        let context = self.connect().await?;
        for subscription in &self.subscriptions {
            let prepared = setup::prepare(&context, &self.settings, subscription).await;
            prepared.map_err(|failure| NatsTopologyError::of(&failure))?;
        }
        Ok(plan)
    }

    async fn connect(&self) -> Result<Context, NatsTopologyError> {
        let opened = client::open_any(&self.settings, self.tls.as_ref(), &self.urls).await;
        Ok(opened.map_err(|failure| NatsTopologyError::of(&failure))?.0.context)
    }

    async fn compare(
        &self,
        context: &Context,
        subscription: &NatsSubscription,
        plan: &mut NatsPlan,
    ) -> Result<(), NatsTopologyError> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            NatsTopologyError::Unavailable(Chain(error).to_string())
        };
        let (stream, durable) = (&subscription.stream, &subscription.durable);
        let dead = subscription.dead_letters();
        match context.stream_by_subject(&*dead).await {
            Ok(_) => {}
            Err(error) if error.kind() == GetStreamByNameErrorKind::NotFound => {
                plan.missing
                    .push(format!("the stream \"{stream}-{durable}-dead\" of dead letters at {dead:?}"));
            }
            Err(error) => return Err(failed(&error)),
        }
        let found = match context.get_stream(stream).await {
            Ok(found) => Some(found),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(why) if why.error_code() == ErrorCode::STREAM_NOT_FOUND => None,
                _ => return Err(failed(&error)),
            },
        };
        let Some(found) = found else {
            match subscription.subjects.is_empty() {
                true => plan.refused.push((
                    format!("the stream {stream:?}"),
                    "does not exist: create it, or set SUBJECTS, with which it is created".to_owned(),
                )),
                false => plan.missing.push(format!("the stream {stream:?}")),
            }
            plan.missing.push(format!("the consumer {durable:?} of the stream {stream:?}"));
            return Ok(());
        };
        self.compare_stream(context, subscription, &found, plan);
        match found.consumer_info(durable).await {
            Ok(info) => self.compare_consumer(subscription, &info.config, plan),
            Err(error) => match error.kind() {
                ConsumerInfoErrorKind::NotFound => {
                    plan.missing.push(format!("the consumer {durable:?} of the stream {stream:?}"));
                }
                _ => return Err(failed(&error)),
            },
        }
        Ok(())
    }

    fn compare_stream(
        &self,
        context: &Context,
        subscription: &NatsSubscription,
        found: &Stream,
        plan: &mut NatsPlan,
    ) {
        let (theirs, ours) =
            (&found.cached_info().config, stream_config(context, &self.settings, subscription));
        let item = || format!("the stream {:?}", subscription.stream);
        let takes = |wanted: &String| theirs.subjects.iter().any(|subject| covers(subject, wanted));
        let not_taken: Vec<_> = ours.subjects.iter().filter(|wanted| !takes(wanted)).collect();
        if !not_taken.is_empty() {
            let text = format!("takes {:?}, and not {not_taken:?} of SUBJECTS", theirs.subjects);
            plan.differing.push((item(), text));
        }
        if theirs.num_replicas != ours.num_replicas {
            let text = format!("has REPLICAS {}, not {}", theirs.num_replicas, ours.num_replicas);
            plan.differing.push((item(), text));
        }
        let horizon = self.settings.retry_horizon();
        if theirs.duplicate_window < horizon {
            let text = format!(
                "forgets the ids of messages after {:?}, and a message may be tried again for {horizon:?}",
                theirs.duplicate_window
            );
            plan.differing.push((item(), text));
        }
    }

    fn compare_consumer(
        &self,
        subscription: &NatsSubscription,
        theirs: &consumer::Config,
        plan: &mut NatsPlan,
    ) {
        let item = format!("the consumer {:?} of the stream {:?}", subscription.durable, subscription.stream);
        if let Some(fault) = fault_of_consumer(theirs) {
            plan.refused.push((item, fault.to_owned()));
            return;
        }
        let (mut has, mut wants) = (filters_of(theirs), subscription.filters(&self.settings));
        has.sort();
        wants.sort();
        let facts = [
            ("SUBJECTS", format!("{has:?}"), format!("{wants:?}")),
            ("ACK_WAIT", format!("{:?}", theirs.ack_wait), format!("{:?}", subscription.ack_wait)),
            ("MAX_ACK_PENDING", theirs.max_ack_pending.to_string(), subscription.max_ack_pending.to_string()),
        ];
        for (key, has, wants) in facts {
            if has != wants {
                plan.differing.push((item.clone(), format!("has {key} {has}, not {wants}")));
            }
        }
    }
}

/// Whether a subject with wildcards takes all that another one takes.
fn covers(subject: &str, other: &str) -> bool {
    let mut parts = other.split('.');
    for own in subject.split('.') {
        match (own, parts.next()) {
            (">", Some(_)) => return true,
            ("*", Some(part)) if part != ">" => {}
            (own, Some(part)) if own == part => {}
            _ => return false,
        }
    }
    parts.next().is_none()
}

impl fmt::Debug for NatsTopology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsTopology").field("subscriptions", &self.subscriptions).finish_non_exhaustive()
    }
}

/// The streams and consumers that [`NatsTopology::apply`] would create, and those that differ; shown as one line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NatsPlan {
    /// The missing streams and consumers.
    pub missing: Vec<String>,
    /// Existing streams and consumers with other properties than the settings, which are used unchanged; and the difference.
    pub differing: Vec<(String, String)>,
    /// Those that no source uses, since it would lose messages; and the reason with its cure.
    pub refused: Vec<(String, String)>,
}

impl NatsPlan {
    /// Whether all exist with the same properties.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for NatsPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.missing.iter().try_for_each(|item| writeln!(f, "creates {item}"))?;
        self.differing.iter().try_for_each(|(item, difference)| writeln!(f, "{item} {difference}"))?;
        self.refused.iter().try_for_each(|(item, fault)| writeln!(f, "refuses {item}: it {fault}"))
    }
}

/// Why streams and consumers cannot be compared or created.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum NatsTopologyError {
    /// No server responds now.
    #[error("no server responds: {0}")]
    Unavailable(String),
    /// The server, or this crate, refuses one of them.
    #[error("{0}")]
    Refused(String),
}

debug_as_display!(NatsTopologyError);

impl NatsTopologyError {
    fn of(failure: &Failure) -> Self {
        let text = Chain(failure.cause()).to_string();
        match failure.is_transient() {
            true => Self::Unavailable(text),
            false => Self::Refused(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_covers_what_it_takes() {
        for (subject, other, is_so) in [
            ("a.>", "a.b.c", true),
            ("a.>", "a.>", true),
            ("a.*", "a.b", true),
            ("a.*", "a.>", false),
            ("a.b", "a.*", false),
            ("a.b", "a.b", true),
            ("a.b", "a", false),
            (">", "a.b", true),
        ] {
            assert_eq!(covers(subject, other), is_so, "{subject} {other}");
        }
    }
}
