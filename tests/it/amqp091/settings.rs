//! A fault that can be known without a broker is an error at start or at enqueue.

use std::time::Duration;

use tower_outbox::amqp091::{Amqp091, Amqp091Settings, Fedmsg, Sasl};
use tower_outbox::envelope::Envelope;
use tower_outbox::message::Scalar;
use tower_outbox::{Message, Messenger};

#[test]
fn values_that_make_no_sense_are_refused() {
    type Change = fn(&mut Amqp091Settings);
    let cases: [(&str, Change); 8] = [
        ("URLS is empty", |settings| settings.broker.urls.clear()),
        ("not the address of a broker", |settings| settings.broker.urls = vec!["broker".to_owned()]),
        ("WINDOW is 0", |settings| settings.broker.window = 0),
        ("SEND_TIMEOUT is 0", |settings| settings.broker.send_timeout = Some(Duration::ZERO)),
        ("IDLE_TIMEOUT is below", |settings| settings.broker.idle_timeout = Duration::from_secs(1)),
        ("TOPIC_PREFIX", |settings| settings.broker.topic_prefix = Some("a b".to_owned())),
        ("external needs CERTIFICATE", |settings| settings.broker.sasl = Sasl::External),
        ("/nowhere/config.toml", |settings| settings.config = Some("/nowhere/config.toml".into())),
    ];
    for (text, change) in cases {
        let mut settings = Amqp091Settings::new(["amqp://localhost"]);
        change(&mut settings);
        let error = Fedmsg::new(&settings).unwrap_err().to_string();
        assert!(error.contains(text), "{text}: {error}");
    }
}

#[test]
fn envelopes_are_checked_at_start() {
    type Change = fn(&mut Amqp091Settings);
    let cases: [(&str, Change); 4] = [
        ("ORGANIZATION", |settings| settings.broker.organization = None),
        ("SERVICE", |settings| settings.broker.service = Some("a.b".to_owned())),
        ("TOPIC_PREFIX is not for", |settings| settings.broker.topic_prefix = Some("p".to_owned())),
        ("EVENT_SOURCE is empty", |settings| {
            settings.broker.envelope = Envelope::CloudEvents;
            settings.broker.event_source = Some(String::new());
        }),
    ];
    let mut good = Amqp091Settings::new(["amqp://localhost"]);
    good.broker.envelope = Envelope::Petisco;
    (good.broker.organization, good.broker.service) =
        (Some("acme".to_owned()), Some("registration".to_owned()));
    Amqp091::new(&good).unwrap();
    for (text, change) in cases {
        let mut settings = good.clone();
        change(&mut settings);
        let error = Amqp091::new(&settings).unwrap_err().to_string();
        assert!(error.contains(text), "{text}: {error}");
    }
    let error = Fedmsg::new(&good).unwrap_err().to_string();
    assert!(error.contains("ENVELOPE is not for this backend"), "{error}");
}

#[test]
fn what_cannot_be_sent_is_refused_at_enqueue() {
    let mut settings = Amqp091Settings::new(["amqp://localhost"]);
    settings.broker.topic_prefix = Some("p".repeat(200));
    let (general, fedora) = (Amqp091::new(&settings).unwrap(), Fedmsg::new(&settings).unwrap());
    let long = Message::new("t".repeat(55), "{}").unwrap();
    for messenger in [&general as &dyn Messenger, &fedora] {
        assert!(messenger.check(&long).unwrap_err().to_string().contains("255 bytes"));
        messenger.check(&Message::new("t".repeat(54), "{}").unwrap()).unwrap();
    }
    for body in ["[1]", "7", "", "null"] {
        let message = Message::new("a", body).unwrap();
        general.check(&message).unwrap();
        assert!(fedora.check(&message).unwrap_err().to_string().contains("must be a JSON object"), "{body}");
    }
    for severity in [Scalar::Int(25), Scalar::from("INFO")] {
        let message = Message::new("a", "{}").unwrap().with_header("fedora_messaging_severity", severity);
        assert!(fedora.check(&message).unwrap_err().to_string().contains("is not 10, 20, 30 or 40"));
    }
}

#[test]
fn a_configuration_file_of_fedora_messaging_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let text = r##"
        amqp_url = "amqp://jo:geheim@broker.example.com/%2Fpublic_pubsub?connection_attempts=3&retry_delay=5"
        publish_exchange = "zmq.topic"
        topic_prefix = "org.fedoraproject"
        callback = "fedora_messaging.example:printer"
        [client_properties]
        app = "Example"
        [tls]
        [[bindings]]
        queue = "q"
        exchange = "amq.topic"
        routing_keys = ["#"]
    "##;
    std::fs::write(&file, text).unwrap();
    let mut settings = Amqp091Settings::default();
    settings.config = Some(file.clone());
    let messenger = Fedmsg::new(&settings).unwrap();
    let printed = format!("{messenger:?}");
    assert!(printed.contains("broker.example.com") && !printed.contains("geheim"), "{printed}");
    assert!(messenger.check(&Message::new("t".repeat(250), "{}").unwrap()).is_err(), "the prefix counts");
    std::fs::write(&file, "amqp_url = 7").unwrap();
    assert!(Fedmsg::new(&settings).unwrap_err().to_string().contains("config.toml"));
}
