//! What the pool of the app calls.

use std::future::Future;
use std::io;

use crate::util::caught::caught;

/// Runs queries; that a hook of the pool panics, such as `before_acquire`, is an error as any other.
pub(super) async fn unless_it_panics<T>(
    queries: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    match caught(queries).await {
        Some(result) => result,
        None => Err(io::Error::other("a hook of the database pool panicked").into()),
    }
}
