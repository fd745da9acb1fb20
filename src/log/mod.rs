//! An append-only log of checksummed records in a folder of the local disk. It knows nothing of messages.
//!
//! | module | content |
//! |---|---|
//! | [`format`] | the constants of the format on disk |
//! | [`record`] | the frame of a record, and its checksums |
//! | [`head`] | the start of each file |
//! | [`segment`] | one file of a log |
//! | [`scan`] | reads the records of a file; a flipped byte costs one record |
//! | [`appender`] | appends to the last segment, and begins the next |
//! | [`inventory`] | finds the segments in a folder |
//! | [`recover`] | truncates the incomplete batch that a crash leaves |
//! | [`retention`] | which old segments are deleted |
//! | [`record_log`] | a whole log: append, read, retention |
//! | [`reader`] | reads a log from a position on |
//! | [`writer`] | the few threads that write for all logs |
//! | [`background`] | the thread for work that takes long |
//! | [`folder`] | the private, locked folder of a log |
//! | [`files`] | private files, and access to them by offset |
//! | [`error`] | the error of opening a folder |

pub(crate) mod appender;
pub(crate) mod background;
pub(crate) mod error;
pub(crate) mod files;
pub(crate) mod folder;
pub(crate) mod format;
pub(crate) mod head;
pub(crate) mod inventory;
#[cfg(feature = "routing")]
pub(crate) mod reader;
pub(crate) mod record;
#[cfg(feature = "routing")]
pub(crate) mod record_log;
pub(crate) mod recover;
#[cfg(feature = "routing")]
pub(crate) mod retention;
pub(crate) mod scan;
pub(crate) mod segment;
pub(crate) mod writer;
