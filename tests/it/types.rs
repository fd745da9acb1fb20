//! Facts about types that would break users if they changed.

use std::error::Error;
use std::fmt::Debug;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::response::IntoResponse;
use axum::routing::Route;
use static_assertions::{assert_impl_all, assert_not_impl_any, assert_obj_safe};
use tower_layer::Layer;
use tower_outbox::background::{Background, BackgroundSettings, BackgroundWorker};
use tower_outbox::bus::Shutdown;
use tower_outbox::dummy::Dummy;
use tower_outbox::layer::{MessagingService, ResponseBody, ResponseFuture};
use tower_outbox::message::{MessageError, Scalar, Settlement, TopicError};
use tower_outbox::messenger::{Admission, Capabilities, InFlight, InFlightToken, OutboxStore, Overloaded};
use tower_outbox::outbox::{Breaker, Outbox, OutboxHandle, OutboxStatus, Relay, RelaySettings};
use tower_outbox::queue::MissingMessagingLayer;
use tower_outbox::settings::OutboxSettings;
use tower_outbox::store::{
    Counts, EmbeddedStore, EmbeddedStoreSettings, Entry, Filter, Lease, Leased, Limits, OpenError, Store,
    StoreError, Unstored,
};
use tower_outbox::testing::{Recording, Sent};
use tower_outbox::{
    BoxError, Bus, EnqueueError, Failure, Health, Message, MessageQueue, MessagingLayer, Messenger, Settings,
    SettingsError, Topic, Unsent,
};

assert_obj_safe!(Messenger);
assert_impl_all!(Arc<dyn Messenger>: Messenger, Send, Sync, Clone);

assert_impl_all!(Message: Clone, PartialEq, Debug, Send, Sync);
assert_impl_all!(Scalar: Clone, PartialEq, Debug, Send, Sync);
assert_impl_all!(Topic: Clone, Eq, Ord, std::hash::Hash, Debug, Send, Sync);

assert_impl_all!(MessageQueue: Clone, Debug, Send, Sync);
assert_impl_all!(MessageQueue: FromRequestParts<()>, OptionalFromRequestParts<()>);
assert_impl_all!(MissingMessagingLayer: IntoResponse, Error);
assert_impl_all!(EnqueueError: IntoResponse, From<MessageError>, From<TopicError>, Into<BoxError>);

assert_impl_all!(MessagingLayer: Layer<Route>, Clone, Debug, Send, Sync);
assert_impl_all!(MessagingService<Route>: tower::Service<http::Request<Body>>, Clone, Debug, Send, Sync);
assert_impl_all!(ResponseBody<String>: http_body::Body, Default, Debug, Send, Sync);
assert_impl_all!(ResponseFuture<std::future::Pending<()>, String>: Debug, Send);

/// A service that cannot be cloned can be wrapped; its wrapper cannot be cloned either.
struct NotClone;
assert_impl_all!(MessagingLayer: Layer<NotClone>);
assert_not_impl_any!(MessagingService<NotClone>: Clone);

assert_impl_all!(Dummy: Messenger, Clone, Debug, Default, Send, Sync);
assert_impl_all!(Recording: Messenger, Clone, Debug, Default, Send, Sync);
assert_impl_all!(Sent: Clone, Debug, Send, Sync);
assert_impl_all!(Background<Dummy>: Messenger, Debug, Send, Sync);
assert_impl_all!(Background<Arc<dyn Messenger>>: Messenger, Debug, Send, Sync);
assert_impl_all!(BackgroundWorker<Dummy>: Debug, Send);
assert_impl_all!(BackgroundSettings: Clone, Debug, Default, Send, Sync);
// There is one worker: a second handle to it would send twice.
assert_not_impl_any!(BackgroundWorker<Dummy>: Clone);

assert_impl_all!(InFlight: Clone, Debug, Default, Send, Sync);
assert_impl_all!(InFlightToken: Debug, Send, Sync);
assert_not_impl_any!(InFlightToken: Clone);

assert_impl_all!(Unsent: Error, Default, IntoIterator, Extend<(Message, Failure)>, Send, Sync);
assert_impl_all!(Failure: Clone, Debug, Send, Sync);
assert_impl_all!(Health: Clone, Eq, Debug, Send, Sync);

