//! The check of the sections of a message (AMQP 1.0, 3.2).

use super::values::{Flaw, Walk, descriptor};

/// Checks that each section of a message is known, in order and of the right type, and that its content can be decoded.
///
/// # Errors
/// The first [`Flaw`].
pub(crate) fn check(message: &[u8]) -> Result<(), Flaw> {
    let mut walk = Walk::default();
    let mut at = 0;
    let mut last = 0;
    while let Some(start) = message.get(at) {
        if *start != 0 {
            return Err(Flaw::SectionType);
        }
        let (section, value) = descriptor(message, at + 1)?;
        let more_of_a_body = section == last && matches!(section, DATA | SEQUENCE);
        let follows = section > last && !matches!((last, section), (DATA | SEQUENCE, SEQUENCE | VALUE));
        if !(HEADER..=FOOTER).contains(&section) || !(follows || more_of_a_body) {
            return Err(Flaw::Section(section));
        }
        let code = *message.get(value).ok_or(Flaw::Truncated)?;
        if !is_of_its_type(section, code) {
            return Err(Flaw::SectionType);
        }
        at = walk.end_of(message, value)?;
        last = section;
    }
    Ok(())
}

const HEADER: u64 = 0x70;
const PROPERTIES: u64 = 0x73;
const DATA: u64 = 0x75;
const SEQUENCE: u64 = 0x76;
const VALUE: u64 = 0x77;
const FOOTER: u64 = 0x78;

fn is_of_its_type(section: u64, code: u8) -> bool {
    match section {
        HEADER | PROPERTIES | SEQUENCE => matches!(code, 0x45 | 0xc0 | 0xd0),
        DATA => matches!(code, 0xa0 | 0xb0),
        VALUE => true,
        _ => matches!(code, 0xc1 | 0xd1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_known_in_their_place_and_of_their_type() {
        let data = &b"\x00\x53\x75\xa0\x01a"[..];
        let properties = &b"\x00\x53\x73\x45"[..];
        let value = &b"\x00\x53\x77\x40"[..];
        let long = &b"\x00\x80\0\0\0\0\0\0\0\x75\xb0\0\0\0\0"[..];
        let named = &b"\x00\xa3\x10amqp:data:binary\xa0\x00"[..];
        for taken in [&[][..], &[properties, data], &[data, data], &[long], &[named], &[properties]] {
            assert_eq!(check(&taken.concat()), Ok(()));
        }
        for (refused, flaw) in [
            (&[data, properties][..], Flaw::Section(0x73)),
            (&[properties, properties], Flaw::Section(0x73)),
            (&[data, value], Flaw::Section(0x77)),
            (&[value, value], Flaw::Section(0x77)),
            (&[b"\x00\x53\x79\x40"], Flaw::Section(0x79)),
            (&[b"\x00\xa3\x01x\x40"], Flaw::Section(0)),
            (&[b"\x00\x53\x75\x40"], Flaw::SectionType),
            (&[b"\x00\x53\x74\x45"], Flaw::SectionType),
            (&[b"no"], Flaw::SectionType),
            (&[b"\x00\x53\x75"], Flaw::Truncated),
        ] {
            assert_eq!(check(&refused.concat()), Err(flaw));
        }
    }
}
