//! Random operations with reopenings, and a model of what may come of them.
//!
//! `TOWER_OUTBOX_MODEL_SEEDS` sets the number of runs; 6 by default.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tower_outbox::channels::embedded::{EmbeddedEngine, EmbeddedEngineSettings};
use tower_outbox::channels::{
    ChannelKind, ChannelLimits, Engine, Policy, QueueMessage, Queues, Receipt, Receive, Settle, Start,
    Streams, Subscribe, Which,
};

use super::{content, name};
use tower_outbox::testing::support::random::Random;

const STEPS: usize = 400;
const QUEUES: [&str; 4] = ["a", "b", "a.dead", "b.dead"];
const KEPT: u64 = 20;

#[tokio::test]
async fn random_operations_on_queues_agree_with_a_model() {
    for seed in 0..seeds() {
        println!("seed {seed}");
        let folder = tempfile::tempdir().unwrap();
        Run::new(folder.path(), seed).await.run().await;
    }
}

#[tokio::test]
async fn random_operations_on_a_stream_agree_with_a_model() {
    for seed in 0..seeds() {
        println!("seed {seed}");
        let folder = tempfile::tempdir().unwrap();
        run_stream(folder.path(), seed).await;
    }
}

fn seeds() -> u64 {
    std::env::var("TOWER_OUTBOX_MODEL_SEEDS").map_or(6, |seeds| seeds.parse().unwrap())
}

/// Deletes the newest of two checkpoints, so that the next start reads more of the log.
fn lose_checkpoint(folder: &Path) {
    let files = std::fs::read_dir(folder.join("channels")).unwrap().map(|file| file.unwrap().path());
    let is_checkpoint = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "checkpoint");
    let checkpoints: BTreeSet<PathBuf> = files.filter(is_checkpoint).collect();
    if checkpoints.len() > 1 {
        std::fs::remove_file(checkpoints.last().unwrap()).unwrap();
    }
}

/// With files of about ten messages, so that checkpoints, copies and deletions happen all the time.
async fn open(folder: &Path) -> EmbeddedEngine {
    let settings = EmbeddedEngineSettings::new(folder.join("channels")).with_segment_bytes(4_000);
    EmbeddedEngine::open(settings).await.unwrap()
}

#[derive(Clone, Debug, PartialEq)]
struct Item {
    sequence: u64,
    body: String,
    receives: u32,
    max: u32,
    /// The queue that it was sent to first, whose dead-letter queue its policy names.
    dead_letter: Option<&'static str>,
    rerouted: bool,
}

#[derive(Default)]
struct ModelQueue {
    last: u64,
    visible: VecDeque<Item>,
    delayed: u64,
}

impl ModelQueue {
    fn add(&mut self, item: Item) {
        self.last += 1;
        self.visible.push_back(Item { sequence: self.last, ..item });
    }

    fn give_back(&mut self, item: Item) {
        let at = self.visible.partition_point(|other| other.sequence < item.sequence);
        self.visible.insert(at, item);
    }
}

struct Run<'a> {
    folder: &'a Path,
    random: Random,
    engine: Option<EmbeddedEngine>,
    queues: BTreeMap<&'static str, ModelQueue>,
    held: Vec<(Receipt, &'static str, Vec<Item>)>,
    sent: u64,
}

impl<'a> Run<'a> {
    async fn new(folder: &'a Path, seed: u64) -> Self {
        let queues = QUEUES.map(|name| (name, ModelQueue::default())).into_iter().collect();
        let (random, engine) = (Random::new(seed), Some(open(folder).await));
        Self { folder, random, engine, queues, held: Vec::new(), sent: 0 }
    }

    fn engine(&self) -> &EmbeddedEngine {
        self.engine.as_ref().unwrap()
    }

    fn model(&mut self, queue: &str) -> &mut ModelQueue {
        self.queues.get_mut(queue).unwrap()
    }

    async fn run(mut self) {
        for _ in 0..STEPS {
            match self.random.below(20) {
                0..6 => self.send().await,
                6..11 => self.receive().await,
                11..17 => self.settle().await,
                17 if self.random.once_in(4) => self.purge_or_delete().await,
                18 => self.check().await,
                19 if self.random.once_in(2) => self.reopen().await,
                _ => {}
            }
        }
        self.reopen().await;
    }

