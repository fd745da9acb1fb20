//! The version of the tables, and how they are brought up to date.

use sqlx::{AssertSqlSafe, Pool, SqlSafeStr, SqlStr};

use super::dialect::Dialect;
use crate::util::error::BoxError;

/// Why the tables in a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WrongTables {
    #[error(
        "the tables of the outbox are missing in {place}: run `tower-outbox migrate`, or call `migrate` before `open`"
    )]
    Missing { place: String },
    #[error(
        "the tables of the outbox in {place} have version {found}, and this app needs {needed}: run `tower-outbox migrate`, or call `migrate` before `open`"
    )]
    Older { place: String, found: i32, needed: i32 },
    #[error(
        "the tables of the outbox in {place} have version {found}, and this app knows {needed}: \
         build it with the tower-outbox that migrated them, or a later one"
    )]
    Newer { place: String, found: i32, needed: i32 },
}

/// Brings the tables to the last version, in one transaction. Any number of processes may do it at once.
///
/// Tables that have the last version are not touched, so no right to create anything is needed then.
pub(super) async fn migrate<DB: Dialect>(pool: &Pool<DB>, schema: &str) -> Result<u32, BoxError> {
    let newest = DB::MIGRATIONS.len();
    DB::check(pool).await?;
    if check_version::<DB>(pool, schema).await.is_ok() {
        return Ok(newest as u32);
    }
    let mut transaction = DB::begin_migration(pool, schema).await?;
    DB::execute(&mut transaction, statement::<DB>(DB::PREPARE, schema)).await?;
    let version = DB::version(&mut transaction, select_version::<DB>(schema)).await?.unwrap_or(0);
    if version as usize > newest {
        compare::<DB>(Some(version), schema)?;
    }
    for migration in DB::MIGRATIONS.iter().skip(version as usize) {
        DB::execute(&mut transaction, statement::<DB>(migration, schema)).await?;
    }
    let update = format!("UPDATE {} SET version = {newest}", DB::VERSION_TABLE);
    DB::execute(&mut transaction, statement::<DB>(&update, schema)).await?;
    transaction.commit().await?;
    Ok(newest as u32)
}

/// Checks that the database can be used, and that the tables have the last version.
pub(super) async fn check<DB: Dialect>(pool: &Pool<DB>, schema: &str) -> Result<(), BoxError> {
    DB::check(pool).await?;
    check_version::<DB>(pool, schema).await
}

async fn check_version<DB: Dialect>(pool: &Pool<DB>, schema: &str) -> Result<(), BoxError> {
    let mut connection = pool.acquire().await?;
    let version = DB::version(&mut connection, select_version::<DB>(schema)).await?;
    Ok(compare::<DB>(version, schema)?)
}

fn compare<DB: Dialect>(found: Option<i32>, schema: &str) -> Result<(), WrongTables> {
    let (place, needed) = (DB::describe(schema), DB::MIGRATIONS.len() as i32);
    match found {
        None | Some(0) => Err(WrongTables::Missing { place }),
        Some(found) if found < needed => Err(WrongTables::Older { place, found, needed }),
        Some(found) if found > needed => Err(WrongTables::Newer { place, found, needed }),
        Some(_) => Ok(()),
    }
}

fn select_version<DB: Dialect>(schema: &str) -> SqlStr {
    statement::<DB>(&format!("SELECT version FROM {}", DB::VERSION_TABLE), schema)
}

fn statement<DB: Dialect>(text: &str, schema: &str) -> SqlStr {
    AssertSqlSafe(text.replace("{schema}", &DB::quoted(schema))).into_sql_str()
}
