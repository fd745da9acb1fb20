//! Delays and expiries, which the server carries out.

use std::time::{Duration, Instant};

use tokio::time::timeout;
use tower_outbox::Messenger;
use tower_outbox::nats::Nats;

use super::raw::{Place, SOON, body};

async fn place() -> Place {
    Place::with(|config| {
        config.allow_message_schedules = true;
        config.allow_message_ttl = true;
        config.subjects.push(format!("delayed-{}.>", config.name));
    })
    .await
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_delayed_message_arrives_after_its_delay() {
    let place = place().await;
    let settings = place.settings().with_delay_subject(format!("delayed-{}", place.stream));
    let messenger = Nats::new(&settings).unwrap();
    let begun = Instant::now();
    let messages = ["1", "2"].map(|body| place.message(body).with_delay(Duration::from_secs(1)));
    messenger.send(messages.to_vec()).await.unwrap();
    // The server stores it in the stream, and publishes it to nobody.
    let source = place.source(&place.subscription().with_subject(&*place.topic));
    for _ in &messages {
        let delivery = super::receiving::next(&source).await;
        assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
        let id = delivery.view().unwrap().message().id();
        assert!(messages.iter().any(|sent| sent.id() == id));
        delivery.ack().await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_is_gone_after_its_expiry() {
    let place = place().await;
    let messages =
        vec![place.message("short").with_expiry(Duration::from_millis(10)), place.message("stays")];
    place.messenger().send(messages).await.unwrap();
    let gone = async {
        let mut stream = place.context.get_stream(&place.stream).await.unwrap();
        while stream.info().await.unwrap().state.messages > 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, gone).await.expect("it stays");
    assert_eq!(body(&place.stored().await[0]), "stays");
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_stream_that_cannot_delay_or_expire_rejects() {
    let place = Place::new().await;
    let settings = place.settings().with_delay_subject(format!("{}.delayed", place.topic));
    let messenger = Nats::new(&settings).unwrap();
    for (message, cure) in [
        (place.message("x").with_delay(Duration::from_secs(1)), "allow_msg_schedules"),
        (place.message("x").with_expiry(Duration::from_secs(1)), "allow_msg_ttl"),
    ] {
        let unsent = messenger.send(vec![message]).await.unwrap_err();
        let (_, failure) = unsent.into_iter().next().unwrap();
        assert!(!failure.is_transient() && failure.to_string().contains(cure), "{failure}");
    }
    let without = place.messenger();
    let error = without.check(&place.message("x").with_delay(Duration::from_secs(1))).unwrap_err();
    assert!(error.to_string().contains("DELAY_SUBJECT"), "{error}");
}
