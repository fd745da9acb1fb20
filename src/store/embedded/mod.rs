//! A store in a folder of the local disk: an append-only log.
//!
//! | file | what |
//! |---|---|
//! | `lock` | locked while a process has the store open |
//! | `00000000000000000001.log` | messages from position 1 on, as they came ([`record`]) |
//! | `00000000000000000001-00000000000000000900.log` | what was left of positions 1 to 899 when it was rewritten |
//! | `*.aside-1` | a file that is of another store, or cannot be read: it is kept, and said |
//! | `reasons-00000000000000000000` | why attempts failed ([`reasons`]) |
//! | `state` | what happened to them: a snapshot, and events after it ([`event`]) |
//!
//! Files of messages and the journal begin with a [`head`], which has the random number of the store.
//!
//! A batch is stored when its file is synced. The journal is not synced for each event: a crash of the machine may undo
//! the last of them, and messages leave once more. It is synced before a file is deleted, and for what an operator did.

mod compact;
mod error;
mod event;
mod files;
#[cfg(feature = "_fuzzing")]
pub(crate) mod fuzzing;
mod head;
mod inventory;
mod open;
mod positions;
mod reasons;
mod record;
mod scan;
mod segment;
mod settings;
mod state;
mod store;
mod writer;

pub use self::error::OpenError;
pub use self::settings::EmbeddedStoreSettings;
pub use self::store::EmbeddedStore;
