//! Reads messages from the files of the log.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::entry::Location;
use super::record::{self, Put, Record};
use super::segments::LiveSegments;
use crate::channels::content::Content;
use crate::log::files::read_full;
use crate::log::format::RECORD_HEADER;
use crate::log::record::{Header, Key};

/// Where to read a record. The file stays readable also when it is deleted meanwhile.
pub(super) struct Source {
    file: Arc<File>,
    key: Key,
    place: Location,
}

impl Source {
    /// Returns where to read a record; `None` if its file is missing.
    pub(super) fn of(segments: &LiveSegments, place: Location) -> Option<Self> {
        let (file, key) = segments.file(place)?;
        Some(Self { file, key, place })
    }

    /// Reads the record; `None` if it is damaged. Blocks.
    ///
    /// # Errors
    /// The file cannot be read now.
    pub(super) fn read(&self) -> io::Result<Option<Stored>> {
        let Location { position, offset, len } = self.place;
        let mut bytes = vec![0; len as usize];
        if read_full(&self.file, &mut bytes, u64::from(offset))? < bytes.len() {
            return Ok(None);
        }
        let header = Header::read(&bytes, &self.key, u64::from(offset));
        let is_whole = header.is_some_and(|header| {
            header.position == position
                && bytes.len() == RECORD_HEADER + header.len as usize
                && header.matches(&bytes[RECORD_HEADER..], &self.key)
        });
        let stored = Stored(Bytes::from(bytes));
        Ok((is_whole && stored.put().is_some()).then_some(stored))
    }
}

/// A record with a message.
pub(super) struct Stored(Bytes);

impl Stored {
    /// Returns the message; `None` if the record has none.
    pub(super) fn put(&self) -> Option<Put<'_>> {
        match record::decode(&self.0[RECORD_HEADER..]) {
            Ok(Record::Put(put) | Record::Copied { put, .. }) => Some(put),
            _ => None,
        }
    }

    /// Returns what the message carries. The body shares the memory of the record.
    pub(super) fn content(&self, put: &Put<'_>) -> Content {
        Content {
            id: put.id.to_owned(),
            client: put.client.to_owned(),
            metadata: put.metadata.to_owned(),
            body: self.0.slice_ref(put.body),
            tags: put.tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        }
    }
}
