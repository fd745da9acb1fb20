//! The constants of the format on disk. `tests/it/support/format.rs` mirrors them.

/// The first bytes of a record.
pub(crate) const RECORD_MAGIC: [u8; 2] = [0xB7, 0x0B];

/// The length of a record's header.
pub(crate) const RECORD_HEADER: usize = 24;

/// The length of one copy of a file's head.
pub(crate) const HEAD_COPY: usize = 40;

/// The length of a file's head: two copies.
pub(crate) const HEAD: u64 = 2 * HEAD_COPY as u64;

/// The first bytes of a segment, of a journal, and of a file of reasons. The last byte is the version of the format.
pub(crate) const SEGMENT_MAGIC: &[u8; 8] = b"TOBXLOG2";
pub(crate) const JOURNAL_MAGIC: &[u8; 8] = b"TOBXJNL2";
pub(crate) const REASONS_MAGIC: &[u8; 8] = b"TOBXWHY2";

/// The largest position of a record. The margin keeps sums of positions from overflowing.
pub(crate) const MAX_POSITION: u64 = 1 << 62;
