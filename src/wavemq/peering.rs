//! The service for other routers: `mqpb.WAVEMQPeering`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};

use futures_util::stream::{self, BoxStream, StreamExt};
use tonic::{Request, Response, Status};

use super::access::Access;
use super::convert::{self, code};
use super::local::values;
use crate::routing::{
    Leased, Namespace, Pattern, RouteError, RoutedMessage, SiteRouter, Subject, Subscription, Verb,
};
use crate::util::sync::lock;
use crate::wavemq_wire as wire;
use crate::wavemq_wire::wavemq_peering_server::WavemqPeering;

/// The number of messages that are read ahead for a router.
const AHEAD: usize = 256;
/// The largest number of patterns, and of messages in one call.
const MOST: usize = 100_000;
/// The longest id of a router in bytes.
const ROUTER: usize = 128;

#[derive(Clone, Debug)]
pub(super) struct Peering {
    pub(super) router: SiteRouter,
    pub(super) access: Access,
    /// The namespaces of this router.
    pub(super) designated: Arc<[Namespace]>,
    /// The subscriptions of other routers.
    pub(super) open: Arc<Mutex<HashMap<PeerKey, Weak<Subscription>>>>,
}

/// A router, as its certificate and its id name it, and the namespace.
type PeerKey = (Vec<u8>, String, Namespace);

/// The certificate of the router that calls.
fn subject<T>(request: &Request<T>) -> Option<Subject> {
    let certificates = request.peer_certs()?;
    certificates.first().map(|certificate| Subject::of(certificate))
}

fn owner(subject: Option<&Subject>) -> Vec<u8> {
    subject.map(|subject| subject.as_bytes().to_vec()).unwrap_or_default()
}

fn invalid(fault: String) -> Status {
    Status::invalid_argument(fault)
}

impl Peering {
    /// Checks whether a router may route these URIs of a namespace of this router.
    fn check(
        &self,
        subject: Option<&Subject>,
        namespace: &Namespace,
        uris: &Pattern,
    ) -> Result<(), RouteError> {
        if !self.designated.contains(namespace) {
            let other = format!("this is not the designated router of the namespace {namespace}");
            return Err(RouteError::SubscriptionFailed(other.into()));
        }
        self.access.check(subject, Verb::Route, namespace, uris)
    }

    /// Whether a router may route any URI of a namespace of this router.
    fn is_peer(&self, subject: Option<&Subject>, namespace: &Namespace) -> bool {
        self.designated.contains(namespace) && self.access.has_any(subject, Verb::Route, namespace)
    }

    fn key(&self, subject: Option<&Subject>, router: &str, namespace: Namespace) -> Result<PeerKey, Status> {
        match router.len() {
            1..=ROUTER => Ok((owner(subject), router.to_owned(), namespace)),
            _ => Err(invalid(format!("the id of a router has 1 to {ROUTER} bytes"))),
        }
    }

    /// Reads a message, and checks whether the router may hand it over.
    fn read(&self, subject: Option<&Subject>, message: wire::Message) -> Result<RoutedMessage, wire::Error> {
        let message =
            convert::message(message).map_err(|fault| convert::error(code::UPSTREAM_ERROR, fault))?;
        let allowed = self.check(subject, &message.namespace, &Pattern::from(&message.uri));
        allowed.map_err(|refused| {
            // A router without any grant may get one; then its messages are to be there still.
            let is_final = self.is_peer(subject, &message.namespace);
            let code = if is_final { code::UPSTREAM_ERROR } else { code::QUEUE_ERROR };
            convert::error(code, refused.to_string())
        })?;
        Ok(message)
    }
}

/// The router tries again what failed with a queue error, and gives up what failed otherwise.
fn not_taken(failure: &RouteError) -> wire::Error {
    match failure {
        RouteError::Storage(_) | RouteError::Closed => convert::route_error(failure, code::QUEUE_ERROR),
        failure => convert::error(code::UPSTREAM_ERROR, failure.to_string()),
    }
}

