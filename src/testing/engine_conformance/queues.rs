//! Sending to queues and receiving from them.

use std::time::{Duration, Instant, SystemTime};

use tokio::time::timeout;

use super::harness::{EngineHarness, bodies, content, name};
use crate::channels::{ChannelKind, Content, EngineError, Policy, QueueMessage, Receive, Settle, Which};
use crate::testing::support::stores::STUCK;

pub async fn messages_come_in_the_order_they_were_sent(harness: EngineHarness) {
    let sent = harness.send(&["a", "b", "c"]).await;
    assert_eq!(sent.iter().map(|sent| sent.sequence).collect::<Vec<_>>(), [1, 2, 3]);
    let received = harness.receive(10).await;
    assert_eq!(bodies(&received.messages), ["a", "b", "c"]);
    for (message, sent) in received.messages.iter().zip(&sent) {
        assert_eq!((message.sequence, message.receives), (sent.sequence, 1));
        assert!(!message.redelivered);
    }
}

pub async fn a_batch_has_a_result_for_each_message(harness: EngineHarness) {
    let message = |body: &str| QueueMessage { content: content(body), policy: Policy::default() };
    let messages =
        vec![(name("one"), message("a")), (name("two"), message("b")), (name("one"), message("c"))];
    let sent: Vec<u64> =
        harness.engine.send(messages).await.into_iter().map(|sent| sent.unwrap().sequence).collect();
    assert_eq!(sent, [1, 1, 2], "each queue has its own sequence");
    assert_eq!(harness.peek("one").await, ["a", "c"]);
    assert_eq!(harness.peek("two").await, ["b"]);
}

pub async fn all_that_a_message_carries_arrives(harness: EngineHarness) {
    let content = Content {
        id: "7".to_owned(),
        client: "größe".to_owned(),
        metadata: "☃".to_owned(),
        body: vec![0, 159, 255].into(),
        tags: vec![("b".to_owned(), "2".to_owned()), ("a".to_owned(), String::new())],
    };
    let dead_letter = Some(name("q.dead"));
    let policy =
        Policy { expiry: Duration::from_secs(60), max_receives: 3, dead_letter, ..Policy::default() };
    let before = SystemTime::now() - Duration::from_millis(1);
    let message = QueueMessage { content: content.clone(), policy: policy.clone() };
    let sent = harness.engine.send(vec![(name("q"), message)]).await.remove(0).unwrap();
    let (_, got) = harness.receive_one().await;
    assert_eq!((&got.content, &got.policy), (&content, &policy));
    assert_eq!((got.expires_at, got.time), (sent.expires_at, sent.time));
    assert!(got.time >= before && got.time <= SystemTime::now());
    assert_eq!(got.rerouted_from, None);
}

pub async fn a_receive_waits_for_the_first_message(harness: EngineHarness) {
    let begun = Instant::now();
    let wait = Duration::from_millis(100);
    let none = harness.engine.receive(&name("q"), Receive { wait, ..Receive::default() }).await.unwrap();
    assert!(none.messages.is_empty() && begun.elapsed() >= wait);
    let begun = Instant::now();
    let (received, _) = tokio::join!(harness.receive(10), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        harness.send(&["a"]).await
    });
    assert_eq!(bodies(&received.messages), ["a"]);
    assert!(begun.elapsed() < STUCK / 2, "it waited on");
}

pub async fn a_receive_until_full_waits_the_whole_time(harness: EngineHarness) {
    harness.send(&["a"]).await;
    let wait = Duration::from_millis(150);
    let receive = Receive { max: 2, wait, until_full: true, ..Receive::default() };
    let begun = Instant::now();
    let received = harness.engine.receive(&name("q"), receive).await.unwrap();
    assert_eq!(bodies(&received.messages), ["a"]);
    assert!(begun.elapsed() >= wait);
    harness.engine.settle(received.receipt, Which::All, Settle::Ack).await.unwrap();
    let receive = Receive { wait: STUCK, ..receive };
    let queue = name("q");
    let (received, _) = tokio::join!(harness.engine.receive(&queue, receive), async {
        harness.send(&["b"]).await;
        harness.send(&["c"]).await
    });
    assert_eq!(bodies(&received.unwrap().messages), ["b", "c"]);
}

pub async fn one_message_goes_to_one_of_two_consumers(harness: EngineHarness) {
    let (wait, queue) = (Duration::from_millis(300), name("q"));
    let receive = Receive { wait, ..Receive::default() };
    let (one, other, _) = tokio::join!(
        harness.engine.receive(&queue, receive),
        harness.engine.receive(&queue, receive),
        harness.send(&["a"])
    );
    assert_eq!(one.unwrap().messages.len() + other.unwrap().messages.len(), 1);
}

