//! The requests, their responses, and whether the messages that arrived fit them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How many examples of each fault are kept for people.
const EXAMPLES: usize = 10;

/// The known outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No answer came: its messages may arrive, all or none.
    Unanswered,
    /// 2xx: its messages must arrive.
    Accepted,
    /// Any other answer, or it never was asked in full: its messages must not arrive.
    Refused,
}

/// A request with the messages `first`, `first + 1`, .. of its key.
#[derive(Clone, Debug)]
pub struct Request {
    pub key: u64,
    pub first: u64,
    pub messages: u64,
    pub round: usize,
    pub outcome: Outcome,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, first, messages, round, outcome } = self;
        write!(f, "{outcome:?} in round {round}: {messages} messages from {first} on of key {key}")
    }
}

/// All requests; the place of one is its id.
#[derive(Debug, Default)]
pub struct Ledger {
    requests: Vec<Request>,
    keys: u64,
}

/// A message as it arrived: the id of its request, and which one of its messages it is.
pub type Arrival = (u64, u64);

impl Ledger {
    /// A key nobody has used.
    pub fn key(&mut self) -> u64 {
        self.keys += 1;
        self.keys
    }

    /// Enters a request before its first byte leaves, and gives its id.
    pub fn begin(&mut self, key: u64, first: u64, messages: u64, round: usize) -> u64 {
        self.requests.push(Request { key, first, messages, round, outcome: Outcome::Unanswered });
        self.requests.len() as u64 - 1
    }

    pub fn end(&mut self, id: u64, outcome: Outcome) {
        self.requests[id as usize].outcome = outcome;
    }

    /// A line for each arrival.
    pub fn describe(&self, arrivals: &[Arrival]) -> String {
        let describe = |(id, part): &Arrival| match self.requests.get(*id as usize) {
            Some(request) => {
                let Request { key, first, round, outcome, .. } = request;
                format!("key {key} number {} request {id} round {round} {outcome:?}\n", first + part)
            }
            None => format!("part {part} request {id}, which nobody asked for\n"),
        };
        arrivals.iter().map(describe).collect()
    }

    /// The requests whose row is there without all of their messages, or some of their messages without the row.
    pub fn torn(&self, rows: &BTreeSet<u64>, arrivals: &[Arrival]) -> Vec<String> {
        let arrived: BTreeSet<_> = arrivals.iter().collect();
        let here = |id, request: &Request| {
            (0..request.messages).filter(|part| arrived.contains(&(id, *part))).count() as u64
        };
        let requests = self.requests.iter().enumerate().map(|(id, request)| (id as u64, request));
        let torn = requests.filter_map(|(id, request)| {
            let (row, here) = (rows.contains(&id), here(id, request));
            let whole = here == if row { request.messages } else { 0 };
            (!whole).then(|| format!("row: {row}, {here} messages arrived of request {id}, {request}"))
        });
        torn.collect()
    }

    pub fn verdict(&self, arrivals: &[Arrival]) -> Verdict {
        let mut verdict = Verdict { requests: self.requests.len() as u64, ..Verdict::default() };
        // The highest number of each key so far, in the order of arrival.
        let mut highest = BTreeMap::<u64, u64>::new();
        let mut arrived = BTreeSet::new();
        for &(id, part) in arrivals {
            let Some(request) = self.requests.get(id as usize).filter(|request| part < request.messages)
            else {
                verdict.wrong.add(|| format!("message {part} of request {id}, which nobody asked for"));
                continue;
            };
            if !arrived.insert((id, part)) {
                verdict.duplicated += 1;
                continue;
            }
            let number = request.first + part;
            let highest = highest.entry(request.key).or_insert(number);
            if number < *highest {
                verdict.reordered.add(|| {
                    format!("number {number} of key {} after {highest}: request {id}, {request}", request.key)
                });
            }
            *highest = number.max(*highest);
        }
        for (id, request) in self.requests.iter().enumerate() {
            let id = id as u64;
            let here = (0..request.messages).filter(|part| arrived.contains(&(id, *part))).count() as u64;
            let said = || format!("{here} messages arrived of request {id}, {request}");
            match request.outcome {
                Outcome::Accepted => {
                    verdict.accepted += 1;
                    verdict.messages += request.messages;
                    verdict.lost.add_many(request.messages - here, said);
                }
                Outcome::Refused => {
                    verdict.refused += 1;
                    verdict.wrong.add_many(here, said);
                }
                Outcome::Unanswered => {
                    verdict.unanswered += 1;
                    verdict.partial.add_many(u64::from(here > 0 && here < request.messages), said);
                }
            }
        }
        verdict
    }
}

/// How often something went wrong, and how.
#[derive(Clone, Debug, Default)]
pub struct Fault {
    pub count: u64,
    examples: Vec<String>,
}

impl Fault {
    fn add(&mut self, example: impl FnOnce() -> String) {
        self.add_many(1, example);
    }

    fn add_many(&mut self, count: u64, example: impl FnOnce() -> String) {
        self.count += count;
        if count > 0 && self.examples.len() < EXAMPLES {
            self.examples.push(example());
        }
    }
}

/// The judgement of a ledger on the messages that arrived.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub requests: u64,
    pub accepted: u64,
    pub refused: u64,
    pub unanswered: u64,
    /// The messages of the accepted requests.
    pub messages: u64,
    /// Messages of accepted requests that did not arrive.
    pub lost: Fault,
    /// Messages that arrived and must not: of refused requests, or of none.
    pub wrong: Fault,
    /// Unanswered requests of whose messages some arrived and some did not.
    pub partial: Fault,
    /// Messages that came once more.
    pub duplicated: u64,
    /// Messages that came, for the first time, after a later one of their key.
    pub reordered: Fault,
}

