//! Whether the tables fit this crate.

/// Why the tables in the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WrongTables {
    #[error(
        "the tables of the outbox are missing in {place}: run `tower-outbox migrate`, or call `migrate` before `open`"
    )]
    Missing { place: String },
    #[error(
        "the tables of the outbox in {place} are of version {found}, and this app needs {needed}: run `tower-outbox migrate`, or call `migrate` before `open`"
    )]
    Older { place: String, found: i32, needed: i32 },
    #[error(
        "the tables of the outbox in {place} are of version {found}, and this app knows {needed}: \
         build it with the tower-outbox that migrated them, or a later one"
    )]
    Newer { place: String, found: i32, needed: i32 },
    #[error(
        "the schema {name:?} cannot be used: write OUTBOX.SCHEMA with letters, digits and underscores, 40 at most, none of the digits \
         first, and not beginning as the names of the database's own do (pg_, sqlite)"
    )]
    BadSchema { name: String },
    #[error(
        "WHEN_FULL = \"drop_oldest\" cannot be used with a store in a database (DELIVERY = \"transactional\"): messages that were \
         committed are not dropped. Set OUTBOX.WHEN_FULL = \"refuse\", or DELIVERY = \"durable\""
    )]
    DropsOldest,
}

/// Says what is wrong with tables of the version `found`, if they are there, for an app that needs `needed`.
pub(crate) fn check_version(found: Option<i32>, needed: usize, place: String) -> Result<(), WrongTables> {
    let needed = needed as i32;
    match found {
        None | Some(0) => Err(WrongTables::Missing { place }),
        Some(found) if found < needed => Err(WrongTables::Older { place, found, needed }),
        Some(found) if found > needed => Err(WrongTables::Newer { place, found, needed }),
        Some(_) => Ok(()),
    }
}
