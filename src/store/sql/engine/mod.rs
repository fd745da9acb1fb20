//! The engine of a store in a database.

mod inbox;
mod leasing;
mod operating;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use sqlx::Database;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::assignment::Assignment;
use super::coordinator::Coordinator;
use super::details::size;
use super::engine_shared::EngineShared;
use super::hooks::unless_it_panics;
use super::membership::Membership;
use super::pending_insert::PendingInsert;
use super::placed::Placed;
use super::row::{Content, Row};
use super::schedule::{Settling, SqlSchedule, delay_left};
use super::settings::SqlStoreSettings;
use super::tables::Tables;
use crate::message::{Message, Settlement};
use crate::store::admission::Admission;
use crate::store::{Lease, StoreError, Unstored};
use crate::util::deadline::FOR_EVER;
use crate::util::sync::lock;

/// Returns the error to all callers whose settlements were written together.
type Reply = oneshot::Sender<Option<Arc<sqlx::Error>>>;

/// How long the settlements of a few messages wait for others: a statement for each would cost the database more than storing the
/// message did. After a crash these messages are sent again.
const LINGER: Duration = Duration::from_millis(5);

/// So many messages do not wait.
const MANY: usize = 128;

/// A store over the tables of a database.
///
/// Leases exist in memory only. What is written runs to its end in tasks of the engine, even if its caller is dropped.
pub(crate) struct Engine<T> {
    tables: T,
    shared: Arc<EngineShared>,
    /// Held while messages are read.
    reading: tokio::sync::Mutex<()>,
    /// Settlements waiting to be written, with their callers' reply channels.
    settling: Mutex<Vec<(Settling, Reply)>>,
    /// Held while settlements are written.
    writing: tokio::sync::Mutex<()>,
    /// Ends the wait for more settlements.
    flush_now: Notify,
    tasks: TaskTracker,
    membership: Arc<dyn Membership>,
    /// After so long without a heartbeat other instances take over.
    member_timeout: Duration,
    assignment: watch::Sender<Assignment>,
    /// Started by the first lease, so a process that only stores is no member.
    coordinator: OnceLock<Coordinator>,
    inbox_retention: Duration,
    /// When old ids of the inbox were deleted last.
    forgotten: Mutex<Option<Instant>>,
}

impl<T> fmt::Debug for Engine<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("shared", &self.shared).finish_non_exhaustive()
    }
}

/// The engine of a store, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Handle<T: Tables>(Arc<Engine<T>>);

impl<T: Tables> Deref for Handle<T> {
    type Target = Arc<Engine<T>>;

    fn deref(&self) -> &Arc<Engine<T>> {
        &self.0
    }
}

impl<T: Tables> Drop for Handle<T> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl<T: Tables> Engine<T> {
    /// Starts an engine, with the number of messages that are stored already.
    pub(crate) async fn open(
        tables: T,
        membership: Arc<dyn Membership>,
        other_instances: Arc<Notify>,
        settings: &SqlStoreSettings,
    ) -> Result<Handle<T>, StoreError> {
        let assignment = watch::Sender::new(Assignment::default());
        let mut schedule = SqlSchedule::new(settings.limits.clone(), assignment.subscribe());
        schedule.capacity.counted(&tables.counts().await.map_err(StoreError::unavailable)?);
        let engine = Arc::new(Self {
            tables,
            shared: Arc::new(EngineShared::new(schedule, other_instances)),
            reading: tokio::sync::Mutex::default(),
            settling: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            flush_now: Notify::new(),
            tasks: TaskTracker::new(),
            membership,
            member_timeout: settings.lease,
            assignment,
            coordinator: OnceLock::new(),
            inbox_retention: settings.inbox_retention.min(FOR_EVER),
            forgotten: Mutex::default(),
        });
        Ok(Handle(engine))
    }

    pub(crate) fn tables(&self) -> &T {
        &self.tables
    }

