//! Reads the records of a file in order, and skips damaged bytes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::files::read_full;
use super::format::{MAX_POSITION, RECORD_HEADER};
use super::record::{Header, Key};

/// The number of bytes of one read.
const CHUNK: usize = 256 << 10;

/// A part of a file.
#[derive(Debug)]
pub(crate) enum Found {
    /// A whole record; its payload is [`Scan::payload`].
    Record(Header),
    /// Bytes that are not a record, up to the next record or to the end.
    Damage(Range<u64>),
}

/// Reads the records of a file, whose positions rise.
pub(crate) struct Scan {
    file: Arc<File>,
    key: Key,
    /// The offset of the next record.
    offset: u64,
    end: u64,
    /// The lowest position the next record may have.
    next: u64,
    /// The offset of a record with that position.
    known: u64,
    /// The position that every record is below.
    before: u64,
    /// Whether the file holds every position, so that a gap in the positions needs a gap in the bytes.
    dense: bool,
    buffer: Vec<u8>,
    /// The offset of the buffer in the file.
    buffered: u64,
    /// The payload of the last record, in the buffer.
    payload: Range<usize>,
}

impl Scan {
    /// Starts at `offset`, where the record of `position` or of a later position begins, and ends at the offset `end`.
    pub(crate) fn new(file: Arc<File>, key: Key, (position, offset): (u64, u64), end: u64) -> Self {
        Self {
            file,
            key,
            offset,
            end,
            next: position,
            known: offset,
            before: MAX_POSITION,
            dense: true,
            buffer: Vec::new(),
            buffered: offset,
            payload: 0..0,
        }
    }

    /// Allows gaps in the positions, as in a file that was rewritten without some records.
    pub(crate) fn with_gaps(mut self, gaps: bool) -> Self {
        self.dense = !gaps;
        self
    }

    /// Accepts only records with a position below this one.
    pub(crate) fn before(mut self, before: u64) -> Self {
        self.before = before.min(MAX_POSITION);
        self
    }

    /// Returns the offset of the next record.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Continues with the record of `position` at `offset`, if that offset is ahead.
    pub(crate) fn skip_to(&mut self, (position, offset): (u64, u64)) {
        if offset > self.offset {
            (self.offset, self.known, self.next) = (offset, offset, position);
        }
    }

    /// Extends the scan by records that were appended since it began, up to the offset `end` and the position `before`.
    #[cfg_attr(not(test), allow(dead_code, reason = "the channels will use it"))]
    pub(crate) fn extend_to(&mut self, end: u64, before: u64) {
        (self.end, self.before) = (end, before.min(MAX_POSITION));
    }

    /// Whether a record at this offset may have this position: positions rise, and a gap is at most as large as the damage
    /// before it.
    fn is_in_order(&self, position: u64, at: u64) -> bool {
        let most = (at - self.known) / RECORD_HEADER as u64;
        (self.next..self.before).contains(&position) && (!self.dense || position - self.next <= most)
    }

