//! Settings that are refused at the start.

use std::time::Duration;

use tower_outbox::kubemq_client::{
    BrokerSettings, Kubemq, KubemqSettings, KubemqSource, KubemqSubscription, Pattern, Start,
};
use tower_outbox::{Bus, Settings};

#[test]
fn settings_that_are_wrong_say_so() {
    let of = || KubemqSettings::new(["kubemq://h"]);
    for (settings, part) in [
        (KubemqSettings::new(["amqp://h"]), "neither kubemq nor kubemqs"),
        (KubemqSettings::new(["kubemq://h/path"]), "path"),
        (KubemqSettings::new(["kubemq://jo:pw@h"]), "write TOKEN instead"),
        (KubemqSettings::new(Vec::<String>::new()), "URLS is empty"),
        (of().with_channel("a.*"), "CHANNEL must be"),
        (of().with_channel("{topic}."), "CHANNEL must be"),
        (of().with_client_id(" "), "CLIENT_ID is empty"),
        (of().with_token(""), "TOKEN is empty"),
        (of().with_token("a\nb"), "printable ASCII"),
        (BrokerSettings::new(["kubemq://h"]).with_window(0).into(), "WINDOW is 0"),
        (BrokerSettings::new(["kubemq://h"]).with_certificate("/x").into(), "kubemqs://"),
    ] {
        let error = Kubemq::new(&settings).unwrap_err().to_string();
        assert!(error.contains(part), "{part}: {error}");
        assert!(!error.contains("pw"), "{error}");
    }
}

#[test]
fn subscriptions_that_are_wrong_say_so() {
    let queue = || KubemqSubscription::new("q");
    let store = || queue().with_pattern(Pattern::EventStore);
    for (subscription, part) in [
        (KubemqSubscription::new(""), "CHANNEL of the consumer"),
        (KubemqSubscription::new("a.*"), "CHANNEL of the consumer"),
        (queue().with_prefetch(0), "PREFETCH"),
        (queue().with_prefetch_bytes(0), "PREFETCH_BYTES is 0"),
        (queue().with_fetches(0), "FETCHES"),
        (queue().with_dead_letter_queue("q"), "is CHANNEL itself"),
        (queue().with_group("g"), "GROUP is for events and requests"),
        (queue().with_start(Start::First), "START is for"),
        (store(), "CLIENT_ID is missing"),
        (store().with_start(Start::Sequence(0)), "START is 0"),
        (KubemqSubscription::new("a.>").with_pattern(Pattern::Events), "DEAD_LETTER_QUEUE is missing"),
    ] {
        let error =
            KubemqSource::new(&KubemqSettings::new(["kubemq://h"]), &subscription).unwrap_err().to_string();
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn a_start_is_written_in_many_ways() {
    for (text, start) in [
        ("'new'", Start::New),
        ("'First'", Start::First),
        ("7", Start::Sequence(7)),
        ("'7'", Start::Sequence(7)),
        ("'1h'", Start::Ago(Duration::from_secs(3_600))),
        (
            "'2026-01-31T12:00:00Z'",
            Start::Time(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_860_800)),
        ),
    ] {
        let subscription: KubemqSubscription = toml::from_str(&format!("start = {text}")).unwrap();
        assert_eq!(subscription.start, start, "{text}");
    }
    assert!(
        toml::from_str::<KubemqSubscription>("start = 'soon'").unwrap_err().to_string().contains("first")
    );
}

#[test]
fn a_token_does_not_print() {
    let settings = KubemqSettings::new(["kubemq://h"]).with_token("geheim");
    assert!(!format!("{settings:?} {:?}", settings.token).contains("geheim"));
}

#[tokio::test]
async fn a_bus_is_made_of_settings() {
    let text = "BACKEND = 'kubemq'\nURLS = 'kubemq://127.0.0.1:1'\nPATTERN = 'queues'\nCHANNEL = 'orders'\n[CONSUMERS.mailer]\nCHANNEL = 'orders'";
    let bus = Bus::start(&toml::from_str::<Settings>(text).unwrap()).await.unwrap();
    assert_eq!(&*bus.source("mailer").unwrap().name(), "orders");
    let wrong = text.replace("[CONSUMERS.mailer]\nCHANNEL", "[CONSUMERS.mailer]\nQUEUE");
    let error = Bus::start(&toml::from_str::<Settings>(&wrong).unwrap()).await.unwrap_err().to_string();
    assert!(error.contains("CONSUMERS.MAILER.QUEUE"), "{error}");
}
