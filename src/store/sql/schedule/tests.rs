//! The memory of a schedule with many messages, and when partitions come and go.

use super::*;
use crate::message::Settlement;
use crate::store::Leased;

/// How many messages are leased at once.
const LIMIT: usize = 1_000;

const HOUR: Duration = Duration::from_secs(3_600);

fn assignment(partitions: &[(i16, i64)]) -> Assignment {
    Assignment { partitions: partitions.to_vec(), until: Some(Instant::now() + HOUR) }
}

/// A schedule that holds partition 0, and the sender of its assignment.
fn state() -> (SqlSchedule, watch::Sender<Assignment>) {
    let assignment = watch::Sender::new(assignment(&[(0, 1)]));
    (SqlSchedule::new(Limits::default(), assignment.subscribe()), assignment)
}

fn row(position: u64, key_hash: Option<i64>) -> Row {
    let content = match key_hash {
        Some(_) => Content::Unread,
        None => Content::Message(Message::new("a", "").unwrap()),
    };
    let (wait, failures) = (Duration::ZERO, None);
    Row { position, partition: 0, key_hash, size: 100, wait, attempts: 0, failures, content }
}

/// Leases messages of a table with `table` rows from `first` on, each with the key that `key` returns. Nothing may be due.
fn lease(state: &mut SqlSchedule, first: u64, table: u64, key: fn(u64) -> Option<i64>) -> Vec<Leased> {
    loop {
        match state.next(LIMIT, true).unwrap() {
            Next::Leased(leased) => return leased,
            Next::Idle { .. } => return Vec::new(),
            Next::Reader => unreachable!(),
            Next::Due(..) => state.end_due(Vec::new()),
            Next::Sweep(_) => state.end_sweep(Vec::new(), false, Duration::ZERO),
            Next::Read(read, mark) => {
                let from = (read.after + 1).max(first);
                let to = (from + read.limit as u64).min(first + table);
                let rows = (from..to).filter(|position| read.known.binary_search(position).is_err());
                let rows = rows.map(|position| row(position, key(position))).collect();
                state.end_read(&mark, rows, to < first + table);
            }
            Next::Fetch(fetch) => {
                let positions = fetch.keys.iter().map(|(hash, _)| *hash as u64);
                let of_keys = positions.map(|position| Row {
                    content: Content::Message(Message::new("a", "").unwrap().with_key("k")),
                    ..row(position, Some(position as i64))
                });
                let of_keys = of_keys.collect();
                return state.fetched(&fetch, Vec::new(), of_keys, LIMIT);
            }
        }
    }
}

fn settle(state: &mut SqlSchedule, leased: &[Leased], settlement: &Settlement) -> Settling {
    let settled: Vec<_> = leased.iter().map(|one| (one.lease, settlement.clone())).collect();
    state.begin_settle(&settled).unwrap()
}

fn retry() -> Settlement {
    Settlement::Retry { after: HOUR, reason: "no answer".into() }
}

#[test]
fn a_large_backlog_is_read_piece_by_piece() {
    for key in [|_| None, |position| Some(position as i64)] as [fn(u64) -> Option<i64>; 2] {
        let (mut state, _share) = state();
        let leased = lease(&mut state, 1, 4 * KNOWN as u64, key);
        assert_eq!(leased.len(), LIMIT);
        let known = state.known();
        assert!(known <= 2 * KNOWN, "{known}");
    }
}

#[test]
fn some_positions_of_a_long_key_are_in_memory() {
    let (mut state, _share) = state();
    let Next::Due(..) = state.next(LIMIT, true).unwrap() else { panic!() };
    state.end_due(Vec::new());
    let Next::Read(_, mark) = state.next(LIMIT, true).unwrap() else { panic!() };
    state.end_read(&mark, (1..=1_000).map(|position| row(position, Some(7))).collect(), false);
    assert_eq!(state.known(), PER_KEY);
}

/// Leases and settles the messages of one key, of a table with these positions, until nothing is due.
fn drain(state: &mut SqlSchedule, table: &mut Vec<u64>, limit: usize) {
    let unread = |position: &u64| row(*position, Some(7));
    loop {
        let leased = match state.next(limit, true).unwrap() {
            Next::Leased(leased) => leased,
            Next::Idle { .. } => return,
            Next::Reader => unreachable!(),
            Next::Due(..) => {
                state.end_due(Vec::new());
                continue;
            }
            Next::Sweep(_) => panic!("a message is found by a sweep only"),
            Next::Read(read, mark) => {
                let found =
                    table.iter().filter(|it| **it > read.after && read.known.binary_search(it).is_err());
                let rows: Vec<_> = found.take(read.limit).map(unread).collect();
                let more = rows.len() == read.limit;
                state.end_read(&mark, rows, more);
                continue;
            }
            Next::Fetch(fetch) => {
                let wanted = fetch.keys[0].1;
                let first = table.iter().take(wanted).map(|position| Row {
                    content: Content::Message(Message::new("a", "").unwrap().with_key("k")),
                    ..unread(position)
                });
                state.fetched(&fetch, Vec::new(), first.collect(), limit)
            }
        };
        let settling = settle(state, &leased, &Settlement::Ack);
        let sent: Vec<u64> = leased.iter().map(|one| one.lease.position).collect();
        assert_eq!(table[..sent.len()], sent, "out of order");
        table.drain(..sent.len());
        state.end_settle(settling, (sent.len() as u64, 0));
    }
}

