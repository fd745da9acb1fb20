//! Keepers that share the buckets of a database that is none, on a paused clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tokio::time::sleep;

use super::super::leases::Sight;
use super::*;

const LEASE: Duration = Duration::from_secs(15);
const BUCKETS: usize = 16;

/// What all instances see.
#[derive(Default)]
struct Database {
    relays: Mutex<BTreeMap<Uuid, Instant>>,
    /// Owner and token.
    buckets: Mutex<[(Option<Uuid>, i64); BUCKETS]>,
    wakes: Mutex<Vec<Arc<Notify>>>,
    queries: Mutex<Vec<&'static str>>,
}

/// How one instance reaches it.
struct Line {
    database: Arc<Database>,
    is_down: AtomicBool,
}

impl Line {
    fn tell(&self) {
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
impl Leases for Line {
    async fn join(&self, id: Uuid, lease: Duration) -> Result<(), sqlx::Error> {
        self.query("join").await?;
        self.database.relays.lock().unwrap().insert(id, Instant::now() + lease);
        self.tell();
        Ok(())
    }

    async fn beat(&self, id: Uuid, lease: Duration) -> Result<Option<Sight>, sqlx::Error> {
        self.query("beat").await?;
        let mut relays = self.database.relays.lock().unwrap();
        let Some(until) = relays.get_mut(&id) else { return Ok(None) };
        *until = Instant::now() + lease;
        let others = relays.iter().filter(|(other, _)| **other != id);
        let next_end = others.map(|(_, until)| until.saturating_duration_since(Instant::now())).min();
        let mut sight = Sight { buckets: BUCKETS, instances: relays.len(), next_end, ..Sight::default() };
        sight.rank = relays.keys().filter(|other| **other < id).count();
        for (bucket, (owner, token)) in self.database.buckets.lock().unwrap().iter().enumerate() {
            match owner {
                Some(owner) if *owner == id => sight.mine.push((bucket as i16, *token)),
                Some(owner) if relays.contains_key(owner) => {}
                _ => sight.free.push((bucket as i16, *token)),
            }
        }
        Ok(Some(sight))
    }

    async fn strike_off(&self) -> Result<(), sqlx::Error> {
        self.query("strike off").await?;
        self.database.relays.lock().unwrap().retain(|_, until| *until > Instant::now());
        Ok(())
    }

    async fn take(&self, id: Uuid, free: &[(i16, i64)]) -> Result<Vec<(i16, i64)>, sqlx::Error> {
        self.query("take").await?;
        let mut buckets = self.database.buckets.lock().unwrap();
        let mut taken = Vec::new();
        for (bucket, token) in free {
            let entry = &mut buckets[*bucket as usize];
            if entry.1 == *token {
                *entry = (Some(id), token + 1);
                taken.push((*bucket, token + 1));
            }
        }
        Ok(taken)
    }

    async fn free(&self, id: Uuid, freed: &[i16]) -> Result<(), sqlx::Error> {
        self.query("free").await?;
        let mut buckets = self.database.buckets.lock().unwrap();
        for bucket in freed {
            let entry = &mut buckets[*bucket as usize];
            entry.0 = entry.0.filter(|owner| *owner != id);
        }
        self.tell();
        Ok(())
    }

    async fn leave(&self, id: Uuid) -> Result<(), sqlx::Error> {
        self.query("leave").await?;
        self.database.relays.lock().unwrap().remove(&id);
        self.tell();
        Ok(())
    }

    fn listen(&self) -> Listening {
        let listening = Listening::start(|_, _| std::future::pending());
        self.database.wakes.lock().unwrap().push(Arc::clone(&listening.buckets));
        listening
    }
}

struct Instance {
    keeper: Keeper,
    share: watch::Receiver<Share>,
    line: Arc<Line>,
    /// Buckets of which something is out.
    out: Arc<Mutex<BTreeSet<i16>>>,
}

impl Instance {
    fn start(database: &Arc<Database>) -> Self {
        let line = Arc::new(Line { database: Arc::clone(database), is_down: AtomicBool::new(false) });
        let out = Arc::new(Mutex::new(BTreeSet::new()));
        let is_out = Arc::clone(&out);
        let is_idle: IsIdle = Arc::new(move |bucket| !is_out.lock().unwrap().contains(&bucket));
        let (sender, share) = watch::channel(Share::default());
        Self { keeper: Keeper::start(Arc::clone(&line) as _, LEASE, sender, is_idle), share, line, out }
    }

    /// What it may send now.
    fn holds(&self) -> BTreeSet<i16> {
        let share = self.share.borrow();
        let is_valid = share.until.is_some_and(|until| until > Instant::now());
        share.buckets.iter().filter(|_| is_valid).map(|(bucket, _)| *bucket).collect()
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

fn assert_no_bucket_has_two_holders(instances: &[Instance]) {
    let mut held = BTreeSet::new();
    for bucket in instances.iter().flat_map(Instance::holds) {
        assert!(held.insert(bucket), "{bucket} is held twice");
    }
}

#[tokio::test(start_paused = true)]
async fn the_parts_follow_who_is_there_and_never_overlap() {
    let database = Arc::new(Database::default());
    let mut instances = Vec::new();
    for expected in [vec![16], vec![8, 8], vec![5, 5, 6], vec![4; 4], vec![3, 3, 3, 3, 4]] {
        instances.push(Instance::start(&database));
        for _ in 0..100 {
            sleep(Duration::from_millis(2)).await;
            assert_no_bucket_has_two_holders(&instances);
        }
        assert_eq!(sizes(&instances), expected);
    }
    for expected in [vec![4; 4], vec![5, 5, 6], vec![8, 8], vec![16]] {
        instances.remove(0).keeper.leave().await;
        sleep(Duration::from_millis(200)).await;
        assert_eq!(sizes(&instances), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_steady_state_there_are_heartbeats_and_nothing_else() {
    let database = Arc::new(Database::default());
    let instances: Vec<_> = (0..4).map(|_| Instance::start(&database)).collect();
    sleep(Duration::from_secs(60)).await;
    database.queries.lock().unwrap().clear();
    sleep(Duration::from_secs(600)).await;
    let queries = database.queries.lock().unwrap().clone();
    assert!(queries.iter().all(|query| *query == "beat"), "{queries:?}");
    assert!((470..=481).contains(&queries.len()), "{} in 10 minutes", queries.len());
    assert_eq!(sizes(&instances), [4; 4]);
}

#[tokio::test(start_paused = true)]
async fn a_bucket_of_which_something_is_out_is_not_given_up() {
    let database = Arc::new(Database::default());
    let mut instances = vec![Instance::start(&database)];
    sleep(Duration::from_millis(100)).await;
    instances[0].out.lock().unwrap().extend(0..16);
    instances.push(Instance::start(&database));
    sleep(4 * LEASE).await;
    assert_eq!(sizes(&instances), [0, 8]);
    instances[0].out.lock().unwrap().clear();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(sizes(&instances), [8, 8]);

    // What was to be given up stays when the other is gone before.
    instances[0].out.lock().unwrap().extend(0..16);
    instances.push(Instance::start(&database));
    sleep(Duration::from_secs(1)).await;
    instances.pop().unwrap().keeper.leave().await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(sizes(&instances), [8, 8]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_without_its_database_holds_nothing_before_another_takes_over() {
    let database = Arc::new(Database::default());
    let instances = [Instance::start(&database), Instance::start(&database)];
    sleep(Duration::from_secs(60)).await;
    instances[0].set_down(true);
    let begun = Instant::now();
    while instances[1].holds().len() < 16 {
        assert_no_bucket_has_two_holders(&instances);
        sleep(Duration::from_millis(1)).await;
    }
    let took = begun.elapsed();
    assert!(took > LEASE * 2 / 3 && took < LEASE + Duration::from_millis(50), "{took:?}");
    assert!(instances[0].share.borrow().buckets.is_empty());

    instances[0].set_down(false);
    sleep(LEASE / 3 + Duration::from_millis(100)).await;
    assert_eq!(sizes(&instances), [8, 8]);
}

#[tokio::test(start_paused = true)]
async fn one_that_nobody_missed_goes_on_with_what_it_held() {
    let database = Arc::new(Database::default());
    let instance = Instance::start(&database);
    sleep(Duration::from_secs(1)).await;
    let before = instance.share.borrow().buckets.clone();
    instance.set_down(true);
    sleep(LEASE).await;
    assert!(instance.holds().is_empty());
    instance.set_down(false);
    sleep(LEASE).await;
    assert_eq!(instance.share.borrow().buckets, before);
}

#[tokio::test(start_paused = true)]
async fn dropped_it_leaves_too() {
    let database = Arc::new(Database::default());
    let instances = [Instance::start(&database), Instance::start(&database)];
    sleep(Duration::from_secs(1)).await;
    let [first, second] = instances;
    drop(first);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(second.holds().len(), 16);
    assert_eq!(database.relays.lock().unwrap().len(), 1);
}
