//! `settings.example.toml` shows every key, and what it shows is true.

use tower_outbox::Settings;
use tower_outbox::amqp10::{Amqp10Settings, Amqp10Subscription};
use tower_outbox::amqp091::{Amqp091Settings, Amqp091Subscription, BrokerSettings};
use tower_outbox::background::{BackgroundSettings, WhenFull};
use tower_outbox::channels::{
    ChannelConsumerSettings, ChannelsSettings, JetstreamChannelsSettings, ReceivePattern,
};
use tower_outbox::chaos::ChaosSettings;
use tower_outbox::client::ClientSettings;
use tower_outbox::consumer::ConsumerSettings;
use tower_outbox::kafka::{KafkaSettings, KafkaSubscription, SaslMechanism};
use tower_outbox::kubemq::TokenAlgorithm;
use tower_outbox::kubemq_client::{KubemqSettings, KubemqSubscription};
use tower_outbox::layer::OnSendFailure;
use tower_outbox::mqtt::{MqttSettings, MqttSubscription};
use tower_outbox::nats::{NatsSettings, NatsSubscription};
use tower_outbox::routing::{RoutingConsumerSettings, RoutingSettings};
use tower_outbox::settings::{DeliveryMode, OutboxSettings, RequestSettings, SuccessStatus};
use tower_outbox::signing::{PolicyRule, SigningSettings};

const EXAMPLE: &str = include_str!("../../settings.example.toml");

fn parse(text: &str) -> Settings {
    #[derive(serde::Deserialize)]
    struct File {
        #[serde(rename = "MESSAGE_BUS")]
        message_bus: Settings,
    }
    toml::from_str::<File>(text).unwrap().message_bus
}

/// The file with every key that is commented out, but those of one dialect.
fn with_every_key() -> String {
    let uncomment =
        |line: &str| match line.strip_prefix("# ").filter(|rest| rest.split(' ').nth(1) == Some("=")) {
            Some(rest) => format!("{rest}\n"),
            None => format!("{line}\n"),
        };
    EXAMPLE.lines().map(uncomment).collect()
}

/// The lines of one dialect alone.
fn dialect(name: &str) -> Settings {
    let prefix = format!("#{name}: ");
    let lines = EXAMPLE
        .lines()
        .filter_map(|line| line.strip_prefix(&prefix).or_else(|| line.starts_with('[').then_some(line)));
    parse(&lines.map(|line| format!("{line}\n")).collect::<String>())
}

#[test]
fn the_example_is_read_as_it_is() {
    let settings = parse(EXAMPLE);
    assert_eq!((&*settings.backend, settings.delivery), ("amqp091", DeliveryMode::Direct));
    let (broker, _): (BrokerSettings, Amqp091Settings) = settings.backend_keys.parse_both().unwrap();
    assert_eq!(broker.urls.len(), 1);
    let source: Amqp091Subscription = settings.consumers["users"].source_keys.parse().unwrap();
    assert_eq!(source.queue, "users");
}

