//! The connections of this crate's own.

use sqlx::postgres::{PgPool, PgPoolOptions};

/// Two connections as those of the app's pool, but beside them: one listens, the other says that this instance lives and
/// tells others what is new. An app whose pool is used up must not lose its leases.
pub(super) fn own_pool(pool: &PgPool) -> PgPool {
    let options: PgPoolOptions = pool.options().clone();
    options
        .min_connections(0)
        .max_connections(2)
        .idle_timeout(None)
        .max_lifetime(None)
        // A heartbeat that fails is made again: no query before each.
        .test_before_acquire(false)
        .connect_lazy_with((*pool.connect_options()).clone())
}