    fn queue(&mut self) -> &'static str {
        QUEUES[self.random.below(2)]
    }

    async fn send(&mut self) {
        let (mut messages, mut model) = (Vec::new(), Vec::new());
        for _ in 0..=self.random.below(4) {
            let queue = self.queue();
            self.sent += 1;
            let body = format!("{} {}", self.sent, "x".repeat(self.random.below(500)));
            let max = u32::try_from(self.random.below(4)).unwrap();
            let dead_letter = self.random.once_in(2);
            let is_delayed = self.random.once_in(10);
            let policy = Policy {
                delay: Duration::from_secs(if is_delayed { 3_600 } else { 0 }),
                max_receives: max,
                dead_letter: dead_letter.then(|| name(&format!("{queue}.dead"))),
                ..Policy::default()
            };
            messages.push((name(queue), QueueMessage { content: content(body.clone()), policy }));
            let dead_letter = dead_letter.then_some(queue);
            let item = Item { sequence: 0, body, receives: 0, max, dead_letter, rerouted: false };
            model.push((queue, is_delayed, item));
        }
        let sent = self.engine().send(messages).await;
        for (sent, (queue, is_delayed, item)) in sent.into_iter().zip(model) {
            let sent = sent.unwrap();
            let queue = self.model(queue);
            if is_delayed {
                assert_eq!(sent.sequence, 0);
                queue.delayed += 1;
            } else {
                queue.add(item);
                assert_eq!(sent.sequence, queue.last);
            }
        }
    }

    async fn receive(&mut self) {
        let queue = QUEUES[self.random.below(4)];
        let max = 1 + self.random.below(5);
        let auto_ack = self.random.once_in(5);
        let receive = Receive { max, auto_ack, visibility: None, ..Receive::default() };
        let received = self.engine().receive(&name(queue), receive).await.unwrap();
        let model = self.model(queue);
        let count = max.min(model.visible.len());
        let wanted: Vec<Item> = model.visible.drain(..count).collect();
        assert_eq!(received.messages.len(), wanted.len(), "queue {queue}");
        for (message, wanted) in received.messages.iter().zip(&wanted) {
            assert_eq!(message.content.body, wanted.body);
            assert_eq!((message.sequence, message.receives), (wanted.sequence, wanted.receives + 1));
            assert_eq!(message.rerouted_from.is_some(), wanted.rerouted);
        }
        if !auto_ack && !wanted.is_empty() {
            self.held.push((received.receipt, queue, wanted));
        }
    }

    async fn settle(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let at = self.random.below(self.held.len());
        let (receipt, queue, mut items) = self.held.swap_remove(at);
        let rest = items.split_off(1 + self.random.below(items.len()));
        let which = Which::Sequences(items.iter().map(|item| item.sequence).collect());
        let to = QUEUES[self.random.below(2)];
        let settle = match self.random.below(6) {
            0 | 1 => Settle::Ack,
            2 => Settle::Reject { delay: Duration::ZERO },
            3 => Settle::Release,
            4 => Settle::Requeue { to: name(to) },
            _ => {
                let message = Box::new(super::message("replaced"));
                Settle::Replace { to: name(to), message, rerouted_from: None, receives: 0 }
            }
        };
        let count = self.engine().settle(receipt, which, settle.clone()).await.unwrap();
        assert_eq!(count, items.len() as u64);
        match settle {
            Settle::Ack => {}
            Settle::Release => items.into_iter().for_each(|item| self.model(queue).give_back(item)),
            Settle::Requeue { .. } => {
                for item in items {
                    self.model(to).add(Item { receives: 0, rerouted: false, ..item });
                }
            }
            Settle::Reject { .. } => {
                let is_last = |item: &Item| item.max > 0 && item.receives + 1 >= item.max;
                let (last, again): (Vec<Item>, Vec<Item>) = items.into_iter().partition(is_last);
                for item in again {
                    self.model(queue).add(Item { receives: item.receives + 1, ..item });
                }
                for item in last {
                    if let Some(first) = item.dead_letter {
                        let item = Item { receives: 0, max: 0, dead_letter: None, rerouted: true, ..item };
                        self.model(&format!("{first}.dead")).add(item);
                    }
                }
            }
            _ => {
                let (body, dead_letter) = ("replaced".to_owned(), None);
                self.model(to).add(Item {
                    sequence: 0,
                    body,
                    receives: 0,
                    max: 0,
                    dead_letter,
                    rerouted: false,
                });
            }
        }
        if !rest.is_empty() {
            self.held.push((receipt, queue, rest));
        }
    }

    async fn purge_or_delete(&mut self) {
        let queue = QUEUES[self.random.below(4)];
        if self.random.once_in(2) {
            let count = self.engine().purge(&name(queue)).await.unwrap();
            assert_eq!(count, self.model(queue).visible.len() as u64);
            self.model(queue).visible.clear();
        } else {
            self.engine().delete(ChannelKind::Queue, &name(queue)).await.unwrap();
            *self.model(queue) = ModelQueue::default();
            self.held.retain(|(_, of, _)| *of != queue);
        }
    }

    async fn check(&self) {
        for (queue, model) in &self.queues {
            let peeked = self.engine().peek(&name(queue), 10_000, Duration::ZERO).await.unwrap();
            let found: Vec<_> = peeked
                .messages
                .iter()
                .map(|message| (message.sequence, message.receives - 1, message.content.body.clone()))
                .collect();
            let wanted: Vec<_> = model
                .visible
                .iter()
                .map(|item| (item.sequence, item.receives, bytes::Bytes::from(item.body.clone())))
                .collect();
            assert_eq!(found, wanted, "queue {queue}");
            let info = self.engine().info(ChannelKind::Queue, &name(queue)).await.unwrap();
            assert_eq!(info.map_or(0, |info| info.delayed), model.delayed, "queue {queue}");
        }
    }

    async fn reopen(&mut self) {
        self.check().await;
        self.engine = None;
        if self.random.once_in(2) {
            lose_checkpoint(self.folder);
        }
        for (_, queue, items) in std::mem::take(&mut self.held) {
            items.into_iter().for_each(|item| self.model(queue).give_back(item));
        }
        self.engine = Some(open(self.folder).await);
        self.check().await;
    }
}