#[test]
fn a_long_key_needs_no_sweep() {
    for limit in [1, 2, PER_KEY - 1, PER_KEY, PER_KEY + 1, LIMIT] {
        let (mut state, _share) = state();
        let mut table: Vec<u64> = (1..=1_000).collect();
        drain(&mut state, &mut table, limit);
        assert!(table.is_empty(), "{} wait with a limit of {limit}", table.len());
    }
}

#[test]
fn the_rest_of_a_long_key_is_found_when_its_known_messages_are_dropped() {
    let (mut state, _share) = state();
    let mut table: Vec<u64> = (1..=1_000).collect();
    let leased = loop {
        match state.next(1, true).unwrap() {
            Next::Due(..) => state.end_due(Vec::new()),
            Next::Read(read, mark) => {
                let rows = table.iter().take(read.limit).map(|position| row(*position, Some(7))).collect();
                state.end_read(&mark, rows, false);
            }
            Next::Fetch(fetch) => {
                let first = (1..=fetch.keys[0].1 as u64).map(|position| Row {
                    content: Content::Message(Message::new("a", "").unwrap().with_key("k")),
                    ..row(position, Some(7))
                });
                break state.fetched(&fetch, Vec::new(), first.collect(), 1);
            }
            _ => unreachable!(),
        }
    };
    let dropped = state.reserve_for_drop(&(2..=PER_KEY as u64 + 2).collect::<Vec<_>>());
    state.end_drop(&dropped, true);
    let settling = settle(&mut state, &leased, &Settlement::Ack);
    state.end_settle(settling, (1, 0));
    table.retain(|position| *position != 1 && !dropped.contains(position));
    drain(&mut state, &mut table, LIMIT);
    assert!(table.is_empty(), "{} wait", table.len());
}

#[test]
fn retries_are_forgotten_when_too_many_positions_are_known() {
    for key in [|_| None, |position| Some(position as i64)] as [fn(u64) -> Option<i64>; 2] {
        let (mut state, _share) = state();
        let table = 2 * KNOWN as u64;
        let mut tried = 0;
        while tried < table {
            let leased = lease(&mut state, 1, table, key);
            assert!(!leased.is_empty(), "{tried} of {table}");
            tried += leased.len() as u64;
            let settling = settle(&mut state, &leased, &retry());
            state.end_settle(settling, (0, 0));
        }
        assert!(lease(&mut state, 1, 0, key).is_empty(), "all wait");
        let known = state.known();
        assert!((KNOWN / 2..=KNOWN + LIMIT).contains(&known), "{known}");
        // Forgotten messages are found when they are due.
        let due = state.next_due.unwrap().saturating_duration_since(Instant::now());
        assert!(due <= HOUR, "{due:?}");
    }
}

#[test]
fn reservations_have_a_limit_and_other_messages_are_found() {
    let (mut state, _share) = state();
    assert!(lease(&mut state, 1, 0, |_| None).is_empty());
    let reserved = (1..=KNOWN as u64 + 10).filter(|position| state.reserve(*position, 0)).count();
    assert_eq!(reserved, KNOWN);
    let place =
        |position, reserved| Placed { position, partition: 0, size: 100, wait: Duration::ZERO, reserved };
    let message = || Message::new("a", "").unwrap();
    state.hand_over(&place(1, true), message(), Instant::now());
    assert!(!state.is_unread(), "it is here");
    state.hand_over(&place(KNOWN as u64 + 1, false), message(), Instant::now());
    assert!(state.is_unread());
}

#[test]
fn only_confirms_without_a_key_may_wait_for_others() {
    for (key, settlement, may_wait) in [
        (None, Settlement::Ack, true),
        (Some(7), Settlement::Ack, false),
        (None, retry(), false),
        (None, Settlement::Discard, false),
    ] {
        let (mut state, _share) = state();
        let place = Placed { position: 1, partition: 0, size: 100, wait: Duration::ZERO, reserved: false };
        assert!(lease(&mut state, 1, 0, |_| None).is_empty());
        state.hand_over(&place, Message::new("a", "").unwrap(), Instant::now());
        let leased = match key {
            None => lease(&mut state, 1, 1, |_| None),
            Some(_) => lease(&mut state, 1, 1, |_| Some(1)),
        };
        assert_eq!(settle(&mut state, &leased, &settlement).may_wait(), may_wait, "{key:?} {settlement:?}");
    }
}

#[test]
fn a_partition_that_comes_back_is_held_when_no_message_of_before_is_leased() {
    let (mut state, sender) = state();
    sender.send_replace(assignment(&[(0, 1), (1, 1)]));
    let leased = lease(&mut state, 1, 1, |_| None);
    assert_eq!(leased.len(), 1);
    sender.send_replace(assignment(&[(1, 1)]));
    assert!(!state.is_idle(0));
    sender.send_replace(assignment(&[(0, 2), (1, 1)]));
    // The partition would be read again while a message of it is leased.
    assert!(lease(&mut state, 1, 0, |_| None).is_empty());
    assert_eq!(state.held(), [(1, 1)]);

    let settling = settle(&mut state, &leased, &Settlement::Ack);
    assert_eq!(settling.held, [(0, 1)], "by the token of before");
    state.end_settle(settling, (0, 0));
    assert_eq!(ids(&lease(&mut state, 1, 1, |_| None)), [1], "it is read again");
    assert_eq!(state.held(), [(0, 2), (1, 1)]);
}

fn ids(leased: &[Leased]) -> Vec<u64> {
    leased.iter().map(|one| one.lease.position).collect()
}
