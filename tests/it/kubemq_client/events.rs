//! Events and the event store.

use std::time::Duration;

use tower_outbox::kubemq_client::{KubemqSettings, KubemqSubscription, Pattern, Start};
use tower_outbox::source::{Source, Unsettled};
use tower_outbox::{Message, Messenger};

use super::imitation::Imitation;
use super::proxy::Proxy;
use super::{body, message, messenger, numbered, receive, receive_one, send, settings, source};

fn store(server: &Imitation) -> KubemqSettings {
    settings(server).with_pattern(Pattern::EventStore).with_client_id("mailer")
}

async fn settle(deliveries: Vec<Unsettled>) {
    for delivery in deliveries {
        delivery.ack().await.unwrap();
    }
}

#[tokio::test]
async fn events_are_sent_in_order_and_confirmed_by_the_end_of_the_stream() {
    let server = Imitation::start().await;
    let settings = settings(&server).with_pattern(Pattern::Events);
    let messenger = messenger(&settings);
    send(&messenger, numbered(0..50)).await;
    let events = server.events();
    let expected: Vec<_> = (0..50).map(|n| n.to_string()).collect();
    assert_eq!(
        events.iter().map(|event| std::str::from_utf8(&event.body).unwrap()).collect::<Vec<_>>(),
        expected
    );
    let unsent = messenger.send(vec![message("a"), message("full"), message("b")]).await.unwrap_err();
    assert_eq!((unsent.len(), unsent.iter().next().unwrap().0.body().as_ref()), (1, &b"full"[..]));
    let delayed = Message::new("a", "").unwrap().with_delay(Duration::from_secs(1));
    assert!(messenger.check(&delayed).unwrap_err().to_string().contains("only queues of KubeMQ delay"));
}

#[tokio::test]
async fn stored_events_are_confirmed_one_by_one() {
    let server = Imitation::start().await;
    let messenger = messenger(&store(&server));
    send(&messenger, numbered(0..300)).await;
    assert_eq!(server.events().len(), 300);
    let unsent = messenger.send(vec![message("a"), message("full"), message("b")]).await.unwrap_err();
    assert!(unsent.len() == 1 && unsent.iter().next().unwrap().1.is_transient(), "{unsent}");
}

#[tokio::test]
async fn a_subscriber_gets_events_of_channels_with_wildcards() {
    let server = Imitation::start().await;
    let settings = settings(&server).with_pattern(Pattern::Events);
    let subscription = KubemqSubscription::new("order.>").with_dead_letter_queue("orders.dead");
    let source = source(&settings, &subscription);
    let (messenger, receiving) = (messenger(&settings), receive_one(&source));
    let sending = async {
        loop {
            send(&messenger, vec![message("a")]).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let delivery = tokio::select! {
        delivery = receiving => delivery,
        () = sending => unreachable!(),
    };
    assert_eq!(delivery.view().unwrap().message().topic().as_str(), "order.created");
    delivery.reject("never").await.unwrap();
    assert_eq!(server.waiting("orders.dead")[0].tags["tower-outbox-reason"], "never");
}

#[tokio::test]
async fn an_event_is_tried_again_after_its_delay() {
    let server = Imitation::start().await;
    send(&messenger(&store(&server)), numbered(0..2)).await;
    let source = source(&store(&server), &KubemqSubscription::new("order.created").with_start(Start::First));
    let [first, second] = <[_; 2]>::try_from(receive(&source, 2).await).unwrap();
    first.retry(Duration::from_millis(100), "not yet").await.unwrap();
    second.release().await.unwrap();
    let second = receive_one(&source).await;
    assert_eq!((body(&second), second.view().unwrap().attempt()), ("1".to_owned(), 1));
    let first = receive_one(&source).await;
    let view = first.view().unwrap();
    assert_eq!((body(&first), view.attempt(), &*view.failures()[0].reason), ("0".to_owned(), 2, "not yet"));
}

#[tokio::test]
async fn a_subscriber_begins_where_it_wants() {
    let server = Imitation::start().await;
    send(&messenger(&store(&server)), numbered(0..6)).await;
    for (n, (start, first)) in
        [(Start::First, "0"), (Start::Last, "5"), (Start::Sequence(4), "3")].into_iter().enumerate()
    {
        let settings = store(&server).with_client_id(format!("starts-{n}"));
        let source = source(&settings, &KubemqSubscription::new("order.created").with_start(start));
        assert_eq!(body(&receive_one(&source).await), first, "{start:?}");
    }
}

/// The server takes events for delivered once it has sent them, whatever became of them.
#[tokio::test]
async fn events_lost_with_a_connection_are_fetched_again() {
    let server = Imitation::start().await;
    let proxy = Proxy::start(server.address).await;
    let mut settings = store(&server);
    settings.broker.urls = vec![proxy.url()];
    let source = source(&settings, &KubemqSubscription::new("order.created").with_start(Start::First));
    let messenger = messenger(&store(&server));
    send(&messenger, numbered(0..1)).await;
    receive_one(&source).await.ack().await.unwrap();
    proxy.freeze(true);
    send(&messenger, numbered(1..4)).await;
    proxy.cut();
    proxy.freeze(false);
    let again = receive(&source, 3).await;
    assert_eq!(again.iter().map(body).collect::<Vec<_>>(), ["1", "2", "3"]);
    settle(again).await;
    send(&messenger, numbered(4..6)).await;
    assert_eq!(receive(&source, 2).await.iter().map(body).collect::<Vec<_>>(), ["4", "5"]);
}

/// The real server drops an event for a subscriber that did not take it within two seconds.
#[tokio::test]
async fn events_that_the_server_left_out_are_fetched() {
    let server = Imitation::start().await;
    let source = source(&store(&server), &KubemqSubscription::new("order.created").with_start(Start::First));
    let messenger = messenger(&store(&server));
    send(&messenger, numbered(0..1)).await;
    receive_one(&source).await.ack().await.unwrap();
    send(&messenger, vec![message("dropped"), message("dropped"), message("next")]).await;
    let received = receive(&source, 3).await;
    assert_eq!(received.iter().map(body).collect::<Vec<_>>(), ["dropped", "dropped", "next"]);
    settle(received).await;
    send(&messenger, numbered(7..8)).await;
    assert_eq!(body(&receive_one(&source).await), "7");
}

#[tokio::test]
async fn a_paused_subscriber_resumes_where_it_was() {
    let server = Imitation::start().await;
    let source = source(&store(&server), &KubemqSubscription::new("order.created").with_start(Start::First));
    let messenger = messenger(&store(&server));
    send(&messenger, numbered(0..1)).await;
    receive_one(&source).await.ack().await.unwrap();
    source.pause().await;
    send(&messenger, numbered(1..3)).await;
    let received = receive(&source, 2).await;
    assert_eq!(received.iter().map(body).collect::<Vec<_>>(), ["1", "2"]);
}
