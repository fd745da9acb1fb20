//! Content headers: the properties of a message.

use super::table::{made_utf8, mend as mend_table, short};

/// Class, weight, body size and property flags.
pub(super) const HEAD: usize = 14;

enum Kind {
    Short,
    Table,
    Fixed(usize),
}

/// In the order of their flags, from the highest bit.
const PROPERTIES: [(&str, Kind); 14] = [
    ("content type", Kind::Short),
    ("content encoding", Kind::Short),
    ("headers", Kind::Table),
    ("delivery mode", Kind::Fixed(1)),
    ("priority", Kind::Fixed(1)),
    ("correlation id", Kind::Short),
    ("reply address", Kind::Short),
    ("expiration", Kind::Short),
    ("message id", Kind::Short),
    ("timestamp", Kind::Fixed(8)),
    ("type", Kind::Short),
    ("user id", Kind::Short),
    ("app id", Kind::Short),
    ("cluster id", Kind::Short),
];

/// Whether a content header of at least [`HEAD`] bytes has a reply address and an expiration.
pub(super) fn is_request(payload: &[u8]) -> bool {
    const BOTH: u16 = 1 << 9 | 1 << 8;
    u16::from_be_bytes([payload[HEAD - 2], payload[HEAD - 1]]) & BOTH == BOTH
}

/// Makes a content header of at least [`HEAD`] bytes readable. Returns the number of bytes that are left, and its first
/// fault.
pub(super) fn mend(payload: &mut [u8]) -> (usize, Option<String>) {
    let mut first = None;
    let mut fault = |fault: String| {
        first.get_or_insert(fault);
    };
    let had = u16::from_be_bytes([payload[HEAD - 2], payload[HEAD - 1]]);
    let (mut flags, mut at, mut end) = (had, HEAD, payload.len());
    if flags & 0b11 != 0 {
        fault("it has properties that AMQP 0-9-1 does not know".to_owned());
        flags = 0;
    }
    for (index, (name, kind)) in PROPERTIES.iter().enumerate() {
        let flag = 1 << (15 - index);
        if flags & flag == 0 {
            continue;
        }
        let next = match kind {
            Kind::Fixed(length) => Some(at + length).filter(|next| *next <= end),
            Kind::Short => short(&payload[at..end]).map(|length| at + length),
            Kind::Table => mend_table(payload, at, &mut end, &mut fault),
        };
        let Some(next) = next else {
            fault(format!("its {name} is longer than its frame"));
            flags &= !(flag | (flag - 1));
            break;
        };
        if matches!(kind, Kind::Short) && made_utf8(&mut payload[at + 1..next]) {
            fault(format!("its {name} is not UTF-8"));
        }
        at = next;
    }
    if at < end {
        fault("its properties end before their frame".to_owned());
    }
    payload[HEAD - 2..HEAD].copy_from_slice(&flags.to_be_bytes());
    (at, first)
}
