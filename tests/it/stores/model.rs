//! Random operations, and a model of what may come of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tower_outbox::Message;
use tower_outbox::message::{Scalar, Settlement, headers};
use tower_outbox::store::{Entry, EntryState, Lease, Leased, Store, StoreError, Wait};
use uuid::Uuid;

use crate::support::fuse::fuse;
use crate::support::random::Random;
use crate::support::stores::{STUCK, ids, list};
use tower_outbox::testing::store_conformance::StoreHarness;

const STEPS: usize = 150;

/// How late a timer may be.
const SLACK: Duration = Duration::from_millis(50);

pub(super) async fn random_operations_agree_with_a_model(harness: StoreHarness) {
    for seed in 0..8 {
        // Each seed takes over what the one before has left: nothing but dead letters, which are dropped.
        println!("seed {seed}");
        Run::new(&harness, seed, None).await.run().await;
    }
}

pub(super) async fn random_operations_on_a_full_store_agree_with_a_model(harness: StoreHarness) {
    const MAX: usize = 25;
    let Some(harness) = harness.dropping_oldest(MAX as u64) else { return };
    for seed in 100..106 {
        println!("seed {seed}");
        Run::new(&harness, seed, Some(MAX)).await.run().await;
    }
}

/// The model's view of a message.
struct Known {
    message: Message,
    /// None until it was seen.
    position: Option<u64>,
    stage: Stage,
    /// None when the contract does not say.
    attempts: Option<u32>,
    /// It was settled, which a crash may forget.
    forgettable: bool,
    /// Until when its last retry may have waited.
    waited_until: Option<Instant>,
    /// How many it said were dropped, when it was leased last.
    says: i64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Pending,
    Out(Lease),
    /// For a retry, which is due at some time between the two.
    Waiting(Instant, Instant),
    Dead,
    Gone,
}

impl Stage {
    fn is_live(self) -> bool {
        matches!(self, Self::Pending | Self::Out(_) | Self::Waiting(..))
    }
}

impl Known {
    fn group(&self) -> Option<(&str, &str)> {
        self.message.key().map(|key| (self.message.topic().as_str(), key))
    }
}

struct Run<'a> {
    harness: &'a StoreHarness,
    random: Random,
    /// None while it is reopened.
    store: Option<Arc<dyn Store>>,
    /// In the order of their positions.
    known: Vec<Known>,
    by_id: HashMap<Uuid, usize>,
    /// Batches whose append was dropped: stored or not.
    uncertain: Vec<Vec<Message>>,
    /// Leases that are settled.
    stale: Vec<Lease>,
    /// With a limit, the oldest are dropped.
    max: Option<usize>,
    dropped: i64,
    said: i64,
}

impl<'a> Run<'a> {
    async fn new(harness: &'a StoreHarness, seed: u64, max: Option<usize>) -> Self {
        Self {
            harness,
            random: Random::new(seed),
            store: Some(harness.open().await),
            known: Vec::new(),
            by_id: HashMap::new(),
            uncertain: Vec::new(),
            stale: Vec::new(),
            max,
            dropped: 0,
            said: 0,
        }
    }

    async fn run(mut self) {
        for _ in 0..STEPS {
            match self.random.below(20) {
                0..5 => self.append().await,
                5 => self.append_and_drop_the_future().await,
                6..11 => self.lease().await,
                11..15 => self.settle().await,
                15 => self.settle_stale().await,
                16 => self.requeue().await,
                17 => self.drop_messages().await,
                18 => {
                    sleep(Duration::from_millis(self.random.below(8) as u64)).await;
                    self.check().await;
                }
                _ => self.reopen().await,
            }
        }
        self.drain().await;
    }

    fn store(&self) -> &Arc<dyn Store> {
        self.store.as_ref().expect("it is open")
    }

    fn message(&mut self, keyed: bool) -> Message {
        let topic = *self.random.pick(&["a", "b"]);
        let message = Message::new(topic, vec![7; self.random.below(600)]).unwrap();
        match self.random.below(6) {
            key @ 0..3 if keyed => message.with_key(format!("key-{key}")),
            _ => message,
        }
    }

    fn batch(&mut self, keyed: bool) -> Vec<Message> {
        (0..1 + self.random.below(8)).map(|_| self.message(keyed)).collect()
    }