async fn run_stream(folder: &Path, seed: u64) {
    let mut random = Random::new(seed);
    let mut engine = open(folder).await;
    let limits = ChannelLimits { max_messages: Some(KEPT), ..ChannelLimits::default() };
    engine.create(ChannelKind::Stream, &name("s"), limits).await.unwrap();
    let durable = || Subscribe { start: Start::First, durable: Some("d".to_owned()), ..Subscribe::default() };
    let mut subscription = engine.subscribe_stream(&name("s"), durable()).await.unwrap();
    // The sequences that were appended, acknowledged and are outstanding.
    let (mut last, mut next, mut outstanding, mut again) = (0, 1, Vec::<u64>::new(), Vec::<u64>::new());
    for _ in 0..STEPS {
        let first = (last + 1_u64).saturating_sub(KEPT).max(1);
        match random.below(10) {
            0..4 => {
                let count = 1 + random.below(4);
                let bodies = (0..count as u64).map(|n| {
                    (name("s"), content(format!("{} {}", last + n + 1, "x".repeat(random.below(300)))))
                });
                for appended in engine.append(bodies.collect()).await {
                    last += 1;
                    assert_eq!(appended.unwrap().sequence, last);
                }
            }
            4..7 => {
                again.retain(|sequence| *sequence >= first);
                next = next.max(first);
                let mut due: Vec<u64> = again.iter().copied().chain(next..=last).collect();
                due.truncate(1 + random.below(6));
                if due.is_empty() {
                    continue;
                }
                let got = subscription.receive(due.len()).await.unwrap();
                let sequences: Vec<u64> = got.iter().map(|message| message.sequence).collect();
                assert_eq!(sequences, due);
                for message in got {
                    let start = format!("{} ", message.sequence);
                    assert!(message.content.body.starts_with(start.as_bytes()));
                }
                again.retain(|sequence| !due.contains(sequence));
                next = next.max(due.last().unwrap() + 1);
                outstanding.extend(due);
            }
            7 | 8 => {
                for _ in 0..random.below(4) {
                    if outstanding.is_empty() {
                        break;
                    }
                    let sequence = outstanding.swap_remove(random.below(outstanding.len()));
                    if random.once_in(4) {
                        subscription.release(sequence, Duration::ZERO, true);
                        again.push(sequence);
                        again.sort_unstable();
                    } else {
                        subscription.ack(sequence).await.unwrap();
                    }
                }
            }
            _ if random.once_in(3) => {
                // The disk does not know of deliveries since the last acknowledgement.
                if let Some(sequence) = outstanding.pop() {
                    subscription.ack(sequence).await.unwrap();
                } else {
                    continue;
                }
                drop((subscription, engine));
                if random.once_in(2) {
                    lose_checkpoint(folder);
                }
                engine = open(folder).await;
                subscription = engine.subscribe_stream(&name("s"), durable()).await.unwrap();
                again.append(&mut outstanding);
                again.sort_unstable();
                let info = engine.info(ChannelKind::Stream, &name("s")).await.unwrap().unwrap();
                assert_eq!((info.last_sequence, info.messages), (last, (last + 1 - first)));
            }
            _ => {}
        }
    }
}
