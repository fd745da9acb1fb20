//! The constants of the format on disk, as `src/log/format.rs` has them.

/// The length of a file's head.
pub const HEAD: usize = 80;

/// The first bytes of a record.
pub const RECORD_MAGIC: [u8; 2] = [0xB7, 0x0B];

/// The first bytes of a segment in an older and in a newer version of the format.
pub const OLDER_SEGMENT: &[u8; 8] = b"TOBXLOG1";
pub const NEWER_SEGMENT: &[u8; 8] = b"TOBXLOG3";
