//! A store in a folder of the local disk, over an append-only [`log`](crate::log).
//!
//! | file | content |
//! |---|---|
//! | `lock` | locked while a process has the store open |
//! | `00000000000000000001.log` | a segment: messages from position 1 on, in order ([`encoding`]) |
//! | `00000000000000000001-00000000000000000900.log` | a rewritten segment: the rest of the positions 1 to 899 ([`compact`]) |
//! | `*.aside-1` | a file of another store, or one that cannot be read; it is kept, but not read |
//! | `reasons-00000000000000000000` | why attempts failed ([`reasons`]) |
//! | `state` | the journal: a snapshot of the [`index`], and the events after it ([`event`], [`journal`]) |
//!
//! A batch is stored when its segment is synced. The journal is not synced for each event: a crash of the machine may undo
//! the newest events, and their messages are sent again. It is synced before a segment is deleted, and for the work of an
//! operator.

mod audit;
mod compact;
mod encoding;
mod event;
#[cfg(feature = "_fuzzing")]
pub(crate) mod fuzzing;
mod index;
mod journal;
mod leasing;
mod listing;
mod open;
mod positions;
mod read;
mod reasons;
mod replay;
mod settings;
mod settling;
mod shared;
mod store;
mod writer;

pub use self::settings::EmbeddedStoreSettings;
pub use self::store::EmbeddedStore;