pub async fn an_expired_message_is_dropped_and_counted(harness: EngineHarness) {
    let expiry = Duration::from_millis(50);
    let sent = harness.send_with(&["a"], &Policy { expiry, ..Policy::default() }).await;
    assert_eq!(sent[0].expires_at, Some(sent[0].time + expiry));
    harness.send(&["b"]).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    let received = harness.receive(10).await;
    assert_eq!((bodies(&received.messages), received.expired), (vec!["b".to_owned()], 1));
    let is_gone = async {
        while harness.engine.info(ChannelKind::Queue, &name("q")).await.unwrap().unwrap().messages > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(STUCK, is_gone).await.expect("it is still stored");
}

pub async fn a_delayed_message_comes_when_it_is_due(harness: EngineHarness) {
    let delay = Duration::from_millis(200);
    let begun = Instant::now();
    let sent = harness.send_with(&["late"], &Policy { delay, ..Policy::default() }).await;
    assert_eq!((sent[0].sequence, sent[0].delayed_to), (0, Some(sent[0].time + delay)));
    harness.send(&["now"]).await;
    let (receipt, now) = harness.receive_one().await;
    assert_eq!(bodies(&[now]), ["now"]);
    harness.engine.settle(receipt, Which::All, Settle::Ack).await.unwrap();
    let (_, late) = harness.receive_one().await;
    assert!(begun.elapsed() >= delay, "it came after {:?}", begun.elapsed());
    assert_eq!((late.sequence, late.policy.delay), (2, Duration::ZERO));
}

pub async fn a_peek_takes_nothing(harness: EngineHarness) {
    harness.send(&["a", "b"]).await;
    assert_eq!(harness.peek("q").await, ["a", "b"]);
    let held = harness.receive(1).await;
    assert_eq!(harness.peek("q").await, ["b"], "a held message is not seen");
    harness.engine.release(held.receipt);
    assert_eq!(harness.peek("q").await, ["a", "b"]);
    assert_eq!(bodies(&harness.receive(10).await.messages), ["a", "b"]);
}

pub async fn a_purge_counts_and_leaves_what_is_held(harness: EngineHarness) {
    harness.send(&["a", "b", "c"]).await;
    let (receipt, _) = harness.receive_one().await;
    assert_eq!(harness.engine.purge(&name("q")).await.unwrap(), 2);
    assert_eq!(harness.engine.purge(&name("q")).await.unwrap(), 0);
    harness.engine.release(receipt);
    assert_eq!(harness.peek("q").await, ["a"]);
}

pub async fn messages_acked_by_a_dropped_receive_come_back(harness: EngineHarness) {
    let queue = name("q");
    for attempt in 0.. {
        assert!(attempt < 100, "a receive is always done at its first poll");
        harness.send(&["a", "b"]).await;
        let receive = Receive { max: 2, wait: STUCK, auto_ack: true, ..Receive::default() };
        let mut receiving = harness.engine.receive(&queue, receive);
        let waker = std::task::Waker::noop();
        if receiving.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_ready() {
            // It got them within one poll.
            continue;
        }
        let gone = async {
            while harness.engine.info(ChannelKind::Queue, &queue).await.unwrap().unwrap().messages > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(STUCK, gone).await.expect("they are acknowledged");
        break;
    }
    let receive = Receive { max: 2, wait: STUCK, until_full: true, ..Receive::default() };
    assert_eq!(bodies(&harness.engine.receive(&queue, receive).await.unwrap().messages), ["a", "b"]);
}

pub async fn a_dropped_receive_loses_nothing(harness: EngineHarness) {
    let sending = async {
        for n in 0..200 {
            harness.send(&[&n.to_string()]).await;
        }
    };
    let receiving = async {
        let mut received = Vec::new();
        let begun = Instant::now();
        while received.len() < 200 {
            assert!(begun.elapsed() < STUCK, "only {} came", received.len());
            // Half of them are acknowledged by the receive itself.
            let auto_ack = received.len() % 2 == 0;
            // Others have messages already while they wait for more.
            let until_full = !auto_ack && received.len() < 150;
            let receive = Receive { max: 7, wait: STUCK, auto_ack, until_full, ..Receive::default() };
            let queue = name("q");
            let receive = harness.engine.receive(&queue, receive);
            let Ok(got) = timeout(harness.latency, receive).await else { continue };
            let got = got.unwrap();
            received.extend(bodies(&got.messages));
            if !auto_ack {
                harness.engine.settle(got.receipt, Which::All, Settle::Ack).await.unwrap();
            }
        }
        received
    };
    let ((), mut received) = tokio::join!(sending, receiving);
    received.sort_unstable();
    received.dedup();
    assert_eq!(received.len(), 200, "each came once");
    let none = harness.engine.receive(&name("q"), Receive::default()).await.unwrap();
    assert!(none.messages.is_empty());
    assert!(matches!(harness.engine.held(none.receipt).await, Err(EngineError::UnknownReceipt(_))));
}