type Items<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl WavemqPeering for Peering {
    async fn peer_publish(
        &self,
        request: Request<wire::PeerPublishParams>,
    ) -> Result<Response<wire::PeerPublishResponse>, Status> {
        let subject = subject(&request);
        let (mut messages, mut refused) = (Vec::new(), None);
        for message in request.into_inner().msg {
            match self.read(subject.as_ref(), message) {
                Ok(message) => messages.push(message),
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        // They are written at once, in their order.
        let taken = self.router.forward(messages).await;
        let count = taken.iter().take_while(|taken| taken.is_ok()).count();
        let error = taken.into_iter().find_map(Result::err).map(|failure| not_taken(&failure)).or(refused);
        let taken = u32::try_from(count).unwrap_or(u32::MAX);
        Ok(Response::new(wire::PeerPublishResponse { error, taken }))
    }

    type PeerSubscribeStream = Items<wire::PeerMessage>;

    async fn peer_subscribe(
        &self,
        request: Request<wire::PeerSubscribeParams>,
    ) -> Result<Response<Self::PeerSubscribeStream>, Status> {
        let subject = subject(&request);
        let tbs = request.into_inner().tbs.ok_or_else(|| invalid("there is no subscription".to_owned()))?;
        let namespace = convert::namespace(&tbs.namespace).map_err(invalid)?;
        if tbs.uri.len() > MOST {
            return Err(invalid(format!("there are more than {MOST} patterns")));
        }
        let patterns: Vec<_> =
            tbs.uri.iter().map(|text| convert::pattern(text)).collect::<Result<_, _>>().map_err(invalid)?;
        let key = self.key(subject.as_ref(), &tbs.router_id, namespace)?;
        let subscribed = async {
            if !self.is_peer(subject.as_ref(), &key.2) {
                self.check(subject.as_ref(), &key.2, &Pattern::all())?;
            }
            // A subscriber beyond the grant of its router does not harm the others there.
            let is_allowed = |pattern: &Pattern| self.check(subject.as_ref(), &key.2, pattern).is_ok();
            let patterns = patterns.into_iter().filter(is_allowed).collect();
            self.router.subscribe_peer(&key.0, &key.1, &key.2, patterns).await
        };
        let subscription = match subscribed.await {
            Ok(subscription) => Arc::new(subscription),
            Err(failure) => {
                let error = Some(convert::route_error(&failure, code::SUBSCRIPTION_FAILED));
                let refused = wire::PeerMessage { error, ..wire::PeerMessage::default() };
                return Ok(Response::new(stream::iter([Ok(refused)]).boxed()));
            }
        };
        {
            let mut open = lock(&self.open);
            open.retain(|_, subscription| subscription.strong_count() > 0);
            open.insert(key, Arc::downgrade(&subscription));
        }
        // The first item shows that the subscription is there.
        let begun = stream::iter([Ok(wire::PeerMessage::default())]);
        let next = async |(subscription, mut ahead): (Arc<Subscription>, VecDeque<Leased>)| {
            if ahead.is_empty() {
                ahead = subscription.lease(AHEAD).await.ok()?.into();
            }
            let leased = ahead.pop_front()?;
            let message = Some(convert::wire_message(leased.message));
            Some((
                Ok(wire::PeerMessage { error: None, message, sequence: leased.seq }),
                (subscription, ahead),
            ))
        };
        Ok(Response::new(begun.chain(stream::unfold((subscription, VecDeque::new()), next)).boxed()))
    }

    async fn peer_settle(
        &self,
        request: Request<wire::PeerSettleParams>,
    ) -> Result<Response<wire::PeerSettleResponse>, Status> {
        let subject = subject(&request);
        let params = request.into_inner();
        let namespace = convert::namespace(&params.namespace).map_err(invalid)?;
        let key = self.key(subject.as_ref(), &params.router_id, namespace)?;
        let subscription = lock(&self.open).get(&key).and_then(Weak::upgrade);
        let error = match subscription {
            Some(subscription) => {
                subscription.ack(&params.sequence);
                None
            }
            None => Some(convert::error(code::NO_SUCH_SUBSCRIPTION, "this router has no subscription")),
        };
        Ok(Response::new(wire::PeerSettleResponse { error }))
    }

    async fn peer_unsubscribe(
        &self,
        request: Request<wire::PeerUnsubscribeParams>,
    ) -> Result<Response<wire::PeerUnsubscribeResponse>, Status> {
        let subject = subject(&request);
        let params = request.into_inner();
        let namespace = convert::namespace(&params.namespace).map_err(invalid)?;
        let key = self.key(subject.as_ref(), &params.router_id, namespace)?;
        let error = match self.router.unsubscribe_peer(&key.0, &key.1, &key.2).await {
            Ok(true) => None,
            Ok(false) => Some(convert::error(code::NO_SUCH_SUBSCRIPTION, "this router has no subscription")),
            Err(failure) => Some(convert::route_error(&failure, code::QUEUE_ERROR)),
        };
        Ok(Response::new(wire::PeerUnsubscribeResponse { error }))
    }

    type PeerQueryRequestStream = Items<wire::QueryMessage>;

    async fn peer_query_request(
        &self,
        request: Request<wire::PeerQueryParams>,
    ) -> Result<Response<Self::PeerQueryRequestStream>, Status> {
        let subject = subject(&request);
        let params = request.into_inner();
        let namespace = convert::namespace(&params.namespace).map_err(invalid)?;
        let pattern = convert::pattern(&params.uri).map_err(invalid)?;
        if let Err(refused) = self.check(subject.as_ref(), &namespace, &pattern) {
            let error = Some(convert::error(code::UPSTREAM_ERROR, refused.to_string()));
            return Ok(Response::new(
                stream::iter([Ok(wire::QueryMessage { error, message: None })]).boxed(),
            ));
        }
        Ok(Response::new(values(&self.router, &namespace, &pattern)))
    }
}
