//! The frame of a record: a header of 24 bytes and a payload. Numbers are little-endian:
//!
//! | bytes | content |
//! |---|---|
//! | 0..2 | `B7 0B` |
//! | 2 | 1 if the record ends a batch, else 0 |
//! | 3 | 0 |
//! | 4..8 | length of the payload |
//! | 8..16 | position |
//! | 16..20 | CRC-32 of the payload |
//! | 20..24 | CRC-32 of the bytes 0..20 |
//!
//! With two checksums a flipped byte costs one record: the next record is found by its header. Both checksums are seeded
//! from the log's random number ([`Key`]); the seed of the second also depends on the record's file and offset. So a
//! payload that contains a record is never read as one, and a record counts only at its own place in its own file.

use super::format::{RECORD_HEADER, RECORD_MAGIC};
use crate::util::error::BoxError;

/// The seeds of the checksums of a file's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// The seed for payloads. It is the same in all files of a log, since a payload is framed before its file is known.
    pub(crate) payload: u32,
    header: u64,
}

impl Key {
    /// Derives the seeds from the random number of a log and the identity of a file in it.
    pub(crate) fn new(log: u64, file: u64) -> Self {
        Self { payload: mix(log) as u32, header: mix(log.rotate_left(32) ^ mix(file)) }
    }

    fn of_header(&self, header: &[u8], offset: u64) -> u32 {
        checksum((mix(self.header ^ offset) >> 32) as u32, header)
    }
}

/// The finaliser of SplitMix64.
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Whether the record ends a batch.
    pub(crate) ends_batch: bool,
    /// The length of the payload.
    pub(crate) len: u32,
    pub(crate) position: u64,
    payload_crc: u32,
}

impl Header {
    /// Reads the header that begins at `offset` of a file; `None` if these bytes are not a whole header of that place.
    pub(crate) fn read(bytes: &[u8], key: &Key, offset: u64) -> Option<Self> {
        let bytes = bytes.first_chunk::<RECORD_HEADER>()?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..2] != RECORD_MAGIC || word(20) != key.of_header(&bytes[..20], offset) {
            return None;
        }
        let position = u64::from(word(8)) | u64::from(word(12)) << 32;
        Some(Self { ends_batch: bytes[2] == 1, len: word(4), position, payload_crc: word(16) })
    }

    /// Whether the checksum of this payload is the one in the header.
    pub(crate) fn matches(&self, payload: &[u8], key: &Key) -> bool {
        self.payload_crc == checksum(key.payload, payload)
    }
}

/// Appends a record without position and offset, which [`assign_positions`] fills in. `seed` is [`Key::payload`].
///
/// # Errors
/// The error of `payload`, and a payload of 4 GiB or more.
pub(crate) fn push_record(
    records: &mut Vec<u8>,
    seed: u32,
    ends_batch: bool,
    payload: impl FnOnce(&mut Vec<u8>) -> Result<(), BoxError>,
) -> Result<(), BoxError> {
    let start = records.len();
    records.extend_from_slice(&[0; RECORD_HEADER]);
    payload(records)?;
    let (header, payload) = records[start..].split_at_mut(RECORD_HEADER);
    let len = u32::try_from(payload.len()).map_err(|_| "a record must be smaller than 4 GiB")?;
    header[..2].copy_from_slice(&RECORD_MAGIC);
    header[2] = u8::from(ends_batch);
    header[4..8].copy_from_slice(&len.to_le_bytes());
    header[16..20].copy_from_slice(&checksum(seed, payload).to_le_bytes());
    Ok(())
}

/// Numbers the records from `position` on, and completes their headers for the file offset `offset`; returns the position
/// after the last.
pub(crate) fn assign_positions(records: &mut [u8], key: &Key, mut offset: u64, mut position: u64) -> u64 {
    let mut rest = records;
    while !rest.is_empty() {
        let header = &mut rest[..RECORD_HEADER];
        header[8..16].copy_from_slice(&position.to_le_bytes());
        let crc = key.of_header(&header[..20], offset);
        header[20..24].copy_from_slice(&crc.to_le_bytes());
        let len = RECORD_HEADER + u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        rest = &mut rest[len..];
        offset += len as u64;
        position += 1;
    }
    position
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key { payload: 7, header: 9 };

    fn record(key: &Key, offset: u64) -> Vec<u8> {
        let mut records = Vec::new();
        let payload = |records: &mut Vec<u8>| {
            records.extend_from_slice(b"some payload");
            Ok(())
        };
        push_record(&mut records, key.payload, true, payload).unwrap();
        assign_positions(&mut records, key, offset, 9);
        records
    }

    fn is_whole(records: &[u8], key: &Key, offset: u64) -> bool {
        Header::read(records, key, offset).is_some_and(|header| {
            let payload = records.get(RECORD_HEADER..RECORD_HEADER + header.len as usize);
            payload.is_some_and(|payload| header.matches(payload, key))
        })
    }

    #[test]
    fn every_flipped_byte_of_a_record_is_detected() {
        let mut records = record(&KEY, 0);
        assert!(is_whole(&records, &KEY, 0));
        for at in 0..records.len() {
            records[at] ^= 0x10;
            assert!(!is_whole(&records, &KEY, 0), "byte {at}");
            records[at] ^= 0x10;
        }
    }

    #[test]
    fn a_record_counts_only_at_its_place_in_its_file_in_its_log() {
        let key = Key::new(5, 1);
        let records = record(&key, 80);
        assert!(is_whole(&records, &key, 80));
        for (other, offset) in [(key, 81), (key, 80 + (1 << 32)), (Key::new(5, 2), 80), (Key::new(6, 1), 80)]
        {
            assert!(!is_whole(&records, &other, offset));
            assert_eq!(Header::read(&records, &other, offset), None);
        }
    }
}
