//! Messages arrive: on every broker, over plain and mutual TLS.

use serde_json::json;
use tower_outbox::amqp10::{Amqp10, Amqp10Settings, RhMsg, Sasl};
use tower_outbox::{Message, Messenger};

use crate::peers::{Brokers, RabbitQueue, numbered, sequence, unique};

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn messages_arrive_in_order_on_both_rabbitmq_nodes() {
    let brokers = Brokers::running();
    for node in ["RABBIT1", "RABBIT2"] {
        let (plain, tls) = (format!("{node}_AMQP"), format!("{node}_AMQPS"));
        for (sasl, mut settings) in [
            (Sasl::Auto, Amqp10Settings::new([brokers.get(&plain)])),
            (Sasl::Plain, Amqp10Settings::new([brokers.get(&plain).replace("://", "://guest:guest@")])),
            (Sasl::Auto, brokers.mutual_tls(&[&tls])),
            (Sasl::External, brokers.mutual_tls(&[&tls])),
            (Sasl::Anonymous, brokers.mutual_tls(&[&tls])),
        ] {
            let topic = unique("arrival");
            let queue = RabbitQueue::declare(&brokers, &plain, &topic).await;
            (settings.broker.sasl, settings.address) = (sasl, Some("/topic/{topic}".to_owned()));
            let messenger = Amqp10::new(&settings).unwrap();
            messenger.send(numbered(&topic, 500)).await.unwrap();
            let received = queue.drain().await;
            assert_eq!(sequence(&received), (0..500).collect::<Vec<_>>(), "{sasl:?}");
            assert!(received.iter().all(|message| message["delivery_mode"] == 2), "durable");
        }
    }
}

/// The steps of a consumer of such a bus, at the kind of broker it is made for.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_consumer_of_a_virtual_topic_gets_what_rhmsg_sends() {
    let brokers = Brokers::running();
    if brokers.without_activemq("a_consumer_of_a_virtual_topic_gets_what_rhmsg_sends") {
        return;
    }
    let certificates = [brokers.certificate("client.pem"), brokers.certificate("ca.pem")];
    let [certificate, ca] = certificates.each_ref().map(|path| path.to_str().unwrap());
    for settings in
        [Amqp10Settings::new([brokers.get("ACTIVEMQ_AMQP")]), brokers.mutual_tls(&["ACTIVEMQ_AMQPS"])]
    {
        let name = unique("pdc");
        let queue = format!("Consumer.{name}.VirtualTopic.eng.{name}.>");
        let args = [brokers.get("ACTIVEMQ_AMQPS"), &queue, "--count", "3", "--cert", certificate, "--ca", ca];
        let (mut consumer, _ready) = brokers.start("receive.py", &args).await;
        let mut settings = settings;
        settings.broker.topic_prefix = Some(format!("VirtualTopic.eng.{name}"));
        let messenger = RhMsg::new(&settings).unwrap();
        let body = json!({"url": null, "action": "added", "n": 7, "new_value": {"name": "größe ☃", "active": true, "tags": ["x"]}});
        let mut batch = vec![Message::json("products.added", &body).unwrap()];
        batch.extend(numbered("products.changed", 2));
        messenger.send(batch).await.unwrap();

        let message = consumer.event("message").await;
        assert_eq!(message["json"], body, "json.loads(message.body)");
        let properties =
            json!({"url": null, "action": "added", "n": 7, "DATA:name": "größe ☃", "DATA:active": true});
        assert_eq!(message["properties"], properties);
        for seq in 0..2 {
            assert_eq!(consumer.event("message").await["json"], json!({"seq": seq}));
        }
    }
}

/// A large body goes in several frames.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_body_of_four_megabytes_arrives_whole() {
    let brokers = Brokers::running();
    let topic = unique("large");
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &topic).await;
    let mut settings = Amqp10Settings::new([brokers.get("RABBIT1_AMQP")]);
    settings.address = Some("/topic/{topic}".to_owned());
    let body = "ü".repeat(2 << 20);
    let messenger = Amqp10::new(&settings).unwrap();
    messenger.send(vec![Message::new(topic, body.clone()).unwrap()]).await.unwrap();
    assert_eq!(queue.drain().await[0]["body"].as_str().map(str::len), Some(body.len()));
}
