//! How the instances of an app share the buckets of a database.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::listening::Listening;

/// The statements with which a [`Keeper`](super::Keeper) keeps a share.
///
/// A bucket belongs to its owner as long as that is entered. An instance that was struck off never comes back under its
/// id; so what is free stays free until its token changes. Every time is the database's own.
#[async_trait]
pub(crate) trait Leases: Send + Sync + 'static {
    /// Enters an instance, for as long as `lease`, and makes the others look around.
    async fn join(&self, id: Uuid, lease: Duration) -> Result<(), sqlx::Error>;

    /// Keeps it entered for as long as `lease` from now, and looks around; none when it has been struck off.
    async fn beat(&self, id: Uuid, lease: Duration) -> Result<Option<Sight>, sqlx::Error>;

    /// Strikes off the instances whose time has run out.
    async fn strike_off(&self) -> Result<(), sqlx::Error>;

    /// Takes those of these free buckets that still have this token, and gives them with their new one.
    async fn take(&self, id: Uuid, free: &[(i16, i64)]) -> Result<Vec<(i16, i64)>, sqlx::Error>;

    /// Frees some of its buckets, and makes the others look around.
    async fn free(&self, id: Uuid, buckets: &[i16]) -> Result<(), sqlx::Error>;

    /// Strikes off itself, frees its buckets, and makes the others look around.
    async fn leave(&self, id: Uuid) -> Result<(), sqlx::Error>;

    /// Begins to hear what the others do.
    fn listen(&self) -> Listening;
}

/// What an instance sees of all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sight {
    /// Its own buckets, with their tokens.
    pub(crate) mine: Vec<(i16, i64)>,
    /// Those of nobody.
    pub(crate) free: Vec<(i16, i64)>,
    /// How many buckets there are.
    pub(crate) buckets: usize,
    /// How many instances are entered.
    pub(crate) instances: usize,
    /// How many of them come before it.
    pub(crate) rank: usize,
    /// When the time of the first of the others runs out; zero when it has.
    pub(crate) next_end: Option<Duration>,
}

/// A bucket with its token, whether it is its own, whether it is free; and how many instances are entered, its rank, and the
/// milliseconds until the time of the first of the others runs out.
pub(crate) type SightRow = (i16, i64, bool, bool, i64, i64, Option<i64>);

impl Sight {
    /// From a row for each bucket; none when there is none.
    pub(crate) fn from_rows(rows: Vec<SightRow>) -> Option<Self> {
        let mut sight = Self { buckets: rows.len(), ..Self::default() };
        for (bucket, token, mine, free, instances, rank, next_end) in rows {
            (sight.instances, sight.rank) = (instances as usize, rank as usize);
            sight.next_end = next_end.map(|end| Duration::from_millis(end.max(0) as u64));
            if mine {
                sight.mine.push((bucket, token));
            } else if free {
                sight.free.push((bucket, token));
            }
        }
        (sight.buckets > 0).then_some(sight)
    }

    /// How many buckets are its fair share: those of all instances add up to all buckets.
    pub(crate) fn quota(&self) -> usize {
        let instances = self.instances.max(1);
        self.buckets / instances + usize::from(self.rank < self.buckets % instances)
    }

    /// So many free buckets, other ones for each instance.
    pub(crate) fn choose(&self, count: usize) -> Vec<(i16, i64)> {
        let from = (self.rank * self.free.len()).checked_div(self.instances).unwrap_or_default();
        self.free.iter().cycle().skip(from).take(count.min(self.free.len())).copied().collect()
    }
}