    /// Returns the payload of the last record.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.buffer[self.payload.clone()]
    }

    /// Returns the last record with its header.
    pub(crate) fn raw(&self) -> &[u8] {
        &self.buffer[self.payload.start - RECORD_HEADER..self.payload.end]
    }

    /// Returns the next part of the file; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Found>> {
        if self.offset >= self.end {
            return Ok(None);
        }
        let begun = self.offset;
        let mut at = begun;
        while at < self.end {
            let key = self.key;
            if let Some(header) = Header::read(self.bytes(at, RECORD_HEADER)?, &key, at) {
                let len = header.len as usize;
                let next = at + (RECORD_HEADER + len) as u64;
                if next <= self.end && self.is_in_order(header.position, at) {
                    if at > begun {
                        self.offset = at;
                        return Ok(Some(Found::Damage(begun..at)));
                    }
                    (self.next, self.known) = (header.position + 1, next);
                    let payload = self.bytes(at + RECORD_HEADER as u64, len)?;
                    if header.matches(payload, &key) {
                        let start = (at - self.buffered) as usize + RECORD_HEADER;
                        self.payload = start..start + len;
                        self.offset = next;
                        return Ok(Some(Found::Record(header)));
                    }
                    self.offset = next;
                    return Ok(Some(Found::Damage(begun..next)));
                }
            }
            at += 1;
        }
        self.offset = self.end;
        Ok(Some(Found::Damage(begun..self.end)))
    }

    /// Returns these bytes, or fewer at the end of the file. The header of the current record stays in the buffer.
    fn bytes(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let wanted = at + len as u64;
        let has = self.buffered + self.buffer.len() as u64;
        if at < self.buffered || wanted > has {
            // `raw` needs the header in front of its payload.
            let from = if at < self.buffered || at > has {
                at
            } else {
                at.saturating_sub(RECORD_HEADER as u64).max(self.buffered)
            };
            let keep = if from >= self.buffered && from <= has {
                self.buffer.drain(..(from - self.buffered) as usize);
                self.buffer.len()
            } else {
                self.buffer.clear();
                0
            };
            self.buffered = from;
            let target = ((wanted - from) as usize).max(CHUNK).min((self.end - from) as usize);
            self.buffer.resize(target.max(keep), 0);
            let filled = keep + read_full(&self.file, &mut self.buffer[keep..], from + keep as u64)?;
            self.buffer.truncate(filled);
        }
        let start = ((at - self.buffered) as usize).min(self.buffer.len());
        let end = (start + len).min(self.buffer.len());
        Ok(&self.buffer[start..end])
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::record::{assign_positions, push_record};
    use super::*;

    fn file(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(file)
    }

    fn key() -> Key {
        Key::new(3, 1)
    }

    fn push(bytes: &mut Vec<u8>, payload: &[u8]) {
        let payload = |bytes: &mut Vec<u8>| {
            bytes.extend_from_slice(payload);
            Ok(())
        };
        push_record(bytes, key().payload, true, payload).unwrap();
    }

    fn records(sizes: &[usize]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for size in sizes {
            push(&mut bytes, &vec![7; *size]);
        }
        assign_positions(&mut bytes, &key(), 0, 1);
        bytes
    }

    fn positions(bytes: &[u8]) -> (Vec<u64>, u64) {
        let mut scan = Scan::new(file(bytes), key(), (1, 0), bytes.len() as u64);
        let (mut positions, mut damage) = (Vec::new(), 0);
        while let Some(found) = scan.next().unwrap() {
            match found {
                Found::Record(header) => {
                    assert_eq!(scan.payload().len(), header.len as usize);
                    let at = scan.offset() - scan.raw().len() as u64;
                    assert_eq!(Header::read(scan.raw(), &key(), at), Some(header));
                    positions.push(header.position);
                }
                Found::Damage(range) => damage += range.end - range.start,
            }
        }
        (positions, damage)
    }

    #[test]
    fn records_are_found_whatever_their_size() {
        let sizes = [0, 1, CHUNK - 25, 5, 3 * CHUNK, CHUNK, 17, 100_000, 200_000, CHUNK - RECORD_HEADER, 1];
        assert_eq!(positions(&records(&sizes)), ((1..=sizes.len() as u64).collect(), 0));
    }

    #[test]
    fn a_flipped_byte_costs_one_record_wherever_it_is() {
        let mut bytes = records(&[30, 40, 50]);
        for at in 0..bytes.len() {
            bytes[at] ^= 0xFF;
            let (found, damage) = positions(&bytes);
            assert_eq!(found.len(), 2, "byte {at}");
            assert!(damage > 0);
            bytes[at] ^= 0xFF;
        }
    }

    #[test]
    fn a_record_that_is_cut_off_is_damage_up_to_the_end() {
        let bytes = records(&[30, 40]);
        let (found, damage) = positions(&bytes[..bytes.len() - 1]);
        assert_eq!(found, [1]);
        assert!(damage > 0);
    }

    /// Records with these positions, one after the other, with valid checksums.
    fn with_positions(positions: &[u64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for position in positions {
            let at = bytes.len();
            push(&mut bytes, b"some payload");
            assign_positions(&mut bytes[at..], &key(), at as u64, *position);
        }
        bytes
    }

    #[test]
    fn positions_that_repeat_go_back_or_leap_are_damage() {
        for (written, wanted) in [
            (vec![1, 1, 2, 3], vec![1, 2, 3]),
            (vec![1, 2, 1, 2, 3], vec![1, 2, 3]),
            (vec![0, 1, 2], vec![1, 2]),
            (vec![1, 1_000_000, 2], vec![1, 2]),
            (vec![1, u64::MAX - 1, 2], vec![1, 2]),
            (vec![1, MAX_POSITION, MAX_POSITION - 1, 2], vec![1, 2]),
        ] {
            let (found, damage) = positions(&with_positions(&written));
            assert_eq!(found, wanted, "{written:?}");
            assert!(damage > 0, "{written:?}");
        }
        assert_eq!(positions(&with_positions(&[1, 2])).1, 0);
    }

    #[test]
    fn a_record_inside_a_payload_is_not_found() {
        let mut bytes = Vec::new();
        push(&mut bytes, &with_positions(&[1, 2, 3, 4]));
        push(&mut bytes, b"");
        assign_positions(&mut bytes, &key(), 0, 1);
        for at in 0..RECORD_HEADER {
            bytes[at] ^= 1;
            assert_eq!(positions(&bytes).0, [2], "byte {at}");
            bytes[at] ^= 1;
        }
    }

    #[test]
    fn a_wrong_length_hides_no_later_record() {
        let mut bytes = with_positions(&[1, 2]);
        for len in [0, 1, 40, 1 << 20, u32::MAX] {
            bytes[4..8].copy_from_slice(&u32::to_le_bytes(len));
            assert_eq!(positions(&bytes).0, [2], "{len}");
        }
    }
}
