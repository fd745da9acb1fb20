//! Settling what was received from a queue.

use std::time::{Duration, Instant};

use super::harness::{EngineHarness, bodies, content, is_unknown, name};
use crate::channels::{ChannelKind, EngineError, Policy, QueueMessage, Receive, Settle, Which};
use crate::testing::support::stores::STUCK;

const TAIL: Settle = Settle::Reject { delay: Duration::ZERO };

pub async fn an_acknowledged_message_is_gone(harness: EngineHarness) {
    harness.send(&["a", "b"]).await;
    let received = harness.receive(2).await;
    assert_eq!(harness.engine.held(received.receipt).await.unwrap(), [1, 2]);
    let one = Which::Sequences(vec![1]);
    assert_eq!(harness.engine.settle(received.receipt, one, Settle::Ack).await.unwrap(), 1);
    assert_eq!(harness.engine.held(received.receipt).await.unwrap(), [2]);
    assert_eq!(harness.engine.settle(received.receipt, Which::All, Settle::Ack).await.unwrap(), 1);
    assert!(harness.peek("q").await.is_empty());
}

pub async fn a_released_message_is_back_at_its_place(harness: EngineHarness) {
    harness.send(&["a", "b", "c"]).await;
    let received = harness.receive(2).await;
    harness.send(&["d"]).await;
    harness.engine.release(received.receipt);
    let again = harness.receive(10).await;
    assert_eq!(bodies(&again.messages), ["a", "b", "c", "d"]);
    let first = &again.messages[0];
    assert_eq!((first.sequence, first.receives), (1, 1), "the receive is not counted");
    assert!(first.redelivered && !again.messages[2].redelivered);
    assert_eq!(harness.engine.settle(again.receipt, Which::All, Settle::Release).await.unwrap(), 4);
    assert_eq!(harness.peek("q").await, ["a", "b", "c", "d"]);
}

pub async fn a_rejected_message_goes_to_the_tail(harness: EngineHarness) {
    harness.send(&["a", "b", "c"]).await;
    let (receipt, first) = harness.receive_one().await;
    assert_eq!(harness.engine.settle(receipt, Which::All, TAIL).await.unwrap(), 1);
    let again = harness.receive(10).await;
    assert_eq!(bodies(&again.messages), ["b", "c", "a"]);
    let last = &again.messages[2];
    assert_eq!((last.sequence, last.receives), (4, 2));
    assert!(last.time > first.time && last.redelivered);
    let order = Which::Sequences(vec![4, 2, 3]);
    assert_eq!(harness.engine.settle(again.receipt, order, TAIL).await.unwrap(), 3);
    assert_eq!(harness.peek("q").await, ["a", "b", "c"], "in the order of the list");
}

