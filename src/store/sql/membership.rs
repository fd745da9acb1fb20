//! How the instances of an app share the partitions of a database.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::listener::Listener;

/// The statements by which a [`Coordinator`](super::Coordinator) keeps the assignment of an instance.
///
/// A partition belongs to its owner while that is a member. A member that has expired never comes back under its id, so a free
/// partition stays free until its fencing token changes. Every time is the database's own.
#[async_trait]
pub(crate) trait Membership: Send + Sync + 'static {
    /// Adds a member for as long as `timeout`, and notifies the others.
    async fn join(&self, id: Uuid, timeout: Duration) -> Result<(), sqlx::Error>;

    /// Keeps a member for as long as `timeout` from now, and returns what it sees; `None` if it has expired.
    async fn heartbeat(&self, id: Uuid, timeout: Duration) -> Result<Option<MembershipView>, sqlx::Error>;

    /// Removes the members that have expired.
    async fn expire(&self) -> Result<(), sqlx::Error>;

    /// Acquires those of these free partitions that still have this fencing token. Returns them with their new one.
    async fn acquire(&self, id: Uuid, free: &[(i16, i64)]) -> Result<Vec<(i16, i64)>, sqlx::Error>;

    /// Releases some of the partitions of a member, and notifies the others.
    async fn release(&self, id: Uuid, partitions: &[i16]) -> Result<(), sqlx::Error>;

    /// Removes a member, releases its partitions, and notifies the others.
    async fn leave(&self, id: Uuid) -> Result<(), sqlx::Error>;

    /// Starts to listen to the other members.
    fn listen(&self) -> Listener;
}

/// The members and partitions, as one member sees them.
#[derive(Clone, Debug, Default)]
pub(crate) struct MembershipView {
    /// Its own partitions, with their fencing tokens.
    pub(crate) mine: Vec<(i16, i64)>,
    /// The partitions without an owner, with their fencing tokens.
    pub(crate) free: Vec<(i16, i64)>,
    /// How many partitions there are.
    pub(crate) partitions: usize,
    /// How many members there are.
    pub(crate) members: usize,
    /// How many members come before it.
    pub(crate) rank: usize,
    /// When the next of the other members expires; zero if one has.
    pub(crate) next_expiry: Option<Duration>,
}

/// A partition with its fencing token, whether the member owns it, and whether it is free; then the number of members, the rank of
/// the member, and the milliseconds until the next of the others expires.
pub(crate) type MembershipRow = (i16, i64, bool, bool, i64, i64, Option<i64>);

impl MembershipView {
    /// From a row for each partition; `None` if there is no row.
    pub(crate) fn from_rows(rows: Vec<MembershipRow>) -> Option<Self> {
        let mut view = Self { partitions: rows.len(), ..Self::default() };
        for (partition, fencing_token, mine, free, members, rank, next_expiry) in rows {
            (view.members, view.rank) = (members as usize, rank as usize);
            view.next_expiry = next_expiry.map(|expiry| Duration::from_millis(expiry.max(0) as u64));
            if mine {
                view.mine.push((partition, fencing_token));
            } else if free {
                view.free.push((partition, fencing_token));
            }
        }
        (view.partitions > 0).then_some(view)
    }

    /// Returns how many partitions the member should own. The quotas of all members add up to all partitions.
    pub(crate) fn quota(&self) -> usize {
        let members = self.members.max(1);
        self.partitions / members + usize::from(self.rank < self.partitions % members)
    }

    /// Returns so many free partitions. Members of different rank begin at different ones.
    pub(crate) fn choose(&self, count: usize) -> Vec<(i16, i64)> {
        let from = (self.rank * self.free.len()).checked_div(self.members).unwrap_or_default();
        self.free.iter().cycle().skip(from).take(count.min(self.free.len())).copied().collect()
    }
}