    /// Reads the tables, as another process may have stored messages.
    pub(crate) fn wake(&self) {
        let mut schedule = self.shared.lock();
        schedule.wake();
        schedule.look_for_due(Instant::now());
        drop(schedule);
        self.shared.changed.notify_waiters();
    }

    pub(crate) fn admission(&self) -> Admission {
        self.shared.lock().capacity.held.admission().clone()
    }

    /// Runs work that must not stop halfway in a task.
    async fn run_to_end<R: Send + 'static>(
        &self,
        work: impl Future<Output = R> + Send + 'static,
    ) -> Result<R, StoreError> {
        if self.shared.lock().closed {
            return Err(StoreError::Closed);
        }
        self.tasks.spawn(work).await.map_err(StoreError::unavailable)
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if self.shared.lock().closed { Err(StoreError::Closed) } else { Ok(()) }
    }

    // --- storing

    /// Inserts messages in the transaction of a connection.
    pub(crate) async fn insert(
        &self,
        connection: &mut <T::Database as Database>::Connection,
        messages: &[Message],
        capacity: (u64, u64),
    ) -> Result<PendingInsert, sqlx::Error> {
        let own = self.shared.lock().own();
        // If it fails, the guard returns the capacity.
        let mut pending = PendingInsert::new(Arc::clone(&self.shared), Vec::new(), capacity);
        let inserted = self.tables.insert(connection, messages, &own).await?;
        let mut schedule = self.shared.lock();
        let now = SystemTime::now();
        let placed = inserted.into_iter().zip(messages).map(|((position, partition), message)| {
            let wait = delay_left(message, now);
            let is_direct = message.key().is_none() && wait.is_zero();
            let reserved = is_direct && schedule.reserve(position, partition);
            Placed { position, partition, size: size(message), wait, reserved }
        });
        let placed = placed.collect();
        drop(schedule);
        pending.set_placed(placed);
        Ok(pending)
    }

    pub(crate) async fn append(self: &Arc<Self>, batch: Vec<Message>) -> Result<(), Unstored> {
        if batch.is_empty() {
            return Ok(());
        }
        if let Err(closed) = self.check_open() {
            return Err(Unstored::new(closed, batch));
        }
        let own = self.admission().own();
        // It has the messages even if the task panics.
        let batch = Arc::new(tokio::sync::Mutex::new(batch));
        let (engine, lent) = (Arc::clone(self), Arc::clone(&batch));
        let task = self.tasks.spawn(async move {
            let mut batch = lent.lock().await;
            let messages = batch.len() as u64;
            let bytes = batch.iter().map(size).sum();
            {
                let capacity = &mut engine.shared.lock().capacity.held;
                if capacity.reserve(messages, bytes, own).is_err() {
                    return Err(capacity.full(messages, bytes));
                }
            }
            let pending = engine.store(&mut batch, (messages, bytes)).await?;
            pending.committed(std::mem::take(&mut *batch));
            Ok(())
        });
        let stored = task.await.unwrap_or_else(|error| Err(StoreError::unavailable(error)));
        match stored {
            Ok(()) => Ok(()),
            Err(error) => Err(Unstored::new(error, std::mem::take(&mut *batch.lock().await))),
        }
    }

    /// Stores a batch for which capacity is reserved.
    async fn store(
        self: &Arc<Self>,
        batch: &mut Vec<Message>,
        capacity: (u64, u64),
    ) -> Result<PendingInsert, StoreError> {
        // If it fails before the INSERT, the guard returns the capacity.
        let mut guard = PendingInsert::new(Arc::clone(&self.shared), Vec::new(), capacity);
        let (_permit, mut transaction) = self.tables.begin().await.map_err(StoreError::unavailable)?;
        self.check_open()?;
        self.retain_new(&mut transaction, batch).await.map_err(StoreError::unavailable)?;
        let pending = self.insert(&mut transaction, batch, guard.take_capacity()).await;
        let pending = pending.map_err(StoreError::unavailable)?;
        transaction.commit().await.map_err(StoreError::unavailable)?;
        Ok(pending)
    }

    // --- settling

    /// Settlements that come while others are being written are written together.
    pub(crate) async fn settle(self: &Arc<Self>, settled: &[(Lease, Settlement)]) -> Result<(), StoreError> {
        let settling = self.shared.lock().begin_settle(settled)?;
        let (reply, answer) = oneshot::channel();
        lock(&self.settling).push((settling, reply));
        if !self.may_linger() {
            self.flush_now.notify_one();
        }
        let engine = Arc::clone(self);
        self.tasks.spawn(async move { engine.settle_all().await });
        match answer.await {
            Ok(None) => Ok(()),
            Ok(Some(error)) => Err(StoreError::unavailable(error)),
            Err(error) => Err(StoreError::unavailable(error)),
        }
    }

    /// Whether the waiting settlements can wait for more.
    fn may_linger(&self) -> bool {
        let settling = lock(&self.settling);
        let messages: usize = settling.iter().map(|(settling, _)| settling.len()).sum();
        (1..MANY).contains(&messages) && settling.iter().all(|(settling, _)| settling.may_wait())
    }

    /// Writes the waiting settlements, unless another task has done it.
    ///
    /// One task at a time: two would lock the same rows of `partitions`, and Postgres keeps such a list of transactions on disk
    /// (multixact), for which it must vacuum every table now and then.
    async fn settle_all(&self) {
        let _writing = self.writing.lock().await;
        if self.may_linger() {
            let _ = timeout(LINGER, self.flush_now.notified()).await;
        }
        let mut all = Settling::default();
        let mut replies = Vec::new();
        for (settling, reply) in std::mem::take(&mut *lock(&self.settling)) {
            all.merge(settling);
            replies.push(reply);
        }
        if replies.is_empty() {
            return;
        }
        let removed = match all.batch.is_empty() {
            true => Ok((0, 0)),
            false => unless_it_panics(self.tables.settle(&all.held, &all.batch)).await,
        };
        let error = {
            let mut schedule = self.shared.lock();
            match removed {
                Ok(removed) => {
                    schedule.end_settle(all, removed);
                    None
                }
                Err(error) => {
                    schedule.not_settled(&all);
                    Some(Arc::new(error))
                }
            }
        };
        self.shared.changed.notify_waiters();
        for reply in replies {
            let _ = reply.send(error.clone());
        }
    }

    /// Makes all later calls fail.
    fn end(&self) {
        {
            let mut schedule = self.shared.lock();
            schedule.closed = true;
            schedule.capacity.held.close();
        }
        self.shared.changed.notify_waiters();
    }

    pub(crate) async fn close(&self) {
        self.end();
        self.tasks.close();
        self.tasks.wait().await;
        if let Some(coordinator) = self.coordinator.get() {
            coordinator.leave().await;
        }
    }

    /// Returns how many positions are in memory.
    #[cfg(test)]
    pub(crate) fn known(&self) -> usize {
        self.shared.lock().known()
    }

    /// Returns the coordinator, started by the first call.
    fn coordinator(&self) -> &Coordinator {
        self.coordinator.get_or_init(|| {
            let shared = Arc::clone(&self.shared);
            let is_idle = Arc::new(move |partition| shared.lock().is_idle(partition));
            Coordinator::start(
                Arc::clone(&self.membership),
                self.member_timeout,
                self.assignment.clone(),
                is_idle,
            )
        })
    }
}

/// Splits rows into those that can be read, and the faults of the others.
fn split_damaged(rows: Vec<Row>) -> (Vec<Row>, BTreeMap<u64, String>) {
    let mut damaged = BTreeMap::new();
    let rows = rows
        .into_iter()
        .filter(|row| match &row.content {
            Content::Damaged(error) => {
                damaged.insert(row.position, error.to_string());
                false
            }
            _ => true,
        })
        .collect();
    (rows, damaged)
}
