//! Reading the records of a file in order, over damaged places.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::record::{HEADER, Header};

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

/// Goes through the records of a file.
pub(super) struct Scan {
    file: Arc<File>,
    /// Where the next record begins.
    offset: u64,
    end: u64,
    buffer: Vec<u8>,
    /// Where in the file the buffer begins.
    buffered: u64,
    payload: Range<usize>,
}

impl Scan {
    /// From the record at `offset` to `end`.
    pub(super) fn new(file: Arc<File>, offset: u64, end: u64) -> Self {
        Self { file, offset, end, buffer: Vec::new(), buffered: offset, payload: 0..0 }
    }

    /// Where the next record begins.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Goes on from the record at `offset`, if that is ahead.
    pub(super) fn skip_to(&mut self, offset: u64) {
        self.offset = self.offset.max(offset);
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
            if let Some(header) = Header::read(self.bytes(at, HEADER)?) {
                let len = header.len as usize;
                let next = at + (HEADER + len) as u64;
                if next <= self.end {
                    if at > begun {
                        self.offset = at;
                        return Ok(Some(Found::Damage(begun..at)));
                    }
                    let payload = self.bytes(at + HEADER as u64, len)?;
                    if header.is_of(payload) {
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
            let mut filled = keep;
            while filled < self.buffer.len() {
                match read_at(&self.file, &mut self.buffer[filled..], from + filled as u64) {
                    Ok(0) => break,
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            self.buffer.truncate(filled);
        }
        let start = ((at - self.buffered) as usize).min(self.buffer.len());
        let end = (start + len).min(self.buffer.len());
        Ok(&self.buffer[start..end])
    }
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

    fn records(sizes: &[usize]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let batch: Vec<_> = sizes.iter().map(|size| Message::new("a", vec![7; *size]).unwrap()).collect();
        record::push_batch(&mut bytes, &batch).unwrap();
        record::place(&mut bytes, 1);
        bytes
    }

    fn positions(bytes: &[u8]) -> (Vec<u64>, u64) {
        let mut scan = Scan::new(file(bytes), 0, bytes.len() as u64);
        let (mut positions, mut damage) = (Vec::new(), 0);
        while let Some(found) = scan.next().unwrap() {
            match found {
                Found::Record(header) => {
                    assert!(record::message(scan.payload()).is_ok());
                    assert_eq!(Header::read(scan.raw()), Some(header));
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
}
