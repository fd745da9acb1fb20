//! Behaviour of the schedule, on positions alone.

use std::time::Duration;

use super::*;

const A: Option<OrderingKey> = Some(OrderingKey(1));
const B: Option<OrderingKey> = Some(OrderingKey(2));

fn due(schedule: &Schedule) -> Vec<u64> {
    schedule.due(10)
}

#[test]
fn a_message_is_not_leased_while_an_earlier_one_of_its_key_is() {
    let mut schedule = Schedule::default();
    let first = schedule.next_lease_token();
    assert!(schedule.take(1, A, first));
    assert!(schedule.take(2, B, first));
    assert!(schedule.take(3, A, first), "the same lease may hold several");
    let lease = schedule.next_lease_token();
    assert!(!schedule.take(4, A, lease));
    assert!(schedule.take(5, None, lease));
    assert!(due(&schedule).is_empty());
    for position in [1, 3] {
        let key = schedule.settle(position, first).unwrap();
        schedule.gone(key);
    }
    assert_eq!(due(&schedule), [4]);
    let lease = schedule.next_lease_token();
    assert!(!schedule.take(6, A, lease), "not before those that waited");
    assert!(schedule.take(4, A, lease));
    assert!(schedule.take(6, A, lease));
    assert!(due(&schedule).is_empty());
}

#[test]
fn a_requeued_message_goes_before_later_ones_of_its_key() {
    let mut schedule = Schedule::default();
    let lease = schedule.next_lease_token();
    assert!(schedule.take(1, A, lease));
    let other = schedule.next_lease_token();
    assert!(!schedule.take(3, A, other));
    let key = schedule.settle(1, lease).unwrap();
    schedule.gone(key);
    // A dead letter.
    let now = Instant::now();
    schedule.requeue(2, now);
    schedule.tick(now);
    assert_eq!(due(&schedule), [2, 3]);
    let lease = schedule.next_lease_token();
    assert!(schedule.take(2, A, lease));
    assert!(schedule.take(3, A, lease));
    assert!(due(&schedule).is_empty());
}

#[test]
fn due_positions_are_in_order_across_keys() {
    let mut schedule = Schedule::default();
    let lease = schedule.next_lease_token();
    assert!(schedule.take(0, A, lease));
    let other = schedule.next_lease_token();
    assert!(!schedule.take(1, A, other) && !schedule.take(5, A, other) && !schedule.take(7, A, other));
    let key = schedule.settle(0, lease).unwrap();
    schedule.gone(key);
    // Dead letters, which may be of the same key.
    let now = Instant::now();
    for position in [3, 9] {
        schedule.requeue(position, now);
    }
    schedule.tick(now);
    assert_eq!(schedule.due(2), [1, 3]);
    assert_eq!(schedule.due(3), [1, 3, 5]);
    assert_eq!(due(&schedule), [1, 3, 5, 7, 9]);
}

#[test]
fn a_retry_holds_up_its_key_until_it_is_due() {
    let mut schedule = Schedule::default();
    let now = Instant::now();
    let lease = schedule.next_lease_token();
    assert!(schedule.take(1, A, lease) && schedule.take(2, A, lease));
    let key = schedule.settle(1, lease).unwrap();
    schedule.back(1, key, Some(now + Duration::from_secs(5)));
    let key = schedule.settle(2, lease).unwrap();
    schedule.back(2, key, Some(now + Duration::from_secs(1)));
    schedule.tick(now + Duration::from_secs(2));
    assert!(due(&schedule).is_empty());
    assert_eq!(schedule.next_timer(), Some(now + Duration::from_secs(5)));
    schedule.tick(now + Duration::from_secs(5));
    assert_eq!(due(&schedule), [1, 2]);
}

#[test]
fn a_stale_lease_settles_nothing() {
    let mut schedule = Schedule::default();
    let first = schedule.next_lease_token();
    assert!(schedule.take(1, None, first));
    assert!(schedule.settle(1, first).is_some());
    schedule.back(1, None, None);
    let second = schedule.next_lease_token();
    assert!(schedule.take(1, None, second));
    assert!(schedule.settle(1, first).is_none());
    assert!(schedule.settle(1, second).is_some());
}

#[test]
fn a_forgotten_message_does_not_hold_up_its_key() {
    let mut schedule = Schedule::default();
    let lease = schedule.next_lease_token();
    assert!(schedule.take(1, A, lease));
    let other = schedule.next_lease_token();
    assert!(!schedule.take(2, A, other) && !schedule.take(3, A, other));
    let key = schedule.settle(1, lease).unwrap();
    schedule.gone(key);
    assert_eq!(due(&schedule), [2, 3]);
    schedule.forget(2);
    assert_eq!(due(&schedule), [3]);
    schedule.forget(3);
    assert!(due(&schedule).is_empty() && schedule.keys.is_empty() && schedule.waits.is_empty());
}