    fn learn(&mut self, batch: Vec<Message>) {
        for message in batch {
            self.by_id.insert(message.id(), self.known.len());
            self.known.push(Known {
                message,
                position: None,
                stage: Stage::Pending,
                attempts: Some(0),
                forgettable: false,
                waited_until: None,
                says: 0,
            });
        }
    }

    async fn append(&mut self) {
        let batch = self.batch(true);
        println!(
            "append {:?}",
            batch.iter().map(|message| (message.topic().as_str(), message.key())).collect::<Vec<_>>()
        );
        let appended = self.store().append(batch.clone()).await;
        let kept = self.known.iter().filter(|known| known.stage != Stage::Gone).count();
        let over = self.max.map_or(0, |max| (kept + batch.len()).saturating_sub(max));
        let may_go = |known: &&mut Known| matches!(known.stage, Stage::Pending | Stage::Waiting(..));
        if over > self.known.iter_mut().filter(may_go).count() {
            let unstored = appended.expect_err("there is no room");
            assert!(matches!(unstored.source, StoreError::Full { .. }), "{unstored:?}");
            assert_eq!(unstored.batch, batch);
            return;
        }
        appended.unwrap();
        for known in self.known.iter_mut().filter(may_go).take(over) {
            (known.stage, known.forgettable) = (Stage::Gone, false);
        }
        self.dropped += over as i64;
        self.learn(batch);
    }

    /// Without keys and limits, so that it does not matter when it is stored.
    async fn append_and_drop_the_future(&mut self) {
        if self.max.is_some() {
            return self.append().await;
        }
        let batch = self.batch(false);
        match fuse(self.random.below(4), self.store().append(batch.clone())).await {
            Some(appended) => {
                appended.unwrap();
                self.learn(batch);
            }
            None => self.uncertain.push(batch),
        }
    }

    /// The index of a message; a batch of which one message is seen is there as a whole.
    fn see(&mut self, id: Uuid, position: u64) -> usize {
        if !self.by_id.contains_key(&id) {
            let found = self.uncertain.iter().position(|batch| ids(batch).contains(&id));
            let batch =
                self.uncertain.swap_remove(found.unwrap_or_else(|| panic!("{id} was never appended")));
            self.learn(batch);
        }
        let index = self.by_id[&id];
        let known = &mut self.known[index];
        assert_eq!(*known.position.get_or_insert(position), position, "a position is for ever");
        index
    }

    /// Whether each message is due beyond doubt. One with a key may wait for a later one that is out or waits, or did.
    fn certainly_due(&self, now: Instant) -> Vec<bool> {
        let is_due = |known: &Known| match known.stage {
            Stage::Pending => true,
            Stage::Waiting(_, latest) => latest + SLACK < now,
            _ => false,
        };
        let not_due = self.known.iter().filter(|known| known.stage.is_live() && !is_due(known));
        let held_up: HashSet<_> = not_due.filter_map(Known::group).collect();
        let is_free = |known: &Known| {
            known.group().is_none_or(|group| {
                let waited = self.known.iter().filter(|other| other.group() == Some(group));
                let waited = waited.filter_map(|other| other.waited_until).max();
                !held_up.contains(&group) && waited.is_none_or(|until| until + SLACK < now)
            })
        };
        self.known.iter().map(|known| is_due(known) && is_free(known)).collect()
    }

    async fn lease(&mut self) {
        let limit = 1 + self.random.below(12);
        let certain = self.certainly_due(Instant::now());
        let patience = if certain.contains(&true) { STUCK } else { Duration::from_millis(2) };
        match timeout(patience, self.store().lease(limit)).await {
            Ok(leased) => {
                let leased = leased.unwrap();
                println!("lease {:?}", leased.iter().map(|one| one.lease).collect::<Vec<_>>());
                self.check_leased(&leased, limit, &certain);
            }
            Err(_) => {
                let due = self.known.iter().zip(&certain).filter(|(_, certain)| **certain);
                let due: Vec<_> = due.map(|(known, _)| (known.position, &known.message)).collect();
                assert!(due.is_empty(), "nothing is leased, though these are due: {due:?}");
            }
        }
    }

