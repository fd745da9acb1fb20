//! The connections that this crate uses beside the app's pool.

use sqlx::postgres::{PgPool, PgPoolOptions};

/// Returns a pool of two connections with the options of the app's pool: one listens, the other sends heartbeats and notifications.
/// So an app that has used up its pool does not lose its assignment.
pub(super) fn own_pool(pool: &PgPool) -> PgPool {
    let options: PgPoolOptions = pool.options().clone();
    options
        .min_connections(0)
        .max_connections(2)
        .idle_timeout(None)
        .max_lifetime(None)
        // A failed heartbeat is repeated, so no query is needed before each.
        .test_before_acquire(false)
        .connect_lazy_with((*pool.connect_options()).clone())
}
