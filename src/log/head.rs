//! The head of a file: the log it belongs to, and its range of positions.
//!
//! The head is 40 bytes, stored twice, so that a flipped byte costs nothing. Numbers are little-endian:
//!
//! | bytes | content |
//! |---|---|
//! | 0..8 | `TOBXLOG2` for a segment, `TOBXJNL2` for a journal, `TOBXWHY2` for reasons |
//! | 8..16 | the log's random number |
//! | 16..24 | the first position, or the generation of the reasons |
//! | 24..32 | the position after the last if the file was rewritten, else 0 |
//! | 32..36 | 1 if no record of the file is needed any more, else 0 |
//! | 36..40 | CRC-32 of the bytes 0..36 |

use super::format::{HEAD, HEAD_COPY, JOURNAL_MAGIC, REASONS_MAGIC, RECORD_MAGIC, SEGMENT_MAGIC};
use super::record::Key;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    /// The random number of the log.
    pub(crate) log: u64,
    pub(crate) base: u64,
    /// The position after the last record of a file that was rewritten.
    pub(crate) end: Option<u64>,
    /// Whether no record of the file is needed any more.
    pub(crate) emptied: bool,
}

/// The purpose of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Records in the order of their positions.
    Segment,
    /// A snapshot, and the events after it.
    Journal,
    /// Records that are read by their offsets.
    Reasons,
}

/// The start of a file, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadRead {
    /// A head, of which one copy may be damaged.
    Head(Head, Damage),
    /// The head of another version of the format.
    OtherVersion,
    /// No readable head.
    Unreadable,
}

/// The damaged part of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    None,
    /// The first eight bytes of the file.
    Magic,
    /// Any other byte of a copy.
    Copy,
}

impl Head {
    /// The head of a segment; `end` is set for one that was rewritten.
    pub(crate) fn segment(log: u64, base: u64, end: Option<u64>) -> Self {
        Self { kind: Kind::Segment, log, base, end, emptied: false }
    }

    pub(crate) fn journal(log: u64) -> Self {
        Self { kind: Kind::Journal, log, base: 0, end: None, emptied: false }
    }

    pub(crate) fn reasons(log: u64, generation: u64) -> Self {
        Self { kind: Kind::Reasons, log, base: generation, end: None, emptied: false }
    }

    /// Returns the seeds of the checksums of the file's records.
    pub(crate) fn key(&self) -> Key {
        let file = self.base ^ self.end.unwrap_or_default().rotate_left(32) ^ (self.kind as u64) << 62;
        Key::new(self.log, file)
    }

    pub(crate) fn to_bytes(self) -> [u8; HEAD as usize] {
        let mut bytes = [0; HEAD as usize];
        let copy = &mut bytes[..HEAD_COPY];
        copy[..8].copy_from_slice(match self.kind {
            Kind::Segment => SEGMENT_MAGIC,
            Kind::Journal => JOURNAL_MAGIC,
            Kind::Reasons => REASONS_MAGIC,
        });
        copy[8..16].copy_from_slice(&self.log.to_le_bytes());
        copy[16..24].copy_from_slice(&self.base.to_le_bytes());
        copy[24..32].copy_from_slice(&self.end.unwrap_or_default().to_le_bytes());
        copy[32] = u8::from(self.emptied);
        let crc = crc32fast::hash(&copy[..36]);
        copy[36..].copy_from_slice(&crc.to_le_bytes());
        bytes.copy_within(..HEAD_COPY, HEAD_COPY);
        bytes
    }

    /// Decodes the start of a file, however short the file is.
    pub(crate) fn read(bytes: &[u8]) -> HeadRead {
        let first = Self::read_copy(bytes);
        let second = bytes.get(HEAD_COPY..).and_then(Self::read_copy);
        let magic = bytes.get(..8).unwrap_or_default();
        let damage = |damaged: bool| match damaged {
            _ if ![SEGMENT_MAGIC, JOURNAL_MAGIC, REASONS_MAGIC].iter().any(|known| magic == *known) => {
                Damage::Magic
            }
            true => Damage::Copy,
            false => Damage::None,
        };
        match (first, second) {
            (Some(head), second) => HeadRead::Head(head, damage(second != Some(head))),
            (None, Some(head)) => HeadRead::Head(head, damage(true)),
            (None, None) => {
                let is_version_of =
                    |known: &[u8]| magic.len() == 8 && magic[..7] == known[..7] && magic[7].is_ascii_digit();
                // The journal of version 1 began with a record.
                if magic != SEGMENT_MAGIC && is_version_of(SEGMENT_MAGIC)
                    || magic != JOURNAL_MAGIC && is_version_of(JOURNAL_MAGIC)
                    || bytes.starts_with(&RECORD_MAGIC)
                {
                    HeadRead::OtherVersion
                } else {
                    HeadRead::Unreadable
                }
            }
        }
    }

    fn read_copy(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<HEAD_COPY>()?;
        let kind = match &bytes[..8] {
            magic if magic == SEGMENT_MAGIC => Kind::Segment,
            magic if magic == JOURNAL_MAGIC => Kind::Journal,
            magic if magic == REASONS_MAGIC => Kind::Reasons,
            _ => return None,
        };
        let number =
            |at: usize| bytes[at..at + 8].iter().rev().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
        let crc = bytes[36..].iter().rev().fold(0_u32, |all, byte| all << 8 | u32::from(*byte));
        if crc != crc32fast::hash(&bytes[..36]) {
            return None;
        }
        let end = Some(number(24)).filter(|end| *end > 0);
        Some(Self { kind, log: number(8), base: number(16), end, emptied: bytes[32] == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_with_any_byte_flipped() {
        for head in [
            Head::segment(7, 1, None),
            Head::segment(u64::MAX, 3, Some(9)),
            Head::journal(5),
            Head::reasons(5, 9),
        ] {
            let bytes = head.to_bytes();
            assert_eq!(Head::read(&bytes), HeadRead::Head(head, Damage::None));
            for at in 0..bytes.len() {
                let mut bytes = bytes;
                bytes[at] ^= 0x41;
                let damage = if at < 8 { Damage::Magic } else { Damage::Copy };
                assert_eq!(Head::read(&bytes), HeadRead::Head(head, damage), "byte {at}");
            }
        }
    }

    #[test]
    fn the_head_of_another_version_is_distinguished_from_damage() {
        for start in [&b"TOBXLOG1"[..], b"TOBXLOG9........", b"TOBXJNL3", &[0xB7, 0x0B, 1, 0]] {
            assert_eq!(Head::read(start), HeadRead::OtherVersion, "{start:?}");
        }
        for start in [&b""[..], b"TOBX", b"something else", &[0; 100]] {
            assert_eq!(Head::read(start), HeadRead::Unreadable, "{start:?}");
        }
    }
}
