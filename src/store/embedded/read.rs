//! Reads stored messages by their positions.

use std::collections::BTreeMap;
use std::io;

use uuid::Uuid;

use super::encoding::{decode_message, has_id};
use crate::log::scan::Found;
use crate::log::segment::Segment;
use crate::message::Message;

/// A position and its message; `None` if the message is damaged.
pub(super) type Read = (u64, Option<Message>);

/// Reads the messages at `positions`, which must rise. With an id, the result has the messages of that id, and the positions
/// whose message cannot be read.
pub(super) fn read_many(
    segments: &BTreeMap<u64, Segment>,
    positions: &[u64],
    id: Option<Uuid>,
) -> io::Result<Vec<Read>> {
    let mut read = Vec::new();
    let mut rest = positions;
    while let Some(first) = rest.first() {
        let Some((_, segment)) = segments.range(..=*first).next_back() else {
            read.push((*first, None));
            rest = &rest[1..];
            continue;
        };
        let count = rest.partition_point(|position| *position < segment.end).max(1);
        read_segment(segment, &rest[..count], id, &mut read)?;
        rest = &rest[count..];
    }
    Ok(read)
}

fn read_segment(
    segment: &Segment,
    positions: &[u64],
    id: Option<Uuid>,
    read: &mut Vec<Read>,
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
