//! Refusals of real brokers: addresses they do not have, and writers they do not want.

use tower_outbox::amqp10::{Amqp10, Amqp10Settings, RhMsg};
use tower_outbox::{Messenger, Unsent};

use crate::peers::{Brokers, numbered};

fn assert_rejected(result: Result<(), Unsent>, count: usize, text: &str) {
    let unsent = result.expect_err("refused");
    assert_eq!(unsent.len(), count);
    for (message, failure) in &unsent {
        assert!(
            !failure.is_transient() && failure.to_string().contains(text),
            "{}: {failure}",
            message.topic()
        );
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn rabbitmq_without_the_exchange_rejects() {
    let brokers = Brokers::running();
    let mut settings = Amqp10Settings::new([brokers.get("RABBIT1_AMQP")]);
    settings.address = Some("/exchange/nosuch/{topic}".to_owned());
    let messenger = Amqp10::new(&settings).unwrap();
    assert_rejected(messenger.send(numbered("a", 3)).await, 3, "no exchange 'nosuch'");
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn rabbitmq_rejects_a_writer_without_the_right() {
    let brokers = Brokers::running();
    let mut settings =
        Amqp10Settings::new([brokers.get("RABBIT1_AMQP").replace("://", "://limited:limited@")]);
    settings.address = Some("/exchange/amq.topic/{topic}".to_owned());
    let messenger = Amqp10::new(&settings).unwrap();
    assert_rejected(messenger.send(numbered("a", 3)).await, 3, "refused");
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn activemq_rejects_a_topic_the_certificate_may_not_write() {
    let brokers = Brokers::running();
    if brokers.without_activemq("activemq_rejects_a_topic_the_certificate_may_not_write") {
        return;
    }
    let messenger = RhMsg::new(&brokers.mutual_tls(&["ACTIVEMQ_AMQPS"])).unwrap();
    let batch =
        [numbered("VirtualTopic.eng.a", 1), numbered("Forbidden.a", 2), numbered("VirtualTopic.eng.a", 1)];
    assert_rejected(messenger.send(batch.concat()).await, 2, "not authorized to write");
}
