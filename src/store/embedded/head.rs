//! What a file of the store begins with: whose it is, and which.
//!
//! 40 bytes, twice, so that a flipped byte costs nothing; numbers are little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | `TOBXLOG2` for messages, `TOBXJNL2` for the journal, `TOBXWHY2` for reasons |
//! | 8..16 | the store's random number |
//! | 16..24 | the first position, or the generation of the reasons |
//! | 24..32 | the position after the last, if it was rewritten, else 0 |
//! | 32..36 | 1 if all its messages have left, else 0 |
//! | 36..40 | CRC-32 of the bytes 0..36 |

use super::record::Key;

const COPY: usize = 40;

/// How long a head is.
pub(super) const HEAD: u64 = 2 * COPY as u64;

const LOG: &[u8; 8] = b"TOBXLOG2";
const JOURNAL: &[u8; 8] = b"TOBXJNL2";
const REASONS: &[u8; 8] = b"TOBXWHY2";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    /// The store's random number.
    pub(super) store: u64,
    pub(super) base: u64,
    /// The end of a file that was rewritten.
    pub(super) end: Option<u64>,
    /// All its messages have left.
    pub(super) emptied: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Log,
    Journal,
    Reasons,
}

/// What stands where a head should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// A head, of which one copy may be damaged.
    Head(Head, Damage),
    /// That of another version of the format.
    OtherVersion,
    /// Nothing that can be read.
    Unreadable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    None,
    /// The magic bytes say something else.
    Magic,
    /// Another byte of a copy.
    Copy,
}

impl Head {
    pub(super) fn log(store: u64, base: u64, end: Option<u64>) -> Self {
        Self { kind: Kind::Log, store, base, end, emptied: false }
    }

    pub(super) fn journal(store: u64) -> Self {
        Self { kind: Kind::Journal, store, base: 0, end: None, emptied: false }
    }

    pub(super) fn reasons(store: u64, generation: u64) -> Self {
        Self { kind: Kind::Reasons, store, base: generation, end: None, emptied: false }
    }

    /// What the checksums of its records begin with.
    pub(super) fn key(&self) -> Key {
        let place = self.base ^ self.end.unwrap_or_default().rotate_left(32) ^ (self.kind as u64) << 62;
        Key::new(self.store, place)
    }

    pub(super) fn to_bytes(self) -> [u8; HEAD as usize] {
        let mut bytes = [0; HEAD as usize];
        let copy = &mut bytes[..COPY];
        copy[..8].copy_from_slice(match self.kind {
            Kind::Log => LOG,
            Kind::Journal => JOURNAL,
            Kind::Reasons => REASONS,
        });
        copy[8..16].copy_from_slice(&self.store.to_le_bytes());
        copy[16..24].copy_from_slice(&self.base.to_le_bytes());
        copy[24..32].copy_from_slice(&self.end.unwrap_or_default().to_le_bytes());
        copy[32] = u8::from(self.emptied);
        let crc = crc32fast::hash(&copy[..36]);
        copy[36..].copy_from_slice(&crc.to_le_bytes());
        bytes.copy_within(..COPY, COPY);
        bytes
    }

    /// Reads the start of a file, however short it is.
    pub(super) fn read(bytes: &[u8]) -> Read {
        let first = Self::read_copy(bytes);
        let second = bytes.get(COPY..).and_then(Self::read_copy);
        let magic = bytes.get(..8).unwrap_or_default();
        let damage = |damaged: bool| match damaged {
            _ if ![LOG, JOURNAL, REASONS].iter().any(|ours| magic == *ours) => Damage::Magic,
            true => Damage::Copy,
            false => Damage::None,
        };
        match (first, second) {
            (Some(head), second) => Read::Head(head, damage(second != Some(head))),
            (None, Some(head)) => Read::Head(head, damage(true)),
            (None, None) => {
                let other =
                    |ours: &[u8]| magic.len() == 8 && magic[..7] == ours[..7] && magic[7].is_ascii_digit();
                // The journal of version 1 began with a record.
                if magic != LOG && other(LOG)
                    || magic != JOURNAL && other(JOURNAL)
                    || bytes.starts_with(&[0xB7, 0x0B])
                {
                    Read::OtherVersion
                } else {
                    Read::Unreadable
                }
            }
        }
    }

    fn read_copy(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<COPY>()?;
        let kind = match &bytes[..8] {
            magic if magic == LOG => Kind::Log,
            magic if magic == JOURNAL => Kind::Journal,
            magic if magic == REASONS => Kind::Reasons,
            _ => return None,
        };
        let number =
            |at: usize| bytes[at..at + 8].iter().rev().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
        let crc = bytes[36..].iter().rev().fold(0_u32, |all, byte| all << 8 | u32::from(*byte));
        if crc != crc32fast::hash(&bytes[..36]) {
            return None;
        }
        let end = Some(number(24)).filter(|end| *end > 0);
        Some(Self { kind, store: number(8), base: number(16), end, emptied: bytes[32] == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_with_any_byte_flipped() {
        for head in
            [Head::log(7, 1, None), Head::log(u64::MAX, 3, Some(9)), Head::journal(5), Head::reasons(5, 9)]
        {
            let bytes = head.to_bytes();
            assert_eq!(Head::read(&bytes), Read::Head(head, Damage::None));
            for at in 0..bytes.len() {
                let mut bytes = bytes;
                bytes[at] ^= 0x41;
                let damage = if at < 8 { Damage::Magic } else { Damage::Copy };
                assert_eq!(Head::read(&bytes), Read::Head(head, damage), "byte {at}");
            }
        }
    }

    #[test]
    fn the_head_of_another_version_is_told_from_damage() {
        for start in [&b"TOBXLOG1"[..], b"TOBXLOG9........", b"TOBXJNL3", &[0xB7, 0x0B, 1, 0]] {
            assert_eq!(Head::read(start), Read::OtherVersion, "{start:?}");
        }
        for start in [&b""[..], b"TOBX", b"something else", &[0; 100]] {
            assert_eq!(Head::read(start), Read::Unreadable, "{start:?}");
        }
    }
}