pub async fn a_long_list_goes_to_the_tail_in_its_order(harness: EngineHarness) {
    let texts: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    harness.send(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(harness.peek("q").await, texts, "in the order of sending");
    let received = harness.receive(100).await;
    let last_first = Which::Sequences((1..=100).rev().collect());
    assert_eq!(harness.engine.settle(received.receipt, last_first, TAIL).await.unwrap(), 100);
    let expected: Vec<String> = texts.into_iter().rev().collect();
    assert_eq!(harness.peek("q").await, expected);
}

pub async fn a_rejected_message_can_be_delayed(harness: EngineHarness) {
    harness.send(&["a"]).await;
    let (receipt, _) = harness.receive_one().await;
    let delay = Duration::from_millis(150);
    let begun = Instant::now();
    harness.engine.settle(receipt, Which::All, Settle::Reject { delay }).await.unwrap();
    let (_, again) = harness.receive_one().await;
    assert!(begun.elapsed() >= delay);
    assert_eq!(again.receives, 2);
}

pub async fn visibility_that_runs_out_rejects(harness: EngineHarness) {
    harness.send(&["a", "b"]).await;
    let visibility = Some(Duration::from_millis(100));
    let received = harness.receive_from("q", Receive { visibility, ..Receive::default() }).await;
    let begun = Instant::now();
    let (other, _) = harness.receive_one().await;
    let again = harness.receive(1).await;
    assert!(begun.elapsed() >= Duration::from_millis(90));
    let message = &again.messages[0];
    assert_eq!((bodies(&again.messages), message.sequence, message.receives), (vec!["a".to_owned()], 3, 2));
    let late = harness.engine.settle(received.receipt, Which::All, Settle::Ack).await;
    assert!(is_unknown(&late), "its receipt is closed");
    harness.engine.settle(other, Which::All, Settle::Ack).await.unwrap();
}

pub async fn visibility_can_be_extended(harness: EngineHarness) {
    harness.send(&["a"]).await;
    let visibility = Some(Duration::from_millis(150));
    let received = harness.receive_from("q", Receive { visibility, ..Receive::default() }).await;
    harness.engine.extend(received.receipt, Which::All, STUCK).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(harness.peek("q").await.is_empty());
    harness.engine.extend(received.receipt, Which::All, Duration::from_millis(20)).await.unwrap();
    assert_eq!(harness.receive_one().await.1.receives, 2, "it can also be shortened");
    let wrong = harness.engine.extend(received.receipt, Which::Sequences(vec![9]), STUCK).await;
    assert!(is_unknown(&wrong));
}

pub async fn received_too_often_goes_to_the_dead_letter_queue(harness: EngineHarness) {
    let dead_letter = Some(name("q.dead"));
    let policy = Policy { max_receives: 3, dead_letter, ..Policy::default() };
    harness.send_with(&["a"], &policy).await;
    for receives in 1..=3 {
        let (receipt, message) = harness.receive_one().await;
        assert_eq!(message.receives, receives);
        harness.engine.settle(receipt, Which::All, TAIL).await.unwrap();
    }
    assert!(harness.peek("q").await.is_empty());
    let dead = harness.receive_from("q.dead", Receive::default()).await;
    let message = &dead.messages[0];
    assert_eq!((message.content.id.as_str(), message.receives, message.sequence), ("id-a", 1, 1));
    assert_eq!((&message.rerouted_from, &message.policy), (&Some(name("q")), &Policy::default()));
    harness.engine.settle(dead.receipt, Which::All, TAIL).await.unwrap();
    let again = harness.receive_from("q.dead", Receive::default()).await;
    assert_eq!(again.messages[0].rerouted_from, Some(name("q")), "without an end");
}

pub async fn without_a_dead_letter_queue_it_is_discarded(harness: EngineHarness) {
    harness.send_with(&["a"], &Policy { max_receives: 1, ..Policy::default() }).await;
    let (receipt, _) = harness.receive_one().await;
    harness.engine.settle(receipt, Which::All, TAIL).await.unwrap();
    assert!(harness.peek("q").await.is_empty());
}

pub async fn a_requeued_message_begins_anew(harness: EngineHarness) {
    let policy = Policy { expiry: STUCK, max_receives: 9, ..Policy::default() };
    harness.send_with(&["a"], &policy).await;
    let (receipt, _) = harness.receive_one().await;
    harness.engine.settle(receipt, Which::All, TAIL).await.unwrap();
    let (receipt, before) = harness.receive_one().await;
    assert_eq!(before.receives, 2);
    harness.engine.settle(receipt, Which::All, Settle::Requeue { to: name("other") }).await.unwrap();
    let moved = harness.receive_from("other", Receive::default()).await;
    let message = &moved.messages[0];
    assert_eq!((message.content.id.as_str(), message.receives, message.sequence), ("id-a", 1, 1));
    assert_eq!((&message.policy, &message.rerouted_from), (&policy, &None));
    assert!(message.expires_at > before.expires_at, "its expiry begins anew");
    assert!(harness.peek("q").await.is_empty());
}

pub async fn a_message_that_moves_back_and_forth_is_not_lost(harness: EngineHarness) {
    harness.send(&["a"]).await;
    let mut from = "q";
    // It has the first sequence of more than one queue, and of one that is made anew.
    for to in ["r", "p", "r", "r", "p", "r"] {
        let received = harness.receive_from(from, Receive::default()).await;
        let settle = Settle::Requeue { to: name(to) };
        assert_eq!(harness.engine.settle(received.receipt, Which::All, settle).await.unwrap(), 1);
        assert_eq!(harness.peek(to).await, ["a"], "from {from} to {to}");
        if from == "p" {
            harness.engine.delete(ChannelKind::Queue, &name("p")).await.unwrap();
        }
        from = to;
    }
}

pub async fn a_replaced_message_goes_with_the_ack(harness: EngineHarness) {
    harness.send(&["a"]).await;
    let (receipt, _) = harness.receive_one().await;
    let message = Box::new(QueueMessage { content: content("b"), policy: Policy::default() });
    let rerouted_from = Some(name("q"));
    let replace = Settle::Replace { to: name("other"), message, rerouted_from, receives: 4 };
    harness.engine.settle(receipt, Which::All, replace).await.unwrap();
    assert!(harness.peek("q").await.is_empty());
    let received = harness.receive_from("other", Receive::default()).await;
    let message = &received.messages[0];
    assert_eq!((message.content.id.as_str(), message.receives), ("id-b", 5));
    assert_eq!(message.rerouted_from, Some(name("q")));
}

pub async fn a_list_is_settled_up_to_what_is_not_held(harness: EngineHarness) {
    harness.send(&["a", "b", "c"]).await;
    let received = harness.receive(3).await;
    let wrong = Which::Sequences(vec![2, 999, 3]);
    let fault = harness.engine.settle(received.receipt, wrong, Settle::Ack).await.unwrap_err();
    assert!(matches!(fault, EngineError::NotHeld { sequence: 999, .. }), "{fault}");
    assert_eq!(harness.engine.held(received.receipt).await.unwrap(), [1, 3]);
    let twice = Which::Sequences(vec![1, 1]);
    let fault = harness.engine.settle(received.receipt, twice, Settle::Ack).await.unwrap_err();
    assert!(matches!(fault, EngineError::NotHeld { sequence: 1, .. }), "{fault}");
    assert_eq!(harness.engine.held(received.receipt).await.unwrap(), [3]);
}

pub async fn a_receipt_settles_its_own_messages_only(harness: EngineHarness) {
    harness.send(&["a", "b"]).await;
    let (mine, _) = harness.receive_one().await;
    let (other, message) = harness.receive_one().await;
    let which = || Which::Sequences(vec![message.sequence]);
    let fault = harness.engine.settle(mine, which(), Settle::Ack).await.unwrap_err();
    assert!(matches!(fault, EngineError::NotHeld { .. }), "{fault}");
    assert_eq!(harness.engine.settle(other, which(), Settle::Ack).await.unwrap(), 1);
}

pub async fn of_two_settlements_at_once_one_counts(harness: EngineHarness) {
    harness.send(&["a"]).await;
    let (receipt, _) = harness.receive_one().await;
    let settle = |settle| harness.engine.settle(receipt, Which::All, settle);
    let (one, other) = tokio::join!(settle(Settle::Ack), settle(Settle::Reject { delay: Duration::ZERO }));
    assert_eq!(one.unwrap(), 1);
    assert!(is_unknown(&other), "{other:?}");
    assert!(harness.peek("q").await.is_empty());
}

pub async fn an_open_receipt_swallows_no_new_message(harness: EngineHarness) {
    harness.send(&["a"]).await;
    let open = harness.receive(10).await;
    harness.send(&["b"]).await;
    assert_eq!(bodies(&harness.receive(10).await.messages), ["b"]);
    assert_eq!(harness.engine.held(open.receipt).await.unwrap(), [1]);
}

pub async fn a_closed_receipt_is_unknown(harness: EngineHarness) {
    harness.send(&["a"]).await;
    let (receipt, _) = harness.receive_one().await;
    harness.engine.settle(receipt, Which::All, Settle::Ack).await.unwrap();
    for which in [Which::All, Which::Sequences(vec![1])] {
        assert!(is_unknown(&harness.engine.settle(receipt, which.clone(), Settle::Ack).await));
        assert!(is_unknown(&harness.engine.extend(receipt, which, STUCK).await));
    }
    assert!(is_unknown(&harness.engine.held(receipt).await));
    harness.engine.release(receipt);
}
