//! A store in a database, whichever it is.

mod lease;
mod operating;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use sqlx::Database;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::details::size;
use super::hooks::unless_it_panics;
use super::inserted::{Inserted, Place};
use super::keeper::Keeper;
use super::leases::Leases;
use super::row::{Content, Row};
use super::settings::SqlStoreSettings;
use super::share::Share;
use super::shared::Shared;
use super::state::{Settling, State, delay_left};
use super::tables::Tables;
use crate::message::Message;
use crate::message::Settlement;
use crate::messenger::Admission;
use crate::store::{Lease, StoreError, Unstored};

/// The error is of several at once.
type Reply = oneshot::Sender<Option<Arc<sqlx::Error>>>;

/// How long the confirms of a few messages wait for those of others: a statement for each would cost the database more
/// than storing them did. A crash may send those once more.
const LINGER: Duration = Duration::from_millis(5);

/// So many wait no longer.
const MANY: usize = 128;

/// A store over the tables of a database.
///
/// What is leased is kept in memory alone; what became of it is said to the database in tasks of their own, which end
/// whatever becomes of their callers.
pub(crate) struct Engine<T> {
    tables: T,
    shared: Arc<Shared>,
    /// One reader at a time.
    reading: tokio::sync::Mutex<()>,
    /// What is to be said of leased messages, and who waits for that; and who says it.
    settling: Mutex<Vec<(Settling, Reply)>>,
    settled: tokio::sync::Mutex<()>,
    /// What is to be said waits for no more.
    hurry: Notify,
    tasks: TaskTracker,
    leases: Arc<dyn Leases>,
    lease: Duration,
    share: watch::Sender<Share>,
    /// From the first lease on: a process that only stores holds nothing.
    keeper: OnceLock<Keeper>,
}

impl<T> fmt::Debug for Engine<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("shared", &self.shared).finish_non_exhaustive()
    }
}

