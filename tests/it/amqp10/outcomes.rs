//! The end of a message when the peer does anything but accept it.

use std::time::{Duration, Instant};

use tower_outbox::amqp10::{Amqp10, Amqp10Settings};
use tower_outbox::{Message, Messenger, Unsent};

use crate::peers::{Brokers, Peer, numbered};

/// Sends a batch to a Proton peer, whose behaviour is in the topic.
async fn send(batch: Vec<Message>) -> (Result<(), Unsent>, Peer) {
    let brokers = Brokers::running();
    let (peer, address) = brokers.proton(&["--sasl", "ANONYMOUS"]).await;
    let mut settings = Amqp10Settings::new([format!("amqp://{address}")]);
    settings.broker.send_timeout = Some(Duration::from_secs(2));
    (Amqp10::new(&settings).unwrap().send(batch).await, peer)
}

/// The failure kinds and the bodies of what came back.
fn unsent(result: Result<(), Unsent>) -> Vec<(&'static str, u64)> {
    let body = |message: &Message| serde_json::from_slice::<serde_json::Value>(message.body()).unwrap();
    let unsent = result.expect_err("something came back");
    unsent.iter().map(|(message, failure)| (failure.kind(), body(message)["seq"].as_u64().unwrap())).collect()
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn rejected_is_final() {
    let (result, _peer) = send(numbered("a.reject", 2)).await;
    assert!(result.as_ref().unwrap_err().to_string().contains("precondition"), "{result:?}");
    assert_eq!(unsent(result), [("rejected", 0), ("rejected", 1)]);
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn released_and_modified_are_worth_another_try() {
    for topic in ["a.release", "a.modify"] {
        let (result, _peer) = send(numbered(topic, 2)).await;
        assert_eq!(unsent(result), [("transient", 0), ("transient", 1)], "{topic}");
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn only_what_is_not_confirmed_comes_back() {
    for (topic, kind) in [
        ("a.reject_after_3", "rejected"),
        ("a.cut_after_3", "transient"),
        ("a.drop_after_3", "transient"),
        ("a.end_after_3", "transient"),
    ] {
        let (result, _peer) = send(numbered(topic, 6)).await;
        assert_eq!(unsent(result), [(kind, 3), (kind, 4), (kind, 5)], "{topic}");
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_peer_that_never_answers_is_given_up_in_time() {
    let begun = Instant::now();
    let (result, _peer) = send(numbered("a.hang", 2)).await;
    assert!(
        result.as_ref().unwrap_err().to_string().contains("no outcome within SEND_TIMEOUT"),
        "{result:?}"
    );
    assert_eq!(unsent(result), [("transient", 0), ("transient", 1)]);
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(2) && took < Duration::from_secs(10), "{took:?}");
}

/// The client library leaves outcomes pending for ever when the connection dies.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn outcomes_do_not_stay_pending_when_the_connection_dies() {
    let brokers = Brokers::running();
    let (mut peer, address) = brokers.proton(&["--sasl", "ANONYMOUS"]).await;
    let messenger = Amqp10::new(&Amqp10Settings::new([format!("amqp://{address}")])).unwrap();
    let sending = tokio::spawn(async move { messenger.send(numbered("a.hang", 64)).await });
    for _ in 0..64 {
        peer.event("message").await;
    }
    let begun = Instant::now();
    peer.kill().await;
    assert_eq!(sending.await.unwrap().unwrap_err().len(), 64);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_refused_address_is_final_and_leaves_other_topics_alone() {
    let batch = [numbered("a.accept", 2), numbered("a.refuse", 1), numbered("b.accept", 2)].concat();
    let (result, _peer) = send(batch).await;
    let text = result.as_ref().unwrap_err().to_string();
    assert!(text.contains("a.refuse") && text.contains("write permissions"), "{text}");
    assert_eq!(unsent(result), [("rejected", 0)]);
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn the_link_is_attached_again_after_it_was_cut() {
    let brokers = Brokers::running();
    let (_peer, address) = brokers.proton(&["--sasl", "ANONYMOUS"]).await;
    let messenger = Amqp10::new(&Amqp10Settings::new([format!("amqp://{address}")])).unwrap();
    messenger.send(numbered("a.cut_after_2", 2)).await.unwrap();
    assert_eq!(unsent(messenger.send(numbered("a.cut_after_2", 1)).await), [("transient", 0)]);
    messenger.send(numbered("a.cut_after_2", 2)).await.unwrap();
    // A kept connection that turns out to be dead, or its session, is replaced once, by itself.
    for topic in ["a.end_after_2", "a.drop_after_2"] {
        messenger.send(numbered(topic, 2)).await.unwrap();
        messenger.send(numbered(topic, 1)).await.unwrap();
    }
}

/// With a window of one, what stands behind a released message does not overtake it.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_window_of_one_keeps_the_order_of_a_topic_over_a_release() {
    let brokers = Brokers::running();
    let (_peer, address) = brokers.proton(&["--sasl", "ANONYMOUS"]).await;
    let mut settings = Amqp10Settings::new([format!("amqp://{address}")]);
    settings.broker.window = 1;
    let messenger = Amqp10::new(&settings).unwrap();
    let mut batch = numbered("a.accept", 4);
    batch[1].set_header("peer", "release");
    assert_eq!(unsent(messenger.send(batch).await), [("transient", 1), ("transient", 2), ("transient", 3)]);
}

/// The client library loses the tail of what is outstanding when a connection is closed.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn closing_waits_for_what_is_outstanding() {
    let brokers = Brokers::running();
    let (mut peer, address) = brokers.proton(&["--sasl", "ANONYMOUS"]).await;
    let messenger =
        std::sync::Arc::new(Amqp10::new(&Amqp10Settings::new([format!("amqp://{address}")])).unwrap());
    let sender = std::sync::Arc::clone(&messenger);
    let sending = tokio::spawn(async move { sender.send(numbered("a.b", 1000)).await });
    peer.event("message").await;
    messenger.close(Duration::from_secs(10)).await;
    sending.await.unwrap().unwrap();
    for _ in 1..1000 {
        peer.event("message").await;
    }
    peer.event("close").await;
    let after = messenger.send(numbered("a.b", 1)).await.unwrap_err().to_string();
    assert!(after.contains("closed"), "{after}");
}
