//! What is kept in mind when there is very much, and when buckets come and go.

use super::*;
use crate::message::Settlement;
use crate::store::Leased;

/// How many are leased at once.
const LIMIT: usize = 1_000;

const HOUR: Duration = Duration::from_secs(3_600);

fn share(buckets: &[(i16, i64)]) -> Share {
    Share { buckets: buckets.to_vec(), until: Some(Instant::now() + HOUR) }
}

/// One that holds bucket 0, and what changes that.
fn state() -> (State, watch::Sender<Share>) {
    let share = watch::Sender::new(share(&[(0, 1)]));
    (State::new(Limits::default(), share.subscribe()), share)
}

fn row(position: u64, key_hash: Option<i64>) -> Row {
    let content = match key_hash {
        Some(_) => Content::Unread,
        None => Content::Message(Message::new("a", "").unwrap()),
    };
    let (wait, failures) = (Duration::ZERO, None);
    Row { position, bucket: 0, key_hash, size: 100, wait, attempts: 0, failures, content }
}

/// What is leased of a table with `table` rows from `first` on, each of the key that it is given; none if nothing is due.
fn lease(state: &mut State, first: u64, table: u64, key: fn(u64) -> Option<i64>) -> Vec<Leased> {
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

fn settle(state: &mut State, leased: &[Leased], settlement: &Settlement) -> Settling {
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
fn of_a_long_key_some_are_kept_in_mind() {
    let (mut state, _share) = state();
    let Next::Due(..) = state.next(LIMIT, true).unwrap() else { panic!() };
    state.end_due(Vec::new());
    let Next::Read(_, mark) = state.next(LIMIT, true).unwrap() else { panic!() };
    state.end_read(&mark, (1..=1_000).map(|position| row(position, Some(7))).collect(), false);
    assert_eq!(state.known(), OF_A_GROUP);
}

#[test]
fn what_waits_for_its_retry_is_forgotten_when_too_much_is_known() {
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
        // Those are found when they are due.
        let due = state.next_due.unwrap().saturating_duration_since(Instant::now());
        assert!(due <= HOUR, "{due:?}");
    }
}

#[test]
fn so_many_transactions_that_are_open_are_kept_in_mind_and_the_others_found() {
    let (mut state, _share) = state();
    assert!(lease(&mut state, 1, 0, |_| None).is_empty());
    let reserved = (1..=KNOWN as u64 + 10).filter(|position| state.reserve(*position, 0)).count();
    assert_eq!(reserved, KNOWN);
    let place = |position, reserved| Place { position, bucket: 0, size: 100, wait: Duration::ZERO, reserved };
    let message = || Message::new("a", "").unwrap();
    state.hand_over(&place(1, true), message(), Instant::now());
    assert!(!state.is_unread(), "it is here");
    state.hand_over(&place(KNOWN as u64 + 1, false), message(), Instant::now());
    assert!(state.is_unread());
}

#[test]
fn only_confirms_for_which_nobody_waits_may_wait_for_others() {
    for (key, settlement, may_wait) in [
        (None, Settlement::Ack, true),
        (Some(7), Settlement::Ack, false),
        (None, retry(), false),
        (None, Settlement::Discard, false),
    ] {
        let (mut state, _share) = state();
        let place = Place { position: 1, bucket: 0, size: 100, wait: Duration::ZERO, reserved: false };
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
fn a_bucket_that_comes_back_is_held_when_nothing_of_before_is_out() {
    let (mut state, sender) = state();
    sender.send_replace(share(&[(0, 1), (1, 1)]));
    let leased = lease(&mut state, 1, 1, |_| None);
    assert_eq!(leased.len(), 1);
    sender.send_replace(share(&[(1, 1)]));
    assert!(!state.is_idle(0));
    sender.send_replace(share(&[(0, 2), (1, 1)]));
    // What comes back would be read again while it is out.
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