    fn check_leased(&mut self, leased: &[Leased], limit: usize, certain: &[bool]) {
        let now = Instant::now();
        assert!((1..=limit).contains(&leased.len()));
        let mut in_lease = HashSet::new();
        for one in leased {
            let index = self.see(one.message.id(), one.lease.position);
            let known = &self.known[index];
            match known.stage {
                Stage::Pending => {}
                Stage::Waiting(earliest, _) if earliest <= now => {}
                Stage::Waiting(earliest, _) => panic!("{one:?} is leased {:?} too early", earliest - now),
                stage => panic!("{one:?} is leased, and is {stage:?}"),
            }
            if let Some(attempts) = known.attempts {
                assert_eq!(one.attempts, attempts, "{one:?}");
            }
            match one.message.header(headers::DROPPED) {
                None => assert_eq!(one.message, known.message),
                Some(Scalar::Int(count)) => assert!((1..=self.dropped - self.said).contains(count)),
                other => panic!("{other:?}"),
            }
            if let Some(group) = known.group() {
                for (earlier, before) in self.known[..index].iter().enumerate() {
                    assert!(
                        before.group() != Some(group)
                            || !before.stage.is_live()
                            || in_lease.contains(&earlier),
                        "{one:?} is leased before {:?} at {:?}, which is {:?}",
                        before.message,
                        before.position,
                        before.stage
                    );
                }
            }
            in_lease.insert(index);
        }
        // Between keys the order is not strict, but the oldest is never passed over.
        let positions = |certain: &[bool]| {
            let due = self.known.iter().zip(certain).filter(|(_, certain)| **certain);
            due.map(|(known, _)| known.position).min().flatten()
        };
        if let Some(oldest) = positions(certain) {
            assert!(
                leased.iter().any(|one| one.lease.position <= oldest),
                "the oldest, at {oldest}, is left out: {:?}",
                self.of_its_group(oldest, now)
            );
        }
        for one in leased {
            let known = &mut self.known[self.by_id[&one.message.id()]];
            (known.stage, known.attempts) = (Stage::Out(one.lease), Some(one.attempts));
            known.says = match one.message.header(headers::DROPPED) {
                Some(Scalar::Int(count)) => *count,
                _ => 0,
            };
        }
    }

    /// It and all of its key: position, stage, and how long ago the last retry was over.
    fn of_its_group(&self, position: u64, now: Instant) -> Vec<(Option<u64>, Stage, Option<Duration>)> {
        let group = self.known.iter().find(|known| known.position == Some(position)).and_then(Known::group);
        let is_one =
            |known: &&Known| known.position == Some(position) || (group.is_some() && known.group() == group);
        let tell = |known: &Known| {
            (
                known.position,
                known.stage,
                known.waited_until.map(|until| now.saturating_duration_since(until)),
            )
        };
        self.known.iter().filter(is_one).map(tell).collect()
    }

    async fn settle(&mut self) {
        let mut settled = Vec::new();
        for known in &self.known {
            let Stage::Out(lease) = known.stage else { continue };
            if self.random.once_in(2) {
                let settlement = match self.random.below(10) {
                    0..4 => Settlement::Ack,
                    4 => Settlement::Discard,
                    5 | 6 => Settlement::Release,
                    7 => Settlement::Reject { reason: "given up".into() },
                    _ => {
                        let millis = *self.random.pick(&[0, 1, 5, 30]);
                        Settlement::Retry { after: Duration::from_millis(millis), reason: "no answer".into() }
                    }
                };
                settled.push((lease, settlement));
            }
        }
        // Not in the order of their positions.
        for n in (1..settled.len()).rev() {
            settled.swap(n, self.random.below(n + 1));
        }
        println!("settle {settled:?}");
        let begun = Instant::now();
        self.store().settle(&settled).await.unwrap();
        let ended = Instant::now();
        for (lease, settlement) in settled {
            let known = self.known.iter_mut().find(|known| known.stage == Stage::Out(lease)).unwrap();
            known.forgettable = true;
            self.stale.push(lease);
            known.stage = match settlement {
                Settlement::Ack => {
                    self.said += known.says;
                    Stage::Gone
                }
                Settlement::Discard => Stage::Gone,
                Settlement::Release => Stage::Pending,
                Settlement::Reject { .. } => Stage::Dead,
                Settlement::Retry { after, .. } => {
                    known.attempts = known.attempts.map(|attempts| attempts + 1);
                    known.waited_until = Some(ended + after);
                    Stage::Waiting(begun + after, ended + after)
                }
                _ => unreachable!(),
            };
        }
    }