assert_obj_safe!(Store);
assert_impl_all!(Arc<dyn Store>: Send, Sync, Clone);
assert_impl_all!(Capabilities: Clone, Default, Debug, Send, Sync);
assert_impl_all!(OutboxStore: Clone, Debug, Send, Sync);
assert_impl_all!(EmbeddedStore: Store, Clone, Debug, Send, Sync);
assert_impl_all!(EmbeddedStoreSettings: Clone, Eq, Debug, Send, Sync);
assert_impl_all!(Limits: Clone, Default, Debug, Send, Sync);
assert_impl_all!(Lease: Copy, Eq, std::hash::Hash, Debug, Send, Sync);
assert_impl_all!(Leased: Clone, Debug, Send, Sync);
assert_impl_all!(Settlement: Clone, Eq, Debug, Send, Sync);
assert_impl_all!(Filter: Clone, Default, Debug, Send, Sync, serde::Serialize, serde::de::DeserializeOwned);
assert_impl_all!(Entry: Clone, Debug, Send, Sync);
assert_impl_all!(Counts: Clone, Default, Debug, Send, Sync, serde::Serialize, serde::de::DeserializeOwned);
assert_impl_all!(StoreError: Error, Into<BoxError>);
assert_impl_all!(OpenError: Error, Into<BoxError>);
assert_impl_all!(Unstored: Error, Into<BoxError>);

assert_impl_all!(Outbox<Dummy>: Messenger, Debug, Send, Sync);
assert_impl_all!(Outbox<Arc<dyn Messenger>>: Messenger, Debug, Send, Sync);
assert_impl_all!(Relay<Dummy>: Debug, Send);
// There is one relay: a second one would break the order.
assert_not_impl_any!(Relay<Dummy>: Clone);
assert_impl_all!(RelaySettings: Clone, Eq, Debug, Default, Send, Sync);
assert_impl_all!(OutboxHandle: Clone, Debug, Send, Sync);
assert_impl_all!(OutboxStatus: Clone, PartialEq, Debug, Send, Sync, serde::Serialize, serde::de::DeserializeOwned);
assert_impl_all!(Breaker: Clone, Eq, Default, Debug, Send, Sync, serde::Serialize, serde::de::DeserializeOwned);
assert_impl_all!(Admission: Clone, Default, Debug, Send, Sync);
assert_impl_all!(Overloaded: Error, Send, Sync);
assert_impl_all!(OutboxSettings: Clone, Eq, Default, Debug, serde::de::DeserializeOwned);

assert_impl_all!(Settings: Clone, Debug, Default, Send, Sync, serde::de::DeserializeOwned);
assert_impl_all!(SettingsError: Into<BoxError>);
assert_impl_all!(Bus: Debug, Send, Sync);
assert_impl_all!(Shutdown: Debug, Send, Sync);

#[test]
fn the_futures_of_the_public_api_can_be_spawned() {
    fn assert_send<T: Send>(_: T) {}
    let (background, worker) = Background::new(Dummy::new(), BackgroundSettings::default());
    assert_send(background.send(Vec::new()));
    assert_send(worker.with_graceful_shutdown(std::future::pending(), std::time::Duration::ZERO));
    fn of_an_outbox(store: EmbeddedStore, handle: &OutboxHandle) {
        assert_send(store.lease(1));
        let (outbox, relay) = Outbox::new(Dummy::new(), Arc::new(store), RelaySettings::default());
        assert_send(outbox.send(Vec::new()));
        assert_send(relay.with_graceful_shutdown(std::future::pending(), std::time::Duration::ZERO));
        assert_send(handle.status());
        assert_send(handle.requeue(&Filter::default(), std::time::Duration::ZERO));
        assert_send(handle.drop_messages(&Filter::default()));
    }
    let _ = of_an_outbox;
    let settings = Settings::default();
    assert_send(EmbeddedStore::open(&EmbeddedStoreSettings::new("outbox")));
    assert_send(Bus::start(&settings));
    assert_send(InFlight::default().wait_idle());
    fn of_a_bus(bus: &Bus) {
        assert_send(bus.shutdown(std::time::Duration::ZERO));
        assert_send(bus.flushed());
        assert_send(bus.health());
    }
    let _ = of_a_bus;
}
