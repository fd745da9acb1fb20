//! Coordinators that share the partitions of a database in memory, on a paused clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tokio::time::sleep;

use super::super::membership::MembershipView;
use super::*;

const TIMEOUT: Duration = Duration::from_secs(15);
const PARTITIONS: usize = 16;

/// The tables of all instances.
#[derive(Default)]
struct Database {
    members: Mutex<BTreeMap<Uuid, Instant>>,
    /// Owner and fencing token.
    partitions: Mutex<[(Option<Uuid>, i64); PARTITIONS]>,
    wakes: Mutex<Vec<Arc<Notify>>>,
    queries: Mutex<Vec<&'static str>>,
}

/// The connection of one instance to the database.
struct Line {
    database: Arc<Database>,
    is_down: AtomicBool,
}

impl Line {
    fn notify(&self) {
        self.database.wakes.lock().unwrap().iter().for_each(|wake| wake.notify_one());
    }

    async fn query(&self, name: &'static str) -> Result<(), sqlx::Error> {
        sleep(Duration::from_millis(1)).await;
        if self.is_down.load(Ordering::Relaxed) {
            return Err(sqlx::Error::PoolTimedOut);
        }
        self.database.queries.lock().unwrap().push(name);
        Ok(())
    }
}

#[async_trait]
impl Membership for Line {
    async fn join(&self, id: Uuid, timeout: Duration) -> Result<(), sqlx::Error> {
        self.query("join").await?;
        self.database.members.lock().unwrap().insert(id, Instant::now() + timeout);
        self.notify();
        Ok(())
    }

    async fn heartbeat(&self, id: Uuid, timeout: Duration) -> Result<Option<MembershipView>, sqlx::Error> {
        self.query("heartbeat").await?;
        let mut members = self.database.members.lock().unwrap();
        let Some(until) = members.get_mut(&id) else { return Ok(None) };
        *until = Instant::now() + timeout;
        let others = members.iter().filter(|(other, _)| **other != id);
        let next_expiry = others.map(|(_, until)| until.saturating_duration_since(Instant::now())).min();
        let mut view = MembershipView {
            partitions: PARTITIONS,
            members: members.len(),
            next_expiry,
            ..MembershipView::default()
        };
        view.rank = members.keys().filter(|other| **other < id).count();
        for (partition, (owner, token)) in self.database.partitions.lock().unwrap().iter().enumerate() {
            match owner {
                Some(owner) if *owner == id => view.mine.push((partition as i16, *token)),
                Some(owner) if members.contains_key(owner) => {}
                _ => view.free.push((partition as i16, *token)),
            }
        }
        Ok(Some(view))
    }

    async fn expire(&self) -> Result<(), sqlx::Error> {
        self.query("expire").await?;
        self.database.members.lock().unwrap().retain(|_, until| *until > Instant::now());
        Ok(())
    }

    async fn acquire(&self, id: Uuid, free: &[(i16, i64)]) -> Result<Vec<(i16, i64)>, sqlx::Error> {
        self.query("acquire").await?;
        let mut partitions = self.database.partitions.lock().unwrap();
        let mut acquired = Vec::new();
        for (partition, token) in free {
            let entry = &mut partitions[*partition as usize];
            if entry.1 == *token {
                *entry = (Some(id), token + 1);
                acquired.push((*partition, token + 1));
            }
        }
        Ok(acquired)
    }

    async fn release(&self, id: Uuid, freed: &[i16]) -> Result<(), sqlx::Error> {
        self.query("release").await?;
        let mut partitions = self.database.partitions.lock().unwrap();
        for partition in freed {
            let entry = &mut partitions[*partition as usize];
            entry.0 = entry.0.filter(|owner| *owner != id);
        }
        self.notify();
        Ok(())
    }

    async fn leave(&self, id: Uuid) -> Result<(), sqlx::Error> {
        self.query("leave").await?;
        self.database.members.lock().unwrap().remove(&id);
        self.notify();
        Ok(())
    }

    fn listen(&self) -> Listener {
        let listener = Listener::start(|_, _| std::future::pending());
        self.database.wakes.lock().unwrap().push(Arc::clone(&listener.partitions));
        listener
    }
}

struct Instance {
    coordinator: Coordinator,
    assignment: watch::Receiver<Assignment>,
    line: Arc<Line>,
    /// Partitions with leased messages.
    out: Arc<Mutex<BTreeSet<i16>>>,
}

impl Instance {
    fn start(database: &Arc<Database>) -> Self {
        let line = Arc::new(Line { database: Arc::clone(database), is_down: AtomicBool::new(false) });
        let out = Arc::new(Mutex::new(BTreeSet::new()));
        let is_out = Arc::clone(&out);
        let is_idle: IsIdle = Arc::new(move |partition| !is_out.lock().unwrap().contains(&partition));
        let (sender, assignment) = watch::channel(Assignment::default());
        Self {
            coordinator: Coordinator::start(Arc::clone(&line) as _, TIMEOUT, sender, is_idle),
            assignment,
            line,
            out,
        }
    }

