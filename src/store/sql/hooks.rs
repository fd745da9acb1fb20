//! Hooks of the app's pool.

use std::future::Future;
use std::io;

use crate::util::caught::caught;

/// Runs queries. A panic in a hook of the pool, such as `before_acquire`, becomes an error.
pub(super) async fn unless_it_panics<T>(
    queries: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    match caught(queries).await {
        Some(result) => result,
        None => Err(io::Error::other("a hook of the database pool panicked").into()),
    }
}
