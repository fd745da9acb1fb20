//! Reads stored messages by their positions.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use uuid::Uuid;

use super::encoding::{decode_message, has_id};
use super::shared::StoreShared;
use crate::log::scan::Found;
use crate::log::segment::Segment;
use crate::message::Message;
use crate::store::StoreError;

/// A position and its message; `None` if the message is damaged.
pub(super) type Read = (u64, Option<Message>);

/// Reads the messages at these positions, up to about so many bytes; with an id, only the messages of that id. Also returns how many of
/// the positions were read.
pub(super) fn read(
    shared: &StoreShared,
    positions: &[u64],
    id: Option<Uuid>,
    bytes: usize,
) -> Result<(Vec<Read>, usize), StoreError> {
    let mut segments = shared.lock().segments_of(positions);
    for segment in segments.values_mut() {
        if segment.index.is_none() {
            let index = segment.make_index().map_err(StoreError::unavailable)?;
            if let Some(known) = shared.lock().segments.get_mut(&segment.base)
                && known.index.is_none()
                && known.path == segment.path
            {
                known.index = Some(Arc::clone(&index));
            }
            segment.index = Some(index);
        }
    }
    read_many(&segments, positions, id, bytes).map_err(StoreError::unavailable)
}

/// Reads the messages at `positions`, which must rise, and ends after the message with which they come to `bytes`. With an id, the
/// result has the messages of that id, and the positions whose message cannot be read.
///
/// Also returns how many of the positions were read.
fn read_many(
    segments: &BTreeMap<u64, Segment>,
    positions: &[u64],
    id: Option<Uuid>,
    bytes: usize,
) -> io::Result<(Vec<Read>, usize)> {
    let (mut read, mut room) = (Vec::new(), bytes);
    let mut rest = positions;
    while let Some(first) = rest.first() {
        let Some((_, segment)) = segments.range(..=*first).next_back() else {
            read.push((*first, None));
            rest = &rest[1..];
            continue;
        };
        let count = rest.partition_point(|position| *position < segment.end).max(1);
        read_segment(segment, &rest[..count], id, &mut read, &mut room)?;
        if room == 0 {
            let last = read.last().map_or(0, |(position, _)| *position);
            let done = positions.partition_point(|position| *position <= last);
            return Ok((read, done));
        }
        rest = &rest[count..];
    }
    Ok((read, positions.len()))
}

fn read_segment(
    segment: &Segment,
    positions: &[u64],
    id: Option<Uuid>,
    read: &mut Vec<Read>,
    room: &mut usize,
) -> io::Result<()> {
    let mut scan = segment.scan(positions[0]);
    let mut wanted = positions.iter().copied().peekable();
    while let Some(next) = wanted.peek().copied() {
        scan.skip_to(segment.nearest(next));
        match scan.next()? {
            Some(Found::Record(header)) => {
                while let Some(missing) = wanted.next_if(|wanted| *wanted < header.position) {
                    read.push((missing, None));
                }
                if wanted.next_if_eq(&header.position).is_some()
                    && id.is_none_or(|id| has_id(scan.payload(), id))
                {
                    read.push((header.position, decode_message(scan.payload()).ok()));
                    *room = room.saturating_sub(scan.payload().len());
                    if *room == 0 {
                        break;
                    }
                }
            }
            Some(Found::Damage(_)) => {}
            None => {
                read.extend(wanted.map(|missing| (missing, None)));
                break;
            }
        }
    }
    Ok(())
}
