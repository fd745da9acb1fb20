//! The check of encoded values before they are decoded (AMQP 1.0, part 1): iterative, in bounded memory.

/// The largest depth of nested lists, maps and described values.
const MAX_DEPTH: usize = 64;
/// The largest number of values in a frame or message, including those in lists, maps and arrays.
const MAX_VALUES: usize = 65_536;

/// The reason why bytes cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("it ends too early")]
    Truncated,
    #[error("its values are in each other more than {MAX_DEPTH} deep")]
    TooDeep,
    #[error("it has more than {MAX_VALUES} values")]
    TooMany,
    #[error("no type has the code {0:#04x}")]
    UnknownType(u8),
    #[error("a size or count contradicts the bytes it is of")]
    Size,
    #[error("a text is not UTF-8")]
    Text,
    #[error("a truth value or character is none")]
    Scalar,
    #[error("a descriptor is neither a number nor a symbol")]
    Descriptor,
    #[error("an array is empty, or of what is no plain type")]
    Array,
    #[error("{0:#x} describes no section, or one in a wrong place")]
    Section(u64),
    #[error("a section is of the wrong type")]
    SectionType,
    #[error("the performative is unknown or not well-formed")]
    Performative,
}

/// Steps over encoded values, and checks them.
///
/// It accepts only values whose length the client library computes alike: otherwise the library would continue with
/// unchecked bytes. So it accepts arrays of plain types only.
#[derive(Debug)]
pub(super) struct Walk {
    open: Vec<Open>,
    left: usize,
}

/// A list, map or described value whose elements are not all checked.
#[derive(Debug)]
struct Open {
    elements: usize,
    end: usize,
    /// Whether its last element must end at `end`.
    exact: bool,
}

impl Default for Walk {
    fn default() -> Self {
        Self { open: Vec::new(), left: MAX_VALUES }
    }
}

impl Walk {
    /// Restarts for another frame or message.
    pub(super) fn restart(&mut self) {
        self.left = MAX_VALUES;
    }

    /// Returns the end of the value that starts at `at`.
    pub(super) fn end_of(&mut self, bytes: &[u8], at: usize) -> Result<usize, Flaw> {
        self.open.clear();
        self.open.push(Open { elements: 1, end: bytes.len(), exact: false });
        let mut at = at;
        while let Some(innermost) = self.open.last_mut() {
            let (end, exact) = (innermost.end, innermost.exact);
            if innermost.elements == 0 {
                if exact && at != end {
                    return Err(Flaw::Size);
                }
                self.open.pop();
                continue;
            }
            innermost.elements -= 1;
            self.count(1)?;
            at = self.step(&bytes[..end], at)?;
        }
        Ok(at)
    }

    /// Steps over one value, or into it.
    fn step(&mut self, bytes: &[u8], at: usize) -> Result<usize, Flaw> {
        let code = *bytes.get(at).ok_or(Flaw::Truncated)?;
        let at = at + 1;
        match code {
            0x00 => {
                let (_, at) = descriptor(bytes, at)?;
                self.enter(Open { elements: 1, end: bytes.len(), exact: false })?;
                Ok(at)
            }
            0xc0 | 0xc1 | 0xd0 | 0xd1 => {
                let (mut at, end, elements) = compound(bytes, at, code)?;
                if elements > end - at || (code & 1 == 1 && elements % 2 == 1) {
                    return Err(Flaw::Size);
                }
                if elements > 0 {
                    self.enter(Open { elements, end, exact: true })?;
                } else if at != end {
                    return Err(Flaw::Size);
                } else {
                    at = end;
                }
                Ok(at)
            }
            0xe0 | 0xf0 => {
                let (at, end, elements) = compound(bytes, at, code)?;
                self.count(elements)?;
                array(&bytes[..end], at, elements)?;
                Ok(end)
            }
            code => plain(bytes, at, code),
        }
    }

    fn enter(&mut self, value: Open) -> Result<(), Flaw> {
        if self.open.len() > MAX_DEPTH {
            return Err(Flaw::TooDeep);
        }
        self.open.push(value);
        Ok(())
    }

    fn count(&mut self, values: usize) -> Result<(), Flaw> {
        self.left = self.left.checked_sub(values).ok_or(Flaw::TooMany)?;
        Ok(())
    }
}

