//! The connection of this crate's own.

use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};

/// One connection as those of the app's pool, but beside them: an app whose pool is used up must not lose its lease.
///
/// A file without a name that others could open is in one connection only: then it is the app's pool.
pub(super) fn own_pool(pool: &SqlitePool) -> SqlitePool {
    let connect = pool.connect_options();
    if matches!(connect.get_filename().to_str(), Some("" | ":memory:")) {
        return pool.clone();
    }
    let options: SqlitePoolOptions = pool.options().clone();
    options
        .min_connections(0)
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_lazy_with((*connect).clone())
}
