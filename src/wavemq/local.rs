//! The service for clients: `mqpb.WAVEMQ`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};
use tonic::{Request, Response, Status};

use super::access::Access;
use super::convert::{self, code};
use super::links::Links;
use crate::routing::{
    Leased, Namespace, Pattern, RouteError, RoutedMessage, SiteRouter, Subject, Subscription, Verb,
};
use crate::wavemq_wire as wire;
use crate::wavemq_wire::wavemq_server::Wavemq;

/// The number of messages that are read ahead for a subscriber.
const AHEAD: usize = 32;
/// The longest identifier of a queue in bytes.
const IDENTIFIER: usize = 1_024;

#[derive(Clone, Debug)]
pub(super) struct Local {
    pub(super) router: SiteRouter,
    pub(super) access: Access,
    pub(super) links: Arc<Links>,
}

/// The bytes that a client sends as its entity are a credential, no more.
fn subject(perspective: Option<wire::Perspective>) -> Option<Subject> {
    let secret = perspective?.entity_secret?.der;
    (!secret.is_empty()).then(|| Subject::of(&secret))
}

fn invalid(fault: String) -> Status {
    Status::invalid_argument(fault)
}

fn owner(subject: Option<&Subject>) -> Vec<u8> {
    subject.map(|subject| subject.as_bytes().to_vec()).unwrap_or_default()
}

type Items<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl Wavemq for Local {
    async fn publish(
        &self,
        request: Request<wire::PublishParams>,
    ) -> Result<Response<wire::PublishResponse>, Status> {
        let params = request.into_inner();
        if params.encrypt_with_jedi {
            return Err(Status::unimplemented(
                "JEDI encryption needs WAVE; encrypt the content before you publish it",
            ));
        }
        let namespace = convert::namespace(&params.namespace).map_err(invalid)?;
        let uri = convert::uri(&params.uri).map_err(invalid)?;
        let subject = subject(params.perspective);
        let allowed = self.access.check(subject.as_ref(), Verb::Publish, &namespace, &Pattern::from(&uri));
        if let Err(refused) = allowed {
            return Err(Status::permission_denied(refused.to_string()));
        }
        let payload = convert::payload(params.content).map_err(invalid)?;
        let mut message = RoutedMessage::new(namespace, uri, payload).with_persist(params.persist);
        message.source = owner(subject.as_ref()).into();
        message.partition = params.encryption_partition;
        let published = self.router.publish(message).await;
        let error = published.err().map(|failure| convert::route_error(&failure, code::QUEUE_ERROR));
        Ok(Response::new(wire::PublishResponse { error }))
    }

    type SubscribeStream = Items<wire::SubscriptionMessage>;

    async fn subscribe(
        &self,
        request: Request<wire::SubscribeParams>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let params = request.into_inner();
        let namespace = convert::namespace(&params.namespace).map_err(invalid)?;
        let pattern = convert::pattern(&params.uri).map_err(invalid)?;
        if params.identifier.len() > IDENTIFIER {
            return Err(invalid(format!("the identifier is longer than {IDENTIFIER} bytes")));
        }
        let subject = subject(params.perspective);
        let checked = Checked { access: self.access.clone(), subject, namespace, pattern };
        let expiry = Duration::from_secs(u64::try_from(params.expiry).unwrap_or_default());
        let subscribed = async {
            checked.check()?;
            let Checked { namespace, pattern, .. } = &checked;
            let owner = owner(subject.as_ref());
            self.router.subscribe(&owner, &params.identifier, namespace, pattern, expiry).await
        };
        Ok(Response::new(match subscribed.await {
            Ok(subscription) => Deliveries::new(checked, subscription).into_stream(),
            Err(failure) => stream::iter([Ok(failed(&failure))]).boxed(),
        }))
    }

    type QueryStream = Items<wire::QueryMessage>;

    async fn query(
        &self,
        request: Request<wire::QueryParams>,
    ) -> Result<Response<Self::QueryStream>, Status> {
        let params = request.into_inner();
        let namespace = convert::namespace(&params.namespace).map_err(invalid)?;
        let pattern = convert::pattern(&params.uri).map_err(invalid)?;
        let subject = subject(params.perspective);
        if let Err(refused) = self.access.check(subject.as_ref(), Verb::Query, &namespace, &pattern) {
            return Err(Status::permission_denied(refused.to_string()));
        }
        Ok(Response::new(match self.links.of(&namespace) {
            None => values(&self.router, &namespace, &pattern),
            Some(link) => match link.query(&namespace, &pattern).await {
                Ok(values) => values.boxed(),
                Err(failure) => {
                    let error = Some(convert::route_error(&failure, code::UPSTREAM_ERROR));
                    stream::iter([Ok(wire::QueryMessage { error, message: None })]).boxed()
                }
            },
        }))
    }

    async fn connection_status(
        &self,
        _: Request<wire::ConnectionStatusParams>,
    ) -> Result<Response<wire::ConnectionStatusResponse>, Status> {
        let (total, connected) = self.links.count();
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let status =
            wire::ConnectionStatusResponse { total_peers: count(total), connected_peers: count(connected) };
        Ok(Response::new(status))
    }
}

