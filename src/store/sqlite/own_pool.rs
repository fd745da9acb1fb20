//! The connection that this crate uses beside the app's pool.

use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};

/// Returns a pool of one connection with the options of the app's pool, so that an app that has used up its pool does not lose its
/// assignment.
///
/// A database in memory exists in one connection only, so the app's pool is returned for it.
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
