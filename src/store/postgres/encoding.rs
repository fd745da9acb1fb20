//! The encoding of the database.

use sqlx::postgres::PgPool;

use crate::util::error::BoxError;

/// A message or a reason with another character could not be stored, and would hold up how others batch.
#[derive(Debug, thiserror::Error)]
#[error(
    "the database is in the encoding {0}, which cannot hold every text: name another database in OUTBOX.DATABASE_URL (or in the pool of the \
     app), made by CREATE DATABASE .. ENCODING 'UTF8' TEMPLATE template0"
)]
pub(super) struct Encoding(String);

/// Fails if the encoding cannot hold every text. `SQL_ASCII` stores texts as they are.
pub(super) async fn check(pool: &PgPool) -> Result<(), BoxError> {
    let encoding: String = sqlx::query_scalar("SHOW server_encoding").fetch_one(pool).await?;
    match encoding.as_str() {
        "UTF8" | "SQL_ASCII" => Ok(()),
        _ => Err(Encoding(encoding).into()),
    }
}