    async fn settle_stale(&mut self) {
        if self.stale.is_empty() {
            return;
        }
        let lease = *self.random.pick(&self.stale);
        let settlement = self
            .random
            .pick(&[
                Settlement::Ack,
                Settlement::Release,
                Settlement::Reject { reason: "stale".into() },
                Settlement::Retry { after: Duration::ZERO, reason: "stale".into() },
            ])
            .clone();
        println!("settle the stale {lease:?}: {settlement:?}");
        self.store().settle(&[(lease, settlement)]).await.unwrap();
    }

    /// Some of the messages whose positions are known.
    fn some(&mut self) -> Vec<usize> {
        let seen = (0..self.known.len()).filter(|index| self.known[*index].position.is_some());
        let seen: Vec<_> = seen.collect();
        let random = &mut self.random;
        seen.into_iter().filter(|_| random.once_in(6)).collect()
    }

    fn positions(&self, indices: &[usize]) -> Vec<u64> {
        indices.iter().filter_map(|index| self.known[*index].position).collect()
    }

    async fn requeue(&mut self) {
        let chosen = self.some();
        println!("requeue {:?}", self.positions(&chosen));
        let requeued = self.store().requeue(&self.positions(&chosen), Duration::ZERO).await.unwrap();
        let now = Instant::now();
        let (mut least, mut most) = (0, 0);
        let groups = chosen.iter().filter_map(|index| self.known[*index].group());
        let groups: HashSet<_> = groups.map(|(topic, key)| (topic.to_owned(), key.to_owned())).collect();
        for index in chosen {
            let known = &mut self.known[index];
            match known.stage {
                Stage::Dead => {
                    (known.attempts, known.forgettable) = (Some(0), false);
                    (least, most) = (least + 1, most + 1);
                }
                Stage::Waiting(earliest, _) => {
                    known.attempts = None;
                    // One whose time has come waits no more.
                    (least, most) = (least + usize::from(now < earliest), most + 1);
                }
                // The contract does not say whether one that has failed before counts while it is due.
                Stage::Pending if known.attempts != Some(0) => {
                    known.attempts = None;
                    most += 1;
                }
                _ => continue,
            }
            known.stage = Stage::Pending;
        }
        // Others of their keys may come with them.
        for known in &mut self.known {
            let group = known.group().map(|(topic, key)| (topic.to_owned(), key.to_owned()));
            if let Stage::Waiting(earliest, latest) = known.stage
                && group.is_some_and(|group| groups.contains(&group))
            {
                known.stage = Stage::Waiting(earliest.min(now), latest);
            }
        }
        assert!((least..=most).contains(&requeued), "{requeued} are requeued, not {least} to {most}");
    }

    async fn drop_messages(&mut self) {
        let chosen = self.some();
        println!("drop {:?}", self.positions(&chosen));
        let dropped = self.store().drop_messages(&self.positions(&chosen)).await.unwrap();
        let mut expected = 0;
        for index in chosen {
            let known = &mut self.known[index];
            if matches!(known.stage, Stage::Pending | Stage::Waiting(..) | Stage::Dead) {
                (known.stage, known.forgettable) = (Stage::Gone, false);
                expected += 1;
            }
        }
        assert_eq!(dropped, expected);
    }

    /// The list and the counts are what the model says.
    async fn check(&mut self) {
        let entries = list(&**self.store()).await;
        let counts = self.store().counts().await.unwrap();
        let found = self.check_entries(&entries, |known, entry| {
            let state = if known.stage == Stage::Dead { EntryState::Dead } else { EntryState::Pending };
            let sending = matches!(known.stage, Stage::Out(_));
            known.stage != Stage::Gone
                && entry.state == state
                && known
                    .attempts
                    .is_none_or(|attempts| attempts == entry.attempts || state == EntryState::Dead)
                && sending == (entry.wait == Some(Wait::Sending))
        });
        for (index, known) in self.known.iter().enumerate() {
            assert!(found.contains(&index) || known.stage == Stage::Gone, "{:?} is lost", known.message);
        }
        if self.uncertain.is_empty() {
            let dead = self.known.iter().filter(|known| known.stage == Stage::Dead).count() as u64;
            let live = self.known.iter().filter(|known| known.stage.is_live()).count() as u64;
            assert_eq!((counts.pending, counts.dead), (live, dead));
            assert_eq!(counts.bytes == 0, live + dead == 0);
            assert_eq!(counts.oldest.is_none(), live == 0);
        }
    }

