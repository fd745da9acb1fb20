//! Streams and consumers: what is missing, and what differs.

use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use tower_outbox::nats::{NatsSubscription, NatsTopology};

use super::raw::Place;

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_plan_shows_what_apply_creates() {
    let place = Place::without_stream().await;
    let subscription = place.subscription().with_subject(&*place.topic);
    let topology = NatsTopology::new(&place.settings(), [subscription]).unwrap();
    let plan = topology.plan().await.unwrap();
    assert_eq!(plan.missing.len(), 3, "{plan}");
    assert_eq!(topology.plan().await.unwrap(), plan, "a plan creates nothing");
    assert_eq!(topology.apply().await.unwrap(), plan);
    let plan = topology.plan().await.unwrap();
    assert!(plan.is_empty(), "{plan}");
    topology.apply().await.unwrap();
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_plan_shows_what_differs() {
    let place = Place::with(|config| config.duplicate_window = Duration::from_secs(1)).await;
    let stream = place.context.get_stream(&place.stream).await.unwrap();
    for (name, max_deliver) in [("all", -1), ("limited", 3)] {
        let config = pull::Config {
            durable_name: Some(name.to_owned()),
            max_deliver,
            max_ack_pending: 20_000,
            ..pull::Config::default()
        };
        stream.create_consumer(config).await.unwrap();
    }
    let subscriptions = [
        place.subscription().with_subject("elsewhere").with_replicas(3).with_ack_wait(Duration::from_secs(7)),
        NatsSubscription::new(&*place.stream, "limited"),
    ];
    let topology = NatsTopology::new(&place.settings(), subscriptions).unwrap();
    let text = topology.plan().await.unwrap().to_string();
    for expected in [
        "elsewhere",
        "REPLICAS 1, not 3",
        "forgets",
        "ACK_WAIT 30s, not 7s",
        "MAX_ACK_PENDING 20000",
        "max_deliver",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}