/// The last values of this router.
pub(super) fn values(
    router: &SiteRouter,
    namespace: &Namespace,
    pattern: &Pattern,
) -> Items<wire::QueryMessage> {
    let values = router.query(namespace, pattern);
    let chunks = stream::unfold(values, async |mut values| {
        let next = values.next().await;
        (!next.is_empty()).then_some((next, values))
    });
    let item = |message| wire::QueryMessage { error: None, message: Some(convert::wire_message(message)) };
    chunks
        .flat_map(move |chunk| stream::iter(chunk.into_iter().map(move |message| Ok(item(message)))))
        .boxed()
}

fn failed(failure: &RouteError) -> wire::SubscriptionMessage {
    let error = Some(convert::route_error(failure, code::SUBSCRIPTION_FAILED));
    wire::SubscriptionMessage { error, message: None }
}

/// The parts that a subscription needs as long as it lasts.
#[derive(Debug)]
struct Checked {
    access: Access,
    subject: Option<Subject>,
    namespace: Namespace,
    pattern: Pattern,
}

impl Checked {
    fn check(&self) -> Result<(), RouteError> {
        self.access.check(self.subject.as_ref(), Verb::Subscribe, &self.namespace, &self.pattern)
    }
}

/// The messages for one subscriber. A message leaves the queue when the connection asks for the next one.
struct Deliveries {
    checked: Checked,
    subscription: Subscription,
    ahead: VecDeque<Leased>,
    sent: Option<u64>,
    has_ended: bool,
}

impl Deliveries {
    fn new(checked: Checked, subscription: Subscription) -> Self {
        Self { checked, subscription, ahead: VecDeque::new(), sent: None, has_ended: false }
    }

    fn into_stream(self) -> Items<wire::SubscriptionMessage> {
        let next = async |mut this: Self| {
            let item = this.next().await?;
            Some((Ok(item), this))
        };
        stream::unfold(self, next).boxed()
    }

    async fn next(&mut self) -> Option<wire::SubscriptionMessage> {
        if self.has_ended {
            return None;
        }
        if let Some(sent) = self.sent.take() {
            self.subscription.ack(&[sent]);
        }
        if self.ahead.is_empty() {
            let leased = match self.subscription.lease(AHEAD).await {
                // The grant may have ended meanwhile.
                Ok(leased) => self.checked.check().map(|()| leased),
                Err(failure) => Err(failure),
            };
            match leased {
                Ok(leased) => self.ahead = leased.into(),
                Err(failure) => {
                    self.has_ended = true;
                    return Some(failed(&failure));
                }
            }
        }
        let leased = self.ahead.pop_front()?;
        self.sent = Some(leased.seq);
        Some(wire::SubscriptionMessage { error: None, message: Some(convert::wire_message(leased.message)) })
    }
}