#[test]
fn commented_keys_show_their_defaults() {
    let (every, defaults) = (parse(&with_every_key()), parse("[MESSAGE_BUS]"));
    assert_eq!((every.delivery, every.on_send_failure), (DeliveryMode::Direct, OnSendFailure::Reject));
    assert_eq!(every.success, SuccessStatus::Successful);
    assert!(!every.acknowledged && every.ack.address.is_some());
    assert_eq!((every.ack.timeout, &every.ack.allowed), (defaults.ack.timeout, &defaults.ack.allowed));
    assert_eq!((&every.request, &every.background), (&defaults.request, &defaults.background));
    assert_eq!(every.background.when_full, WhenFull::Wait);
    let mut outbox = every.outbox.clone();
    // These have no default to show.
    assert_eq!(outbox.expiry.take().map(|expiry| expiry.as_secs()), Some(86_400));
    assert!(outbox.database_url.take().is_some_and(|url| url.expose().starts_with("postgres://")));
    assert_eq!(outbox.instance_name.take().as_deref(), Some("web-1"));
    assert_eq!(outbox, defaults.outbox);
    assert_eq!(every.chaos, ChaosSettings::default());
    let users = &every.consumers["users"];
    assert_eq!(users.settings, ConsumerSettings::default());
    assert_eq!(every.clients["orders"].settings, ClientSettings::default());
    let (source, defaults): (Amqp091Subscription, _) =
        (users.source_keys.parse().unwrap(), Amqp091Subscription::new(""));
    assert_eq!((source.prefetch, source.prefetch_bytes), (defaults.prefetch, defaults.prefetch_bytes));
    assert_eq!(source.retry, defaults.retry);
    let (broker, keys): (BrokerSettings, Amqp091Settings) = every.backend_keys.parse_both().unwrap();
    let defaults = Amqp091Settings::default();
    assert_eq!((broker.sasl, broker.window), (defaults.broker.sasl, defaults.broker.window));
    let seconds = |timeout: Option<std::time::Duration>| timeout.map(|timeout| timeout.as_secs());
    assert_eq!((seconds(broker.connection_timeout), seconds(broker.send_timeout)), (Some(5), Some(10)));
    assert_eq!(broker.idle_timeout, defaults.broker.idle_timeout);
    assert_eq!(broker.dangerous_accept_any_host_name, defaults.broker.dangerous_accept_any_host_name);
    assert_eq!((keys.mandatory, keys.durable), (defaults.mandatory, defaults.durable));
    assert_eq!((keys.exchange.as_deref(), keys.app.as_deref()), (Some("amq.topic"), Some("tower-outbox")));
    assert_eq!(keys.priority, Some(Amqp10Settings::default().priority));
}

#[test]
fn the_dialect_of_fedora_messaging_is_read() {
    let settings = dialect("fedmsg");
    assert_eq!(settings.backend, "fedmsg");
    let (broker, keys): (BrokerSettings, Amqp091Settings) = settings.backend_keys.parse_both().unwrap();
    assert_eq!((broker.urls.len(), keys.config.is_some()), (1, true));
}

#[test]
fn the_dialect_of_rhmsg_is_read() {
    let settings = dialect("rhmsg");
    assert_eq!(settings.backend, "rhmsg");
    let (broker, keys): (BrokerSettings, Amqp10Settings) = settings.backend_keys.parse_both().unwrap();
    assert_eq!((broker.urls.len(), keys.address.is_some()), (2, true));
    let source: Amqp10Subscription = settings.consumers["users"].source_keys.parse().unwrap();
    let defaults = Amqp10Subscription::new("");
    assert_eq!((source.credit, source.reply_addresses), (defaults.credit, defaults.reply_addresses));
}

#[test]
fn the_dialect_of_kubemq_is_read() {
    let settings = dialect("kubemq");
    assert_eq!(settings.backend, "kubemq");
    let (broker, keys): (BrokerSettings, KubemqSettings) = settings.backend_keys.parse_both().unwrap();
    assert_eq!((broker.urls.len(), keys.channel.as_deref()), (2, Some("{topic}")));
    let source: KubemqSubscription = settings.consumers["users"].source_keys.parse().unwrap();
    let defaults = KubemqSubscription::new("orders");
    assert_eq!((source.prefetch, source.prefetch_bytes), (defaults.prefetch, defaults.prefetch_bytes));
    assert_eq!((source.fetches, source.start), (defaults.fetches, defaults.start));
}

#[test]
fn the_table_of_signing_is_read() {
    let settings = dialect("signing").signing.unwrap();
    let defaults = SigningSettings::default()
        .with_origin("host-1")
        .with_key("/etc/app/signing.pem")
        .with_trusted("/etc/app/trusted")
        .with_policy([PolicyRule::new("public.#", false)]);
    assert_eq!(settings, defaults);
}

