//! `settings.example.toml` shows every key, and what it shows is true.

use tower_outbox::Settings;
use tower_outbox::amqp10::{Amqp10Settings, Amqp10Subscription};
use tower_outbox::amqp091::{Amqp091Settings, Amqp091Subscription, BrokerSettings};
use tower_outbox::background::{BackgroundSettings, WhenFull};
use tower_outbox::chaos::ChaosSettings;
use tower_outbox::consumer::ConsumerSettings;
use tower_outbox::layer::OnSendFailure;
use tower_outbox::settings::{DeliveryMode, OutboxSettings, RequestSettings, SuccessStatus};

const EXAMPLE: &str = include_str!("../../settings.example.toml");

fn parse(text: &str) -> Settings {
    #[derive(serde::Deserialize)]
    struct File {
        #[serde(rename = "MESSAGE_BUS")]
        message_bus: Settings,
    }
    toml::from_str::<File>(text).unwrap().message_bus
}

/// The file with the keys that are commented out put in.
fn with_every_key() -> String {
    let uncomment =
        |line: &str| match line.strip_prefix("# ").filter(|rest| rest.split(' ').nth(1) == Some("=")) {
            Some(rest) => format!("{rest}\n"),
            None => format!("{line}\n"),
        };
    EXAMPLE.lines().map(uncomment).collect()
}

#[test]
fn the_example_is_read_as_it_is() {
    let settings = parse(EXAMPLE);
    assert_eq!(settings.backend, "rhmsg");
    let (broker, keys): (BrokerSettings, Amqp10Settings) = settings.backend_keys.parse_both().unwrap();
    assert_eq!((broker.urls.len(), keys.priority), (2, 4));
}

#[test]
fn commented_keys_show_their_defaults() {
    let (every, defaults) = (parse(&with_every_key()), parse("[MESSAGE_BUS]"));
    assert_eq!((every.delivery, every.on_send_failure), (DeliveryMode::Direct, OnSendFailure::Reject));
    assert_eq!(every.success, SuccessStatus::Successful);
    assert_eq!((&every.request, &every.background), (&defaults.request, &defaults.background));
    assert_eq!(every.background.when_full, WhenFull::Wait);
    let mut outbox = every.outbox.clone();
    // Those that have no default to show.
    assert_eq!(outbox.expiry.take().map(|expiry| expiry.as_secs()), Some(86_400));
    assert!(outbox.database_url.take().is_some_and(|url| url.expose().starts_with("postgres://")));
    assert_eq!(outbox, defaults.outbox);
    let users = &every.consumers["users"];
    assert_eq!(users.settings, ConsumerSettings::default());
    let source: Amqp10Subscription = users.source_keys.parse().unwrap();
    assert_eq!(source.credit, Amqp10Subscription::new("").credit);
    assert_eq!(every.chaos, ChaosSettings::default());
    let (broker, keys): (BrokerSettings, Amqp10Settings) = every.backend_keys.parse_both().unwrap();
    let defaults = BrokerSettings::default();
    assert_eq!((broker.sasl, broker.window), (defaults.sasl, defaults.window));
    let seconds = |timeout: Option<std::time::Duration>| timeout.map(|timeout| timeout.as_secs());
    assert_eq!((seconds(broker.connection_timeout), seconds(broker.send_timeout)), (Some(5), Some(10)));
    assert_eq!(broker.idle_timeout, defaults.idle_timeout);
    assert_eq!(broker.dangerous_accept_any_host_name, defaults.dangerous_accept_any_host_name);
    assert_eq!(keys.priority, Amqp10Settings::default().priority);
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
        keys_of::<Amqp10Subscription>(),
        keys_of::<ChaosSettings>(),
    ]
    .concat();
    assert!(keys.contains(&"URLS".to_owned()) && keys.contains(&"WHEN_FULL".to_owned()), "{keys:?}");
    let shown = with_every_key();
    let shown_091 = shown.replace("\n#: ", "\n");
    for key in [keys_of::<Amqp091Settings>(), keys_of::<Amqp091Subscription>()].concat() {
        assert!(shown_091.contains(&format!("\n{key} = ")), "{key} is not in settings.example.toml");
    }
    for key in keys {
        assert!(shown.contains(&format!("\n{key} = ")), "{key} is not in settings.example.toml");
    }
}

fn keys_of<'de, T: serde::Deserialize<'de>>() -> Vec<String> {
    tower_outbox::settings::keys_of::<T>().into_iter().map(str::to_uppercase).collect()
}

#[test]
fn the_keys_of_amqp091_are_true() {
    let amqp10 = ["ADDRESS = \"Consumer", "DEAD_LETTER_ADDRESS"];
    let lines = EXAMPLE.lines().filter(|line| !amqp10.iter().any(|key| line.starts_with(key)));
    let lines = lines.map(|line| line.strip_prefix("#: ").unwrap_or(line).to_owned() + "\n");
    let text = lines.collect::<String>().replace("\"rhmsg\"", "\"fedmsg\"");
    let source: Amqp091Subscription = parse(&text).consumers["users"].source_keys.parse().unwrap();
    let defaults = Amqp091Subscription::new("");
    assert_eq!((source.prefetch, &source.retry), (defaults.prefetch, &defaults.retry));
    let (broker, keys): (BrokerSettings, Amqp091Settings) = parse(&text).backend_keys.parse_both().unwrap();
    let defaults = Amqp091Settings::default();
    assert_eq!((keys.exchange.as_deref(), keys.app.as_deref()), (Some("amq.topic"), Some("tower-outbox")));
    assert_eq!(
        (keys.mandatory, keys.config.is_some(), broker.window),
        (defaults.mandatory, true, defaults.broker.window)
    );
}