/// Returns the number and the end of a descriptor. A symbol of the standard has the number of its code, any other 0.
pub(super) fn descriptor(bytes: &[u8], at: usize) -> Result<(u64, usize), Flaw> {
    let code = *bytes.get(at).ok_or(Flaw::Truncated)?;
    if !matches!(code, 0x44 | 0x53 | 0x80 | 0xa3 | 0xb3) {
        return Err(Flaw::Descriptor);
    }
    let end = plain(bytes, at + 1, code)?;
    let number = match code {
        0x44 => 0,
        0x53 | 0x80 => number(&bytes[at + 1..end]),
        0xa3 => named(&bytes[at + 2..end]),
        _ => named(&bytes[at + 5..end]),
    };
    Ok((number, end))
}

fn named(symbol: &[u8]) -> u64 {
    match symbol {
        b"amqp:open:list" => 0x10,
        b"amqp:begin:list" => 0x11,
        b"amqp:attach:list" => 0x12,
        b"amqp:flow:list" => 0x13,
        b"amqp:transfer:list" => 0x14,
        b"amqp:disposition:list" => 0x15,
        b"amqp:detach:list" => 0x16,
        b"amqp:end:list" => 0x17,
        b"amqp:close:list" => 0x18,
        b"amqp:header:list" => 0x70,
        b"amqp:delivery-annotations:map" => 0x71,
        b"amqp:message-annotations:map" => 0x72,
        b"amqp:properties:list" => 0x73,
        b"amqp:application-properties:map" => 0x74,
        b"amqp:data:binary" => 0x75,
        b"amqp:amqp-sequence:list" => 0x76,
        b"amqp:amqp-value:*" => 0x77,
        b"amqp:footer:map" => 0x78,
        _ => 0,
    }
}

/// Returns the start, the end and the number of the elements of a list, map or array.
fn compound(bytes: &[u8], at: usize, code: u8) -> Result<(usize, usize, usize), Flaw> {
    let width = if code < 0xd0 || code == 0xe0 { 1 } else { 4 };
    let size = sized(bytes, at, width)?;
    let end = (at + width).checked_add(size).filter(|end| *end <= bytes.len()).ok_or(Flaw::Truncated)?;
    if size < width {
        return Err(Flaw::Size);
    }
    let elements = sized(bytes, at + width, width)?;
    Ok((at + 2 * width, end, elements))
}

/// Steps over the elements of an array, after its count: one type code, then the values.
fn array(bytes: &[u8], at: usize, elements: usize) -> Result<(), Flaw> {
    if elements == 0 {
        // The client library would read the type as the value after the array.
        return if at == bytes.len() { Ok(()) } else { Err(Flaw::Array) };
    }
    let code = *bytes.get(at).ok_or(Flaw::Truncated)?;
    if matches!(code, 0x00 | 0x40..=0x45 | 0xc0..=0xff) {
        return Err(Flaw::Array);
    }
    let mut at = at + 1;
    for _ in 0..elements {
        at = plain(bytes, at, code)?;
    }
    if at == bytes.len() { Ok(()) } else { Err(Flaw::Size) }
}

/// Steps over a plain value, after its type code.
fn plain(bytes: &[u8], at: usize, code: u8) -> Result<usize, Flaw> {
    let (at, size) = match code {
        0x40..=0x45 => (at, 0),
        0x50..=0x56 => (at, 1),
        0x60 | 0x61 => (at, 2),
        0x70..=0x74 => (at, 4),
        0x80..=0x84 => (at, 8),
        0x94 | 0x98 => (at, 16),
        0xa0 | 0xa1 | 0xa3 => (at + 1, sized(bytes, at, 1)?),
        0xb0 | 0xb1 | 0xb3 => (at + 4, sized(bytes, at, 4)?),
        code => return Err(Flaw::UnknownType(code)),
    };
    let end = at.checked_add(size).filter(|end| *end <= bytes.len()).ok_or(Flaw::Truncated)?;
    let value = &bytes[at..end];
    match code {
        0x56 if value[0] > 1 => Err(Flaw::Scalar),
        0x73 if u32::try_from(number(value)).ok().and_then(char::from_u32).is_none() => Err(Flaw::Scalar),
        0xa1 | 0xa3 | 0xb1 | 0xb3 if std::str::from_utf8(value).is_err() => Err(Flaw::Text),
        _ => Ok(end),
    }
}