#[test]
fn the_dialect_of_mqtt_is_read() {
    let settings = dialect("mqtt");
    assert_eq!(settings.backend, "mqtt");
    let (broker, keys): (BrokerSettings, MqttSettings) = settings.backend_keys.parse_both().unwrap();
    let defaults = MqttSettings::default();
    assert_eq!((broker.urls.len(), keys.qos, keys.mandatory), (2, defaults.qos, defaults.mandatory));
    assert_eq!((keys.separator, keys.client_id), (defaults.separator, defaults.client_id));
    let source: MqttSubscription = settings.consumers["users"].source_keys.parse().unwrap();
    let mut defaults = MqttSubscription::new("user/#").with_group("users").with_client_id("users-1");
    defaults.dead_letter_topic = Some("users/dead".to_owned());
    defaults.reply_topics = vec!["replies/#".to_owned()];
    assert_eq!(source, defaults);
}

#[test]
fn the_dialect_of_kafka_is_read() {
    let settings = dialect("kafka");
    assert_eq!(settings.backend, "kafka");
    let (broker, keys): (BrokerSettings, KafkaSettings) = settings.backend_keys.parse_both().unwrap();
    let defaults = KafkaSettings::default();
    assert_eq!((broker.urls.len(), keys.sasl_mechanism), (2, SaslMechanism::ScramSha512));
    assert_eq!(
        (keys.max_message_bytes, keys.compression),
        (defaults.max_message_bytes, defaults.compression)
    );
    let source: KafkaSubscription = settings.consumers["users"].source_keys.parse().unwrap();
    assert_eq!(source, KafkaSubscription::new("mail", ["user.created"]).with_retry_topic("{topic}.retry"));
}

#[test]
fn the_dialect_of_nats_is_read() {
    let settings = dialect("nats");
    assert_eq!(settings.backend, "nats");
    let (broker, keys): (BrokerSettings, NatsSettings) = settings.backend_keys.parse_both().unwrap();
    let defaults = NatsSettings::default();
    assert_eq!(
        (broker.urls.len(), keys.pattern, keys.client_name),
        (2, defaults.pattern, defaults.client_name)
    );
    let source: NatsSubscription = settings.consumers["users"].source_keys.parse().unwrap();
    let defaults = NatsSubscription::new("users", "mail").with_subject("user.>");
    let defaults = defaults.with_prefetch(64).with_group("quotes");
    assert_eq!(source, defaults.with_dead_letter_subject("dead.users.mail"));
}

#[test]
fn the_keys_of_the_kubemq_server_are_read() {
    let lines = EXAMPLE.lines().filter_map(|line| line.strip_prefix("#server: "));
    let keys: String = lines.map(|line| format!("{line}\n")).collect();
    let kubemq = parse(&format!("[MESSAGE_BUS.KUBEMQ]\n{keys}")).kubemq;
    assert!(kubemq.certificate.is_some() && kubemq.private_key.is_some() && kubemq.client_cacert.is_some());
    assert!(kubemq.token_key.is_some() && kubemq.token_audience.is_some() && kubemq.token_issuer.is_some());
    assert_eq!(kubemq.token_algorithm, TokenAlgorithm::default());
    let grant = &kubemq.grants[0];
    assert_eq!((grant.client.as_str(), grant.channel.as_str()), ("shop", "orders.>"));
    assert!(grant.write && !grant.read && grant.kinds == ["queues"]);
    let every = parse(&with_every_key()).kubemq;
    assert!(!every.whole_waits && !every.allow_anyone);
}

