//! The real `fedora-messaging` decides.

use serde_json::{Value, json};
use tower_outbox::amqp091::{Amqp091Settings, Fedmsg, FedoraMessage, Severity, from_json_line, to_json_line};
use tower_outbox::{Message, Messenger};

use crate::peers::{Brokers, Peer, unique};

/// Starts the real consumer; it prints its messages and whatever it logs from warning up.
async fn consumer(brokers: &Brokers, url: &str, key: &str, args: &[&str]) -> Peer {
    let (peer, ready) =
        brokers.start("fedora_consume.py", &[&[url, key, "--timeout", "30"], args].concat()).await;
    assert_eq!(ready, json!({"ready": true}));
    peer
}

/// The next `count` messages. A word of complaint from the consumer fails the test.
async fn messages(consumer: &mut Peer, count: usize) -> Vec<Value> {
    let mut messages = Vec::new();
    while messages.len() < count {
        let event = consumer.line().await;
        assert_eq!(event["event"], "message", "{event}");
        messages.push(event);
    }
    messages
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn the_real_consumer_accepts_every_message_without_a_word() {
    let brokers = Brokers::running();
    let topic = unique("fedora");
    let mut consumer = consumer(&brokers, brokers.get("RABBIT1_AMQP"), &format!("#.{topic}"), &[]).await;
    let mut prefixed = Amqp091Settings::new([brokers.get("RABBIT1_AMQP")]);
    prefixed.broker.topic_prefix = Some("org.fedoraproject.prod.".to_owned());
    let mut tls = Amqp091Settings::new([brokers.get("RABBIT1_AMQPS")]);
    tls.broker.certificate = Some(brokers.certificate("client.pem"));
    tls.broker.cacert = Some(brokers.certificate("ca.pem"));
    for settings in [Amqp091Settings::new([brokers.get("RABBIT1_AMQP")]), prefixed, tls] {
        let message = |body: Value| Message::json(topic.clone(), &body).unwrap();
        let large = "ü".repeat(1 << 19);
        let batch = vec![
            message(json!({})),
            message(json!({"text": "größe ☃ 🦀", "nested": {"list": [1, 2.5, null, true]}})),
            message(json!({"large": large})),
            message(json!({"severity": 10})).with_severity(Severity::Debug),
            message(json!({"severity": 30})).with_severity(Severity::Warning),
            message(json!({"severity": 40})).with_severity(Severity::Error),
            message(json!({"filters": true}))
                .with_user("jo")
                .with_group("sysadmin")
                .with_rpm("bash")
                .with_container("toolbox")
                .with_module("nodejs")
                .with_flatpak("org.gnome.Maps"),
            message(json!({"priority": 7})).with_priority(7),
            message(json!({"schema": true})).with_schema("base.message", "fedora-messaging"),
        ];
        Fedmsg::new(&settings).unwrap().send(batch.clone()).await.unwrap();
        let received = messages(&mut consumer, batch.len()).await;
        let prefix = settings.broker.topic_prefix.as_deref().unwrap_or_default();
        for (sent, received) in batch.iter().zip(&received) {
            let body: Value = serde_json::from_slice(sent.body()).unwrap();
            assert!(received["body"] == body, "the body of {sent:?}");
            assert_eq!(received["topic"], format!("{prefix}{topic}"));
            assert_eq!(received["id"], sent.id().to_string());
            let properties = &received["properties"];
            assert_eq!(
                (&properties["content_type"], &properties["content_encoding"]),
                (&json!("application/json"), &json!("utf-8"))
            );
            assert_eq!(properties["delivery_mode"], 2);
            let sent_at = received["headers"]["sent-at"].as_str().unwrap();
            assert!(sent_at.len() == 25 && sent_at.ends_with("+00:00"), "{sent_at}");
        }
        let severities: Vec<_> =
            received.iter().map(|message| message["severity"].as_u64().unwrap()).collect();
        assert_eq!(severities, [20, 20, 20, 10, 30, 40, 20, 20, 20]);
        for filter in [
            "user_jo",
            "group_sysadmin",
            "rpm_bash",
            "container_toolbox",
            "module_nodejs",
            "flatpak_org.gnome.Maps",
        ] {
            assert_eq!(received[6]["headers"][format!("fedora_messaging_{filter}")], true, "{filter}");
        }
        assert_eq!(
            (&received[7]["properties"]["priority"], &received[7]["headers"]["priority"]),
            (&json!(7), &json!(7))
        );
        assert_eq!(
            (&received[0]["properties"]["priority"], &received[0]["headers"]["priority"]),
            (&Value::Null, &json!(0))
        );
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_we_write_the_real_publisher_publishes() {
    let brokers = Brokers::running();
    let (url, topic) = (brokers.get("RABBIT1_AMQP"), unique("lines"));
    let mut consumer = consumer(&brokers, url, &topic, &[]).await;
    let written = [
        Message::json(topic.clone(), &json!({"n": 1, "text": "größe ☃"}))
            .unwrap()
            .with_rpm("bash")
            .with_severity(Severity::Error),
        Message::json(topic.clone(), &json!({"n": 2})).unwrap().with_priority(3),
    ];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("messages.jsonl");
    let lines: Vec<_> = written.iter().map(|message| to_json_line(message).unwrap() + "\n").collect();
    std::fs::write(&file, lines.concat()).unwrap();
    let ended = brokers.python("fedora_publish.py", &[url, file.to_str().unwrap()]).await;
    assert_eq!(ended.last().unwrap(), &json!({"exit": 0}), "{ended:?}");
    for (sent, received) in written.iter().zip(messages(&mut consumer, 2).await) {
        assert_eq!(received["body"], serde_json::from_slice::<Value>(sent.body()).unwrap());
        assert_eq!((&received["id"], &received["topic"]), (&json!(sent.id().to_string()), &json!(topic)));
        for name in ["fedora_messaging_rpm_bash", "fedora_messaging_severity"] {
            let expected = sent
                .header(name)
                .map_or_else(|| json!(20), |value| serde_json::from_str(&value.to_string()).unwrap());
            assert!(
                received["headers"][name] == expected || sent.header(name).is_none(),
                "{name}: {received}"
            );
        }
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_the_real_recorder_wrote_is_read() {
    let brokers = Brokers::running();
    let (url, topic) = (brokers.get("RABBIT1_AMQP"), unique("record"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("recorded.jsonl");
    let (mut recorder, ready) =
        brokers.start("fedora_record.py", &[url, &topic, "2", file.to_str().unwrap()]).await;
    assert_eq!(ready, json!({"ready": true}));
    let sent = vec![
        Message::json(topic.clone(), &json!({"n": 1, "text": "größe ☃"}))
            .unwrap()
            .with_user("jo")
            .with_severity(Severity::Debug),
        Message::json(topic.clone(), &json!({"n": 2})).unwrap().with_priority(3),
    ];
    Fedmsg::new(&Amqp091Settings::new([url])).unwrap().send(sent.clone()).await.unwrap();
    assert_eq!(recorder.line().await, json!({"exit": 0}));
    let text = std::fs::read_to_string(&file).unwrap();
    let read: Vec<_> = text.lines().map(|line| from_json_line(line).unwrap()).collect();
    assert_eq!(read.len(), 2);
    for (sent, read) in sent.iter().zip(&read) {
        assert_eq!((read.id(), read.topic()), (sent.id(), sent.topic()));
        let json = |message: &Message| serde_json::from_slice::<Value>(message.body()).unwrap();
        assert_eq!(json(read), json(sent));
        for (name, value) in sent.headers() {
            assert_eq!(read.header(name), Some(value));
        }
        let seconds =
            |message: &Message| message.time().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(seconds(read), seconds(sent));
    }
    assert_eq!(read[1].priority(), Some(3));
}