/// The engine of a store; dropped, it ends.
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
    /// Opens it: counts what is there.
    pub(crate) async fn open(
        tables: T,
        leases: Arc<dyn Leases>,
        elsewhere: Arc<Notify>,
        settings: &SqlStoreSettings,
    ) -> Result<Handle<T>, StoreError> {
        let share = watch::Sender::new(Share::default());
        let mut state = State::new(settings.limits.clone(), share.subscribe());
        state.room.counted(&tables.counts().await.map_err(StoreError::unavailable)?);
        let engine = Arc::new(Self {
            tables,
            shared: Arc::new(Shared::new(state, elsewhere)),
            reading: tokio::sync::Mutex::default(),
            settling: Mutex::default(),
            settled: tokio::sync::Mutex::default(),
            hurry: Notify::new(),
            tasks: TaskTracker::new(),
            leases,
            lease: settings.lease,
            share,
            keeper: OnceLock::new(),
        });
        Ok(Handle(engine))
    }

    pub(crate) fn tables(&self) -> &T {
        &self.tables
    }

    /// Looks into the tables, as another process may have stored something.
    pub(crate) fn wake(&self) {
        let mut state = self.shared.lock();
        state.wake();
        state.look_for_due(tokio::time::Instant::now());
        drop(state);
        self.shared.changed.notify_waiters();
    }

    pub(crate) fn admission(&self) -> Admission {
        self.shared.lock().room.capacity.admission().clone()
    }

    /// Runs to its end what must not stop in the midst.
    async fn to_its_end<R: Send + 'static>(
        &self,
        work: impl Future<Output = R> + Send + 'static,
    ) -> Result<R, StoreError> {
        if self.shared.lock().closed {
            return Err(StoreError::Closed);
        }
        self.tasks.spawn(work).await.map_err(StoreError::unavailable)
    }

    fn open_or_closed(&self) -> Result<(), StoreError> {
        if self.shared.lock().closed { Err(StoreError::Closed) } else { Ok(()) }
    }

    // --- storing

    /// Stores messages in the transaction of a connection.
    pub(crate) async fn insert(
        &self,
        connection: &mut <T::Database as Database>::Connection,
        messages: &[Message],
        queued: (u64, u64),
    ) -> Result<Inserted, sqlx::Error> {
        let own = self.shared.lock().own();
        // If it fails, what was queued for it is given back.
        let mut inserted = Inserted::new(Arc::clone(&self.shared), Vec::new(), queued);
        let stored = self.tables.insert(connection, messages, &own).await?;
        let mut state = self.shared.lock();
        let now = std::time::SystemTime::now();
        let places = stored.into_iter().zip(messages).map(|((position, bucket), message)| {
            let wait = delay_left(message, now);
            let direct = message.key().is_none() && wait.is_zero();
            let reserved = direct && state.reserve(position, bucket);
            Place { position, bucket, size: size(message), wait, reserved }
        });
        let places = places.collect();
        drop(state);
        inserted.stands_at(places);
        Ok(inserted)
    }

    pub(crate) async fn append(self: &Arc<Self>, batch: Vec<Message>) -> Result<(), Unstored> {
        if batch.is_empty() {
            return Ok(());
        }
        if let Err(closed) = self.open_or_closed() {
            return Err(Unstored::new(closed, batch));
        }
        let own = self.admission().own();
        // Here they are also when the task panics.
        let batch = Arc::new(tokio::sync::Mutex::new(batch));
        let (engine, lent) = (Arc::clone(self), Arc::clone(&batch));
        let task = self.tasks.spawn(async move {
            let mut batch = lent.lock().await;
            let messages = batch.len() as u64;
            let bytes = batch.iter().map(size).sum();
            {
                let capacity = &mut engine.shared.lock().room.capacity;
                if capacity.reserve(messages, bytes, own).is_err() {
                    return Err(capacity.full(messages, bytes));
                }
            }
            let inserted = engine.store(&mut batch, (messages, bytes)).await?;
            inserted.committed(std::mem::take(&mut *batch));
            Ok(())
        });
        let stored = task.await.unwrap_or_else(|error| Err(StoreError::unavailable(error)));
        match stored {
            Ok(()) => Ok(()),
            Err(error) => Err(Unstored::new(error, std::mem::take(&mut *batch.lock().await))),
        }
    }

    /// Stores a batch for which capacity is reserved.
    async fn store(&self, batch: &mut Vec<Message>, queued: (u64, u64)) -> Result<Inserted, StoreError> {
        // If it fails before they are inserted, the room is given back.
        let mut guard = Inserted::new(Arc::clone(&self.shared), Vec::new(), queued);
        let (_turn, mut transaction) = self.tables.begin().await.map_err(StoreError::unavailable)?;
        self.open_or_closed()?;
        self.tables.retain_new(&mut transaction, batch).await.map_err(StoreError::unavailable)?;
        let inserted = self.insert(&mut transaction, batch, guard.take_queued()).await;
        let inserted = inserted.map_err(StoreError::unavailable)?;
        transaction.commit().await.map_err(StoreError::unavailable)?;
        Ok(inserted)
    }

    // --- settling

    /// Those that come while others are under way are said together.
    pub(crate) async fn settle(self: &Arc<Self>, settled: &[(Lease, Settlement)]) -> Result<(), StoreError> {
        let settling = self.shared.lock().begin_settle(settled)?;
        let (reply, answer) = oneshot::channel();
        lock(&self.settling).push((settling, reply));
        if !self.may_linger() {
            self.hurry.notify_one();
        }
        let engine = Arc::clone(self);
        self.tasks.spawn(async move { engine.settle_all().await });
        match answer.await {
            Ok(None) => Ok(()),
            Ok(Some(error)) => Err(StoreError::unavailable(error)),
            Err(error) => Err(StoreError::unavailable(error)),
        }
    }

    /// Whether what is to be said can wait for more.
    fn may_linger(&self) -> bool {
        let settling = lock(&self.settling);
        let messages: usize = settling.iter().map(|(settling, _)| settling.len()).sum();
        (1..MANY).contains(&messages) && settling.iter().all(|(settling, _)| settling.may_wait())
    }

    /// Settles what waits for it, unless another has done it.
    ///
    /// One at a time: rows of `buckets` that two lock at once would be locked by a list of transactions, which the database
    /// keeps on disk, and for whose sake it must look through every table now and then.
    async fn settle_all(&self) {
        let _one = self.settled.lock().await;
        if self.may_linger() {
            let _ = timeout(LINGER, self.hurry.notified()).await;
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
        let gone = match all.fared.is_empty() {
            true => Ok((0, 0)),
            false => unless_it_panics(self.tables.settle(&all.held, &all.fared)).await,
        };
        let error = {
            let mut state = self.shared.lock();
            match gone {
                Ok(gone) => {
                    state.end_settle(all, gone);
                    None
                }
                Err(error) => {
                    state.not_settled(&all);
                    Some(Arc::new(error))
                }
            }
        };
        self.shared.changed.notify_waiters();
        for reply in replies {
            let _ = reply.send(error.clone());
        }
    }

    /// Lets what has not begun fail from now on.
    fn end(&self) {
        {
            let mut state = self.shared.lock();
            state.closed = true;
            state.room.capacity.close();
        }
        self.shared.changed.notify_waiters();
    }

    pub(crate) async fn close(&self) {
        self.end();
        self.tasks.close();
        self.tasks.wait().await;
        if let Some(keeper) = self.keeper.get() {
            keeper.leave().await;
        }
    }

    /// How many positions are kept in mind.
    #[cfg(test)]
    pub(crate) fn known(&self) -> usize {
        self.shared.lock().known()
    }

    /// What keeps the share of this process, begun when it is first asked for.
    fn keeper(&self) -> &Keeper {
        self.keeper.get_or_init(|| {
            let shared = Arc::clone(&self.shared);
            let is_idle = Arc::new(move |bucket| shared.lock().is_idle(bucket));
            Keeper::start(Arc::clone(&self.leases), self.lease, self.share.clone(), is_idle)
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rows by what they are: to be sent, or damaged.
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
