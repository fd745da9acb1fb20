//! Reading the records of a file in order, over damaged places.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::record::{HEADER, Header, Key, MAX_POSITION};

/// How much is read at once.
const CHUNK: usize = 256 << 10;

/// What is found at a place of a file.
#[derive(Debug)]
pub(super) enum Found {
    /// A whole record; its payload is [`Scan::payload`].
    Record(Header),
    /// Bytes that are no record, up to the next one or to the end.
    Damage(Range<u64>),
}

/// Goes through the records of a file, whose positions rise.
pub(super) struct Scan {
    file: Arc<File>,
    key: Key,
    /// Where the next record begins.
    offset: u64,
    end: u64,
    /// The least position the next record may have, and where one of that would begin.
    next: u64,
    known: u64,
    /// The position no record may reach.
    before: u64,
    /// Whether each position takes room between its neighbours.
    dense: bool,
    buffer: Vec<u8>,
    /// Where in the file the buffer begins.
    buffered: u64,
    payload: Range<usize>,
}

impl Scan {
    /// From the record of `position`, or of a later one, at `offset`, to `end`.
    pub(super) fn new(file: Arc<File>, key: Key, (position, offset): (u64, u64), end: u64) -> Self {
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

    /// Of a file from which records were left out when it was rewritten.
    pub(super) fn with_gaps(mut self, gaps: bool) -> Self {
        self.dense = !gaps;
        self
    }

    /// Only of positions before this one.
    pub(super) fn before(mut self, before: u64) -> Self {
        self.before = before.min(MAX_POSITION);
        self
    }

    /// Where the next record begins.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Goes on from the record of `position` at `offset`, if that is ahead.
    pub(super) fn skip_to(&mut self, (position, offset): (u64, u64)) {
        if offset > self.offset {
            (self.offset, self.known, self.next) = (offset, offset, position);
        }
    }

    /// Whether a record at this place may have this position: each once, none before an earlier one, and no hole that is
    /// larger than the damage before it.
    fn is_in_order(&self, position: u64, at: u64) -> bool {
        let most = (at - self.known) / HEADER as u64;
        (self.next..self.before).contains(&position) && (!self.dense || position - self.next <= most)
    }

    /// The payload of the last record.
    pub(super) fn payload(&self) -> &[u8] {
        &self.buffer[self.payload.clone()]
    }

    /// The last record, whole.
    pub(super) fn raw(&self) -> &[u8] {
        &self.buffer[self.payload.start - HEADER..self.payload.end]
    }

    /// What comes next; none at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Found>> {
        if self.offset >= self.end {
            return Ok(None);
        }
        let begun = self.offset;
        let mut at = begun;
        while at < self.end {
            let key = self.key;
            if let Some(header) = Header::read(self.bytes(at, HEADER)?, &key, at) {
                let len = header.len as usize;
                let next = at + (HEADER + len) as u64;
                if next <= self.end && self.is_in_order(header.position, at) {
                    if at > begun {
                        self.offset = at;
                        return Ok(Some(Found::Damage(begun..at)));
                    }
                    (self.next, self.known) = (header.position + 1, next);
                    let payload = self.bytes(at + HEADER as u64, len)?;
                    if header.is_of(payload, &key) {
                        let start = (at - self.buffered) as usize + HEADER;
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

    /// These bytes, or fewer at the end of the file. The record they are of stays in the buffer.
    fn bytes(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let wanted = at + len as u64;
        let has = self.buffered + self.buffer.len() as u64;
        if at < self.buffered || wanted > has {
            // A header stays in front of its payload.
            let from = if at < self.buffered || at > has {
                at
            } else {
                at.saturating_sub(HEADER as u64).max(self.buffered)
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

/// Reads until the buffer is full or the file ends; gives how much that is.
pub(super) fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read_at(file, &mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(unix)]
pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::record;
    use super::*;
    use crate::message::Message;

    fn file(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(file)
    }

    fn key() -> Key {
        Key::new(3, 1)
    }

    fn records(sizes: &[usize]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let batch: Vec<_> = sizes.iter().map(|size| Message::new("a", vec![7; *size]).unwrap()).collect();
        record::push_batch(&mut bytes, key().payload, &batch).unwrap();
        record::place(&mut bytes, &key(), 0, 1);
        bytes
    }

    fn positions(bytes: &[u8]) -> (Vec<u64>, u64) {
        let mut scan = Scan::new(file(bytes), key(), (1, 0), bytes.len() as u64);
        let (mut positions, mut damage) = (Vec::new(), 0);
        while let Some(found) = scan.next().unwrap() {
            match found {
                Found::Record(header) => {
                    assert!(record::message(scan.payload()).is_ok());
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
        let bytes = records(&[0, 1, CHUNK - 60, 5, 3 * CHUNK, CHUNK, 17, 100_000, 200_000]);
        assert_eq!(positions(&bytes), ((1..=9).collect(), 0));
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
    fn what_is_cut_off_is_damage_up_to_the_end() {
        let bytes = records(&[30, 40]);
        let (found, damage) = positions(&bytes[..bytes.len() - 1]);
        assert_eq!(found, [1]);
        assert!(damage > 0);
    }

    /// A record of these positions, one after the other, each with its checksums.
    fn with_positions(positions: &[u64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for position in positions {
            let at = bytes.len();
            let message = [Message::new("a", "b").unwrap()];
            record::push_batch(&mut bytes, key().payload, &message).unwrap();
            record::place(&mut bytes[at..], &key(), at as u64, *position);
        }
        bytes
    }

    #[test]
    fn positions_that_repeat_go_back_or_leap_are_damage() {
        for (said, wanted) in [
            (vec![1, 1, 2, 3], vec![1, 2, 3]),
            (vec![1, 2, 1, 2, 3], vec![1, 2, 3]),
            (vec![0, 1, 2], vec![1, 2]),
            (vec![1, 1_000_000, 2], vec![1, 2]),
            (vec![1, u64::MAX - 1, 2], vec![1, 2]),
            (vec![1, MAX_POSITION, MAX_POSITION - 1, 2], vec![1, 2]),
        ] {
            let (found, damage) = positions(&with_positions(&said));
            assert_eq!(found, wanted, "{said:?}");
            assert!(damage > 0, "{said:?}");
        }
        assert_eq!(positions(&with_positions(&[1, 2])).1, 0);
    }

    #[test]
    fn a_record_in_a_body_is_none() {
        let inner = with_positions(&[1, 2, 3, 4]);
        let mut bytes = Vec::new();
        let body = Message::new("a", inner).unwrap();
        record::push_batch(&mut bytes, key().payload, &[body, Message::new("a", "").unwrap()]).unwrap();
        record::place(&mut bytes, &key(), 0, 1);
        for at in 0..HEADER {
            bytes[at] ^= 1;
            assert_eq!(positions(&bytes).0, [2], "byte {at}");
            bytes[at] ^= 1;
        }
    }

    #[test]
    fn a_length_that_lies_swallows_nothing_behind_it() {
        let mut bytes = with_positions(&[1, 2]);
        for len in [0, 1, 40, 1 << 20, u32::MAX] {
            bytes[4..8].copy_from_slice(&u32::to_le_bytes(len));
            assert_eq!(positions(&bytes).0, [2], "{len}");
        }
    }
}