impl Verdict {
    fn faults(&self) -> [(&'static str, &Fault); 4] {
        [
            ("lost", &self.lost),
            ("wrong", &self.wrong),
            ("partial", &self.partial),
            ("reordered", &self.reordered),
        ]
    }

    pub fn is_good(&self) -> bool {
        self.faults().iter().all(|(_, fault)| fault.count == 0)
    }

    /// A line for each fault that was kept.
    pub fn examples(&self) -> String {
        let lines = |(name, fault): (&str, &Fault)| {
            fault.examples.iter().map(|example| format!("{name}: {example}\n")).collect::<String>()
        };
        self.faults().map(lines).concat()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, accepted, refused, unanswered, messages, duplicated, .. } = self;
        write!(
            f,
            "{requests} requests, {accepted} answered 2xx, {refused} refused, {unanswered} unanswered, {messages} messages, \
             {} lost, {} wrong, {} partial, {duplicated} duplicated, {} reordered",
            self.lost.count, self.wrong.count, self.partial.count, self.reordered.count
        )
    }
}

/// A ledger of two messages each for requests of one key, with these outcomes.
#[cfg(test)]
fn ledger<const N: usize>(outcomes: [Outcome; N]) -> Ledger {
    let mut ledger = Ledger::default();
    let key = ledger.key();
    for (n, outcome) in outcomes.into_iter().enumerate() {
        let id = ledger.begin(key, 2 * n as u64, 2, 0);
        ledger.end(id, outcome);
    }
    ledger
}

fn faults(verdict: &Verdict) -> [u64; 5] {
    let [lost, wrong, partial, reordered] = verdict.faults().map(|(_, fault)| fault.count);
    [lost, wrong, partial, verdict.duplicated, reordered]
}

#[test]
fn what_fits_is_good() {
    use Outcome::{Accepted, Refused, Unanswered};
    let ledger = ledger([Accepted, Refused, Unanswered, Accepted, Unanswered]);
    let verdict = ledger.verdict(&[(0, 0), (0, 1), (2, 0), (2, 1), (3, 0), (3, 1)]);
    assert!(verdict.is_good());
    assert_eq!(verdict.examples(), "");
    let text = "5 requests, 2 answered 2xx, 1 refused, 2 unanswered, 4 messages, \
                0 lost, 0 wrong, 0 partial, 0 duplicated, 0 reordered";
    assert_eq!(verdict.to_string(), text);
}

#[test]
fn each_fault_is_seen() {
    use Outcome::{Accepted, Refused, Unanswered};
    for (outcomes, arrivals, expected) in [
        ([Accepted, Accepted], vec![(0, 0), (0, 1), (1, 1)], [1, 0, 0, 0, 0]),
        ([Accepted, Accepted], vec![], [4, 0, 0, 0, 0]),
        ([Refused, Refused], vec![(0, 0)], [0, 1, 0, 0, 0]),
        ([Refused, Refused], vec![(2, 0)], [0, 1, 0, 0, 0]),
        ([Unanswered, Unanswered], vec![(0, 2)], [0, 1, 0, 0, 0]),
        ([Unanswered, Unanswered], vec![(0, 0), (1, 0)], [0, 0, 2, 0, 0]),
        // Sent again: the later ones come once more, in order.
        ([Accepted, Unanswered], vec![(0, 0), (0, 1), (0, 0), (0, 1)], [0, 0, 0, 2, 0]),
        ([Accepted, Unanswered], vec![(0, 1), (0, 0)], [0, 0, 0, 0, 1]),
        ([Accepted, Accepted], vec![(1, 0), (0, 0), (1, 1), (0, 1)], [0, 0, 0, 0, 2]),
    ] {
        let verdict = ledger(outcomes).verdict(&arrivals);
        assert_eq!(faults(&verdict), expected, "{outcomes:?} {arrivals:?}: {verdict}");
        assert_eq!(verdict.is_good(), expected[..3] == [0; 3] && expected[4] == 0);
        assert_eq!(verdict.examples().is_empty(), verdict.is_good());
    }
}

#[test]
fn a_row_without_its_messages_is_seen_and_messages_without_their_row() {
    use Outcome::{Accepted, Unanswered};
    let ledger = ledger([Accepted, Unanswered, Unanswered]);
    let both = [(0, 0), (0, 1), (2, 0), (2, 1)];
    assert_eq!(ledger.torn(&[0, 2].into(), &both), Vec::<String>::new());
    assert_eq!(ledger.torn(&[0, 1, 2].into(), &both).len(), 1);
    assert_eq!(ledger.torn(&[0].into(), &both).len(), 1);
    assert_eq!(ledger.torn(&[0, 2].into(), &both[..3]).len(), 1);
}

#[test]
fn keys_do_not_wait_for_each_other() {
    let mut ledger = Ledger::default();
    for _ in 0..2 {
        let key = ledger.key();
        for first in 0..2 {
            let id = ledger.begin(key, first, 1, 0);
            ledger.end(id, Outcome::Accepted);
        }
    }
    assert!(ledger.verdict(&[(2, 0), (0, 0), (3, 0), (1, 0)]).is_good());
    assert_eq!(faults(&ledger.verdict(&[(2, 0), (1, 0), (3, 0), (0, 0)])), [0, 0, 0, 0, 1]);
}