fn sized(bytes: &[u8], at: usize, width: usize) -> Result<usize, Flaw> {
    let size = bytes.get(at..at + width).ok_or(Flaw::Truncated)?;
    usize::try_from(number(size)).map_err(|_| Flaw::Size)
}

/// Returns the number in at most eight bytes, the highest first.
pub(super) fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(bytes: &[u8]) -> Result<usize, Flaw> {
        Walk::default().end_of(bytes, 0)
    }

    /// `depth` nested lists.
    fn nested(depth: usize) -> Vec<u8> {
        (1..depth).fold(vec![0x45], |inner, _| {
            let size = (inner.len() as u32 + 4).to_be_bytes();
            [&[0xd0][..], &size, &1_u32.to_be_bytes(), &inner].concat()
        })
    }

    #[test]
    fn the_library_reads_what_is_taken_and_ends_where_the_walk_does() {
        use serde_amqp::Value;
        for bytes in [
            &b"\x40"[..],
            b"\x56\x01",
            b"\x73\0\0\x26\x03",
            b"\xa1\x03\xe2\x98\x83",
            b"\xb3\0\0\0\x01a",
            b"\xc0\x04\x02\x41\x52\x07",
            b"\xc1\x05\x02\xa1\x01k\x40",
            b"\xd1\0\0\0\x04\0\0\0\0",
            b"\xe0\x04\x02\x60\0\x01\0\x02"[..6].as_ref(),
            b"\x00\x53\x70\x00\xa3\x01a\x45",
            b"\x98\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f",
        ] {
            let taken = walk(bytes).is_ok();
            let read = serde_amqp::from_slice::<Value>(bytes).is_ok();
            assert!(read || !taken, "{bytes:x?}");
        }
        assert_eq!(walk(b"\xe0\x06\x02\x60\0\x01\0\x02more"), Ok(8));
    }

    #[test]
    fn depth_is_limited_whatever_it_is_made_of() {
        assert!(walk(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(walk(&nested(MAX_DEPTH + 2)), Err(Flaw::TooDeep));
        assert_eq!(walk(&nested(5_000)), Err(Flaw::TooDeep));
        assert_eq!(walk(&[&b"\x00\x53\x01".repeat(5_000)[..], b"\x40"].concat()), Err(Flaw::TooDeep));
        let taken = nested(MAX_DEPTH);
        assert!(serde_amqp::from_slice::<serde_amqp::Value>(&taken).is_ok());
    }

    #[test]
    fn what_lies_is_refused() {
        for (bytes, flaw) in [
            (&b""[..], Flaw::Truncated),
            (b"\xa1\x05abc", Flaw::Truncated),
            (b"\xb0\xff\xff\xff\xff", Flaw::Truncated),
            (b"\xd0\0\0\0\x04\xff\xff\xff\xff", Flaw::Size),
            (b"\xc0\x01\xff", Flaw::Size),
            (b"\xc0\x00\x00", Flaw::Size),
            (b"\xc0\x03\x01\x40\x40", Flaw::Size),
            (b"\xc1\x02\x01\x40", Flaw::Size),
            (b"\xf0\0\0\0\x05\xff\xff\xff\xff\x40", Flaw::TooMany),
            (b"\xf0\0\0\0\x05\0\0\xff\xff\x41", Flaw::Array),
            (b"\xe0\x02\x00\xc0", Flaw::Array),
            (b"\xe0\x06\x01\xc1\x03\x02\x40\x40", Flaw::Array),
            (b"\xa1\x02\xff\xfe", Flaw::Text),
            (b"\xa3\x02\xff\xfe", Flaw::Text),
            (b"\x73\0\0\xd8\x00", Flaw::Scalar),
            (b"\x56\x02", Flaw::Scalar),
            (b"\x57", Flaw::UnknownType(0x57)),
            (b"\x00\x40\x40", Flaw::Descriptor),
        ] {
            assert_eq!(walk(bytes), Err(flaw), "{bytes:x?}");
        }
    }

    #[test]
    fn the_number_of_values_is_limited() {
        let list = |count: u32| {
            let size = (count + 4).to_be_bytes();
            [&[0xd0][..], &size, &count.to_be_bytes(), &vec![0x40; count as usize]].concat()
        };
        assert!(walk(&list(60_000)).is_ok());
        assert_eq!(walk(&list(100_000)), Err(Flaw::TooMany));
    }
}
