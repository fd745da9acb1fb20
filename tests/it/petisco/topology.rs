//! Exchanges, queues, arguments and bindings.

use std::time::Duration;

use serde_json::{Value, json};
use tower_outbox::amqp091::{Exchange, ExchangeKind, PetiscoTtl, Queue, Topology, TopologyError};

use super::{Vhost, registration};
use crate::peers::Brokers;

/// As the broker listed it after petisco 2.2.3 had declared it.
const RECORDED: &str = include_str!("../../peers/petisco_topology.json");

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn both_declare_the_same_and_do_not_mind_each_other() {
    let brokers = Brokers::running();
    let (ours, theirs) = (Vhost::create(&brokers).await, Vhost::create(&brokers).await);
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    let topology = registration().topology();
    topology.apply(&ours.settings()).await.unwrap();
    assert_eq!(ours.describe().await, recorded);
    theirs.petisco(&["configure"]).await;
    assert_eq!(theirs.describe().await, recorded);

    ours.petisco(&["configure"]).await;
    topology.apply(&theirs.settings()).await.unwrap();
    assert!(topology.plan(&theirs.settings()).await.unwrap().is_empty());
    assert_eq!((ours.describe().await, theirs.describe().await), (recorded.clone(), recorded));
    ours.delete().await;
    theirs.delete().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_plan_says_what_is_missing_and_changes_nothing() {
    let brokers = Brokers::running();
    let vhost = Vhost::create(&brokers).await;
    let empty = json!({"exchanges": [], "queues": [], "bindings": []});
    let topology = registration().topology();
    let plan = topology.plan(&vhost.settings()).await.unwrap();
    assert_eq!((&plan.exchanges, &plan.queues), (&topology.exchanges, &topology.queues));
    assert_eq!((&plan.bindings, plan.differing.len()), (&topology.bindings, 0));
    assert!(plan.to_string().contains("makes the queue \"dead_letter.store\"\n"), "{plan}");
    assert_eq!(vhost.describe().await, empty);

    topology.apply(&vhost.settings()).await.unwrap();
    let more = topology.clone().with_queue(Queue::new("more")).with_binding("acme.registration", "more", "#");
    let plan = more.plan(&vhost.settings()).await.unwrap();
    assert_eq!(
        plan.to_string(),
        "makes the queue \"more\"\nmakes the binding of \"more\" to \"acme.registration\" with \"#\"\n"
    );

    topology.clear(&vhost.settings()).await.unwrap();
    assert_eq!(vhost.describe().await, empty);
    topology.clear(&vhost.settings()).await.unwrap();
    vhost.delete().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_is_there_and_differs_is_said() {
    let brokers = Brokers::running();
    let vhost = Vhost::create(&brokers).await;
    vhost.petisco(&["configure", "700"]).await;
    let ttl = |ms| PetiscoTtl::new(Some(Duration::from_millis(ms)), Some(Duration::from_millis(ms)));
    let same = registration().with_ttl(ttl(700)).topology();
    assert!(same.plan(&vhost.settings()).await.unwrap().is_empty());
    let before = vhost.describe().await;
    let other = registration().with_ttl(ttl(700)).with_ttl_where("retry.store", ttl(800)).topology();
    let plan = other.plan(&vhost.settings()).await.unwrap();
    let [(what, reason)] = plan.differing.as_slice() else { panic!("{plan}") };
    assert!(what.contains("retry.store") && reason.contains("x-message-ttl"), "{plan}");
    let error = other.apply(&vhost.settings()).await.unwrap_err();
    assert!(matches!(&error, TopologyError::Differs { what, .. } if what.contains("retry.store")), "{error}");
    let kind =
        Topology::default().with_exchange(Exchange::new("acme.registration").with_kind(ExchangeKind::Fanout));
    assert_eq!(kind.plan(&vhost.settings()).await.unwrap().differing.len(), 1);
    assert_eq!(vhost.describe().await, before);
    vhost.delete().await;
}

#[tokio::test]
async fn an_impossible_plan_is_an_error() {
    let mut settings = tower_outbox::amqp091::Amqp091Settings::new(["amqp://127.0.0.1:1"]);
    let long = Topology::default().with_queue(Queue::new("q".repeat(256)));
    assert!(matches!(long.apply(&settings).await, Err(TopologyError::Name(_))));
    let topology = Topology::default().with_queue(Queue::new("q"));
    let error = topology.apply(&settings).await.unwrap_err();
    assert!(matches!(&error, TopologyError::Unreachable(why) if why.contains("127.0.0.1:1")), "{error}");
    settings.broker.urls.clear();
    assert!(matches!(topology.plan(&settings).await, Err(TopologyError::Settings(_))));
}