    /// The partitions whose messages it may send now.
    fn holds(&self) -> BTreeSet<i16> {
        let assignment = self.assignment.borrow();
        let is_valid = assignment.until.is_some_and(|until| until > Instant::now());
        assignment.partitions.iter().filter(|_| is_valid).map(|(partition, _)| *partition).collect()
    }

    fn set_down(&self, is_down: bool) {
        self.line.is_down.store(is_down, Ordering::Relaxed);
    }
}

fn sizes(instances: &[Instance]) -> Vec<usize> {
    let mut sizes: Vec<_> = instances.iter().map(|instance| instance.holds().len()).collect();
    sizes.sort_unstable();
    sizes
}

fn assert_no_partition_has_two_owners(instances: &[Instance]) {
    let mut held = BTreeSet::new();
    for partition in instances.iter().flat_map(Instance::holds) {
        assert!(held.insert(partition), "partition {partition} has two owners");
    }
}

#[tokio::test(start_paused = true)]
async fn partitions_are_shared_among_members_and_never_overlap() {
    let database = Arc::new(Database::default());
    let mut instances = Vec::new();
    for expected in [vec![16], vec![8, 8], vec![5, 5, 6], vec![4; 4], vec![3, 3, 3, 3, 4]] {
        instances.push(Instance::start(&database));
        for _ in 0..100 {
            sleep(Duration::from_millis(2)).await;
            assert_no_partition_has_two_owners(&instances);
        }
        assert_eq!(sizes(&instances), expected);
    }
    for expected in [vec![4; 4], vec![5, 5, 6], vec![8, 8], vec![16]] {
        instances.remove(0).coordinator.leave().await;
        sleep(Duration::from_millis(200)).await;
        assert_eq!(sizes(&instances), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn only_heartbeats_are_sent_while_no_member_joins_or_leaves() {
    let database = Arc::new(Database::default());
    let instances: Vec<_> = (0..4).map(|_| Instance::start(&database)).collect();
    sleep(Duration::from_secs(60)).await;
    database.queries.lock().unwrap().clear();
    sleep(Duration::from_secs(600)).await;
    let queries = database.queries.lock().unwrap().clone();
    assert!(queries.iter().all(|query| *query == "heartbeat"), "{queries:?}");
    assert!((470..=481).contains(&queries.len()), "{} in 10 minutes", queries.len());
    assert_eq!(sizes(&instances), [4; 4]);
}

#[tokio::test(start_paused = true)]
async fn a_partition_with_leased_messages_is_not_released() {
    let database = Arc::new(Database::default());
    let mut instances = vec![Instance::start(&database)];
    sleep(Duration::from_millis(100)).await;
    instances[0].out.lock().unwrap().extend(0..16);
    instances.push(Instance::start(&database));
    sleep(4 * TIMEOUT).await;
    assert_eq!(sizes(&instances), [0, 8]);
    instances[0].out.lock().unwrap().clear();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(sizes(&instances), [8, 8]);

    // Partitions that were to be released stay if the other instance leaves before.
    instances[0].out.lock().unwrap().extend(0..16);
    instances.push(Instance::start(&database));
    sleep(Duration::from_secs(1)).await;
    instances.pop().unwrap().coordinator.leave().await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(sizes(&instances), [8, 8]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_without_database_loses_its_partitions_in_time() {
    let database = Arc::new(Database::default());
    let instances = [Instance::start(&database), Instance::start(&database)];
    sleep(Duration::from_secs(60)).await;
    instances[0].set_down(true);
    let begun = Instant::now();
    while instances[1].holds().len() < 16 {
        assert_no_partition_has_two_owners(&instances);
        sleep(Duration::from_millis(1)).await;
    }
    let took = begun.elapsed();
    assert!(took > TIMEOUT * 2 / 3 && took < TIMEOUT + Duration::from_millis(50), "{took:?}");
    assert!(instances[0].assignment.borrow().partitions.is_empty());

    instances[0].set_down(false);
    sleep(TIMEOUT / 3 + Duration::from_millis(100)).await;
    assert_eq!(sizes(&instances), [8, 8]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_nobody_replaced_keeps_its_partitions() {
    let database = Arc::new(Database::default());
    let instance = Instance::start(&database);
    sleep(Duration::from_secs(1)).await;
    let before = instance.assignment.borrow().partitions.clone();
    instance.set_down(true);
    sleep(TIMEOUT).await;
    assert!(instance.holds().is_empty());
    instance.set_down(false);
    sleep(TIMEOUT).await;
    assert_eq!(instance.assignment.borrow().partitions, before);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_coordinator_leaves() {
    let database = Arc::new(Database::default());
    let instances = [Instance::start(&database), Instance::start(&database)];
    sleep(Duration::from_secs(1)).await;
    let [first, second] = instances;
    drop(first);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(second.holds().len(), 16);
    assert_eq!(database.members.lock().unwrap().len(), 1);
}
