//! The guide: one page for each subject, the same as in the folder `docs`.
//!
//! | page | is about |
//! |---|---|
//! | [`order_service`] | **start here**: an order service with Postgres, a consumer and tests, in 15 minutes |
//! | [`guarantees`] | which messages leave, when they are safe, order, idempotency |
//! | [`how_it_works`] | a request, the outbox, its files and tables, receiving, with diagrams |
//! | [`layers`] | the order of layers, with its results |
//! | [`production`] | a checklist: delivery, rights, pools, volumes, probes, alerts |
//! | [`testing`] | how an app is tested without a broker |
//! | [`troubleshooting`] | log lines, their meaning and their cure |
//! | [`dashboard`] | pages for operators: what is stuck, why, and how to mend it |
//! | [`observability`] | logs, traces with OpenTelemetry, metrics with alerts and a board, probes |
//! | [`rabbitmq`], [`activemq`], [`mqtt`], [`nats`], [`kafka`], [`kubemq_broker`], [`fedora`], [`rhmsg`], [`petisco`] | each broker and dialect: what is confirmed, what can be lost, rights, quirks |
//! | [`acknowledgement`] | messages that leave the outbox when their consumer has confirmed them |
//! | [`request_reply`] | requests whose responses come back over the bus |
//! | [`channels`], [`kubemq`] | queues, streams, events and requests without a broker; the same for clients of KubeMQ |
//! | [`signing`], [`migrating_from_mqfactory`] | signed messages and their keys; mqfactory's messages |
//! | [`wavemq`], [`sites`] | a router for sites with bad links; when to take something else |
//! | [`extending`] | your own messenger, decorator, source, store |
//! | [`coming_from`] | PDC, petisco, lapin by hand, other outboxes; when not to use it |
//! | [`upgrading`] | which parts are a contract, and how to upgrade |

#[doc = include_str!("../docs/acknowledgement.md")]
pub mod acknowledgement {}
#[cfg_attr(feature = "channels", doc = include_str!("../docs/channels.md"))]
pub mod channels {}
#[doc = include_str!("../docs/coming-from.md")]
pub mod coming_from {}
#[cfg_attr(feature = "dashboard", doc = include_str!("../docs/dashboard.md"))]
pub mod dashboard {}
#[doc = include_str!("../docs/extending.md")]
pub mod extending {}
#[doc = include_str!("../docs/guarantees.md")]
pub mod guarantees {}
#[doc = include_str!("../docs/how-it-works.md")]
pub mod how_it_works {}
#[doc = include_str!("../docs/layers.md")]
pub mod layers {}
#[cfg_attr(feature = "kubemq", doc = include_str!("../docs/kubemq.md"))]
pub mod kubemq {}
#[cfg_attr(feature = "kubemq-client", doc = include_str!("../docs/kubemq-broker.md"))]
pub mod kubemq_broker {}
#[doc = include_str!("../docs/mqtt.md")]
pub mod mqtt {}
#[cfg_attr(feature = "settings", doc = include_str!("../docs/request-reply.md"))]
pub mod request_reply {}
#[doc = include_str!("../docs/order-service.md")]
pub mod order_service {}
#[cfg_attr(feature = "testing", doc = include_str!("../docs/testing.md"))]
pub mod testing {}
#[doc = include_str!("../docs/troubleshooting.md")]
pub mod troubleshooting {}
#[doc = include_str!("../docs/migrating-from-mqfactory.md")]
pub mod migrating_from_mqfactory {}
#[doc = include_str!("../docs/observability.md")]
pub mod observability {}
#[doc = include_str!("../docs/production.md")]
pub mod production {}
#[cfg_attr(feature = "signing", doc = include_str!("../docs/signing.md"))]
pub mod signing {}
#[doc = include_str!("../docs/sites.md")]
pub mod sites {}
#[doc = include_str!("../docs/upgrading.md")]
pub mod upgrading {}
#[cfg_attr(feature = "wavemq", doc = include_str!("../docs/wavemq.md"))]
pub mod wavemq {}
#[doc = include_str!("../docs/rabbitmq.md")]
pub mod rabbitmq {}
#[cfg_attr(feature = "kafka", doc = include_str!("../docs/kafka.md"))]
pub mod kafka {}
#[cfg_attr(feature = "nats", doc = include_str!("../docs/nats.md"))]
pub mod nats {}
#[doc = include_str!("../docs/activemq.md")]
pub mod activemq {}
#[doc = include_str!("../docs/fedora.md")]
pub mod fedora {}
#[doc = include_str!("../docs/rhmsg.md")]
pub mod rhmsg {}
#[doc = include_str!("../docs/petisco.md")]
pub mod petisco {}