#[test]
fn every_key_is_shown() {
    let keys = [
        keys_of::<BrokerSettings>(),
        keys_of::<Amqp10Settings>(),
        keys_of::<BackgroundSettings>(),
        keys_of::<OutboxSettings>(),
        keys_of::<RequestSettings>(),
        keys_of::<ConsumerSettings>(),
        keys_of::<ClientSettings>(),
        keys_of::<Amqp10Subscription>(),
        keys_of::<Amqp091Settings>(),
        keys_of::<Amqp091Subscription>(),
        keys_of::<MqttSettings>(),
        keys_of::<MqttSubscription>(),
        keys_of::<KafkaSettings>(),
        keys_of::<KafkaSubscription>(),
        keys_of::<NatsSettings>(),
        keys_of::<NatsSubscription>(),
        keys_of::<ChaosSettings>(),
        keys_of::<RoutingSettings>(),
        keys_of::<RoutingConsumerSettings>(),
        keys_of::<KubemqSettings>(),
        keys_of::<KubemqSubscription>(),
        keys_of::<PolicyRule>(),
        // The rules of a policy are tables.
        keys_of::<SigningSettings>().into_iter().filter(|key| key != "POLICY").collect(),
        keys_of::<tower_outbox::kubemq::Settings>(),
        keys_of::<tower_outbox::settings::DashboardSettings>(),
    ]
    .concat();
    assert!(keys.contains(&"URLS".to_owned()) && keys.contains(&"WHEN_FULL".to_owned()), "{keys:?}");
    let dialects = [
        "\n#fedmsg: ",
        "\n#kafka: ",
        "\n#kubemq: ",
        "\n#mqtt: ",
        "\n#nats: ",
        "\n#rhmsg: ",
        "\n#routing: ",
        "\n#routing-uplink: ",
        "\n#routing-consumer: ",
        "\n#server: ",
        "\n#signing: ",
    ];
    let shown = dialects.iter().fold(with_every_key(), |shown, dialect| shown.replace(dialect, "\n"));
    for key in keys {
        assert!(shown.contains(&format!("\n{key} = ")), "{key} is not in settings.example.toml");
    }
}

fn keys_of<'de, T: serde::Deserialize<'de>>() -> Vec<String> {
    tower_outbox::settings::keys_of::<T>().into_iter().map(str::to_uppercase).collect()
}

#[test]
fn the_keys_of_channels_show_their_defaults() {
    let settings = dialect("channels");
    assert_eq!(&*settings.backend, "channels");
    let mut keys: ChannelsSettings = settings.backend_keys.parse().unwrap();
    assert_eq!(keys.channel.take().as_deref(), Some("orders"));
    assert_eq!(keys, ChannelsSettings::default());
    let lines = EXAMPLE.lines().filter_map(|line| line.strip_prefix("#channels-consumer: "));
    let consumer: ChannelConsumerSettings =
        toml::from_str::<toml::Table>(&lines.map(|line| format!("{line}\n")).collect::<String>())
            .map(|table| {
                table.into_iter().map(|(key, value)| (key.to_lowercase(), value)).collect::<toml::Table>()
            })
            .unwrap()
            .try_into()
            .unwrap();
    assert_eq!((consumer.pattern, consumer.from), (ReceivePattern::Stream, Some(1)));
}

#[test]
fn the_keys_of_channels_in_nats_show_their_defaults() {
    let settings = dialect("channels-nats");
    let parsed = settings.backend_keys.parse_both::<BrokerSettings, JetstreamChannelsSettings>();
    let (broker, keys) = parsed.unwrap();
    assert_eq!((&*settings.backend, broker.urls.len()), ("channels", 2));
    let shown = |keys: JetstreamChannelsSettings| {
        (keys.pattern, keys.prefix, keys.replicas, keys.ack_wait, keys.max_age)
    };
    assert_eq!(shown(keys), shown(JetstreamChannelsSettings::default()));
    for key in keys_of::<JetstreamChannelsSettings>() {
        assert!(EXAMPLE.contains(&format!("\n#channels-nats: {key} = ")), "{key} is not shown");
    }
}

#[test]
fn the_keys_of_routing_show_their_defaults() {
    let settings = dialect("routing");
    assert_eq!(&*settings.backend, "routing");
    assert_eq!(settings.backend_keys.parse::<RoutingSettings>().unwrap(), RoutingSettings::default());
    let uplink: RoutingSettings = dialect("routing-uplink").backend_keys.parse().unwrap();
    assert!(uplink.config.is_some());
    let lines = EXAMPLE.lines().filter_map(|line| line.strip_prefix("#routing-consumer: "));
    let keys = lines.map(|line| format!("{line}\n")).collect::<String>();
    let consumers = parse(&format!("[MESSAGE_BUS]\n[MESSAGE_BUS.CONSUMERS.display]\n{keys}")).consumers;
    let consumer: RoutingConsumerSettings = consumers["display"].source_keys.parse().unwrap();
    assert_eq!((consumer.identifier.as_deref(), consumer.dead_letters), (Some("display"), false));
}