    fn check_entries(&mut self, entries: &[Entry], fits: impl Fn(&Known, &Entry) -> bool) -> HashSet<usize> {
        assert!(entries.is_sorted_by(|a, b| a.position < b.position));
        let mut found = HashSet::new();
        for entry in entries {
            let message = entry.message.as_ref().unwrap_or_else(|| panic!("{entry:?} cannot be read"));
            let index = self.see(message.id(), entry.position);
            let known = &self.known[index];
            assert!(fits(known, entry), "{entry:?} is {:?}, {:?} attempts", known.stage, known.attempts);
            assert!(found.insert(index), "{message:?} is listed twice");
        }
        found
    }

    async fn reopen(&mut self) {
        // A forgotten confirm would say its count of dropped messages twice.
        let close = self.max.is_some() || self.random.once_in(2);
        println!("reopen, after close: {close}");
        if close {
            self.store().close().await;
        }
        for known in &mut self.known {
            if let Stage::Out(lease) = known.stage {
                self.stale.push(lease);
                known.stage = Stage::Pending;
            }
        }
        let store = self.store.take().expect("it is open");
        self.store = Some(self.harness.reopen(store).await);
        let entries = list(&**self.store()).await;
        let found = self.check_entries(&entries, |known, entry| {
            let state = match known.stage {
                Stage::Gone => None,
                Stage::Dead => Some(EntryState::Dead),
                _ => Some(EntryState::Pending),
            };
            let as_settled = state == Some(entry.state)
                && known
                    .attempts
                    .is_none_or(|attempts| attempts == entry.attempts || state == Some(EntryState::Dead));
            as_settled || (!close && known.forgettable && entry.state == EntryState::Pending)
        });
        for (index, known) in self.known.iter_mut().enumerate() {
            known.forgettable = false;
            if !found.contains(&index) {
                assert_eq!(known.stage, Stage::Gone, "{:?} is lost", known.message);
            }
        }
        for entry in &entries {
            let index = self.by_id[&entry.message.as_ref().unwrap().id()];
            let known = &mut self.known[index];
            known.attempts = Some(entry.attempts);
            known.stage = match (entry.state, known.stage) {
                (EntryState::Dead, _) => Stage::Dead,
                (EntryState::Pending, waiting @ Stage::Waiting(..)) => waiting,
                (EntryState::Pending, _) => Stage::Pending,
            };
        }
        // A message that is not there by now never will be.
        self.uncertain.clear();
    }

    /// Everything that is pending comes, and nothing else.
    async fn drain(mut self) {
        self.reopen().await;
        let begun = Instant::now();
        while self.store().counts().await.unwrap().pending > 0 {
            assert!(begun.elapsed() < STUCK, "what is pending does not come");
            self.lease().await;
            let out = self.known.iter_mut().filter(|known| matches!(known.stage, Stage::Out(_)));
            let mut settled = Vec::new();
            for known in out {
                let Stage::Out(lease) = known.stage else { unreachable!() };
                settled.push((lease, Settlement::Ack));
                known.stage = Stage::Gone;
                self.said += known.says;
            }
            self.store().settle(&settled).await.unwrap();
        }
        self.check().await;
        assert!(self.known.iter().all(|known| !known.stage.is_live()));
        if self.max.is_some() {
            assert!(self.said <= self.dropped, "{} are said to be dropped, not {}", self.said, self.dropped);
        }
        let dead: Vec<_> = list(&**self.store()).await.iter().map(|entry| entry.position).collect();
        assert_eq!(self.store().drop_messages(&dead).await.unwrap(), dead.len());
        self.store().close().await;
    }
}
