//! Strings and tables of AMQP 0-9-1, mended in place.

/// How deep a header may be nested.
const DEPTH: usize = 64;

/// Returns the length of a short string with its length byte; `None` if it is truncated.
pub(super) fn short(bytes: &[u8]) -> Option<usize> {
    let length = 1 + usize::from(*bytes.first()?);
    (length <= bytes.len()).then_some(length)
}

/// As [`short`], for a long string or a table.
pub(super) fn long(bytes: &[u8]) -> Option<usize> {
    let length = bytes.first_chunk().map(|length| u32::from_be_bytes(*length))?;
    let length = usize::try_from(length).ok()?.checked_add(4)?;
    (length <= bytes.len()).then_some(length)
}

/// Makes UTF-8 of it; whether it was none.
pub(super) fn made_utf8(bytes: &mut [u8]) -> bool {
    let mut from = 0;
    while let Err(error) = str::from_utf8(&bytes[from..]) {
        let at = from + error.valid_up_to();
        let end = error.error_len().map_or(bytes.len(), |length| at + length);
        bytes[at..end].fill(b'?');
        from = end;
    }
    from > 0
}

/// Mends the table that begins at `at` of what ends at `end`, which comes nearer if something is cut out. Gives where the
/// table ends; none if it has no length.
pub(super) fn mend(
    bytes: &mut [u8],
    at: usize,
    end: &mut usize,
    fault: &mut dyn FnMut(String),
) -> Option<usize> {
    let length = bytes[at..*end].first_chunk().map(|length| u32::from_be_bytes(*length))?;
    let begin = at + 4;
    let mut until = begin.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
    if until > *end {
        fault("its headers are longer than their frame".to_owned());
        until = *end;
    }
    let mut entry = begin;
    while entry < until {
        let Some((value, next)) = entry_at(bytes, entry, until) else {
            fault("a header is not one of AMQP 0-9-1".to_owned());
            bytes.copy_within(until..*end, entry);
            *end -= until - entry;
            until = entry;
            break;
        };
        if made_utf8(&mut bytes[entry + 1..value]) {
            fault("the name of a header is not UTF-8".to_owned());
        }
        if matches!(bytes[value], b'A' | b'F')
            && let Err(what) = nested(&bytes[value + 5..next], bytes[value] == b'F')
        {
            let name = String::from_utf8_lossy(&bytes[entry + 1..value]);
            fault(format!("the header {:?} {what}", crate::message::headers::start_of(&name, 100)));
            bytes[value] = b'x';
        }
        entry = next;
    }
    // The length came as 32 bits, or has shrunk.
    let length = u32::try_from(until - begin).unwrap_or_default();
    bytes[at..begin].copy_from_slice(&length.to_be_bytes());
    Some(until)
}

/// Where the value of an entry is, and the next entry.
fn entry_at(bytes: &[u8], at: usize, end: usize) -> Option<(usize, usize)> {
    let value = at + short(&bytes[at..end])?;
    Some((value, value + 1 + value_length(&bytes[value..end])?))
}

/// How many bytes a value has behind its type.
fn value_length(bytes: &[u8]) -> Option<usize> {
    let (kind, value) = bytes.split_first()?;
    let length = match kind {
        b'V' => 0,
        b't' | b'b' | b'B' => 1,
        b's' | b'u' | b'U' => 2,
        b'I' | b'i' | b'f' => 4,
        b'D' => 5,
        b'l' | b'L' | b'd' | b'T' => 8,
        b'S' | b'A' | b'F' | b'x' => long(value)?,
        _ => return None,
    };
    (length <= value.len()).then_some(length)
}

/// Whether the content of an array or table can be read, all the way down.
fn nested(bytes: &[u8], is_table: bool) -> Result<(), &'static str> {
    const BROKEN: &str = "holds a value that is not one of AMQP 0-9-1";
    let mut levels = [(0, false); DEPTH];
    levels[0] = (bytes.len(), is_table);
    let (mut depth, mut at) = (1, 0);
    while depth > 0 {
        let (end, is_table) = levels[depth - 1];
        if at == end {
            depth -= 1;
            continue;
        }
        if is_table {
            let name = short(&bytes[at..end]).ok_or(BROKEN)?;
            str::from_utf8(&bytes[at + 1..at + name]).map_err(|_| "holds a name that is not UTF-8")?;
            at += name;
        }
        let next = at + 1 + value_length(&bytes[at..end]).ok_or(BROKEN)?;
        match bytes[at] {
            kind @ (b'A' | b'F') => {
                let level = levels.get_mut(depth).ok_or("is nested deeper than 64 levels")?;
                *level = (next, kind == b'F');
                depth += 1;
                at += 5;
            }
            _ => at = next,
        }
    }
    Ok(())
}
