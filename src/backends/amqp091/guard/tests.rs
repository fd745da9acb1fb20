//! The guard, on bytes that come in pieces.

use std::sync::Arc;

use super::findings::{BodyMemory, Finding, Findings, HeldBytes};
use super::frames::{FRAME_MAX, Guard};

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap();
    [&[kind][..], &channel.to_be_bytes(), &size.to_be_bytes(), payload, &[0xCE]].concat()
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()][..], text].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

fn deliver(channel: u16, tag: u64, routing_key: &[u8]) -> Vec<u8> {
    let arguments =
        [&[0, 60, 0, 60][..], &short(b"tag"), &tag.to_be_bytes(), &[0], &short(b""), &short(routing_key)];
    frame(1, channel, &arguments.concat())
}

fn header(channel: u16, size: u64, flags: u16, properties: &[u8]) -> Vec<u8> {
    let payload = [&[0, 60, 0, 0][..], &size.to_be_bytes(), &flags.to_be_bytes(), properties].concat();
    frame(2, channel, &payload)
}

const CONTENT_TYPE: u16 = 1 << 15;
const HEADERS: u16 = 1 << 13;
const MESSAGE_ID: u16 = 1 << 7;

/// A header whose value is nested so deep, in arrays or in tables.
fn nested(depth: usize, kind: u8) -> Vec<u8> {
    let name = if kind == b'F' { &b"\x01a"[..] } else { b"" };
    let mut value = vec![b'V'];
    for _ in 0..depth {
        let content = if value == [b'V'] { Vec::new() } else { [name, &value].concat() };
        value = [&[kind][..], &long(&content)].concat();
    }
    [&short(b"deep")[..], &value].concat()
}

/// Feeds the input in pieces of this length; returns the output and the findings.
fn through(input: &[u8], pieces: usize, room: usize) -> (Result<Vec<u8>, String>, Arc<Findings>) {
    let findings = Arc::new(Findings::new(room));
    let mut guard = Guard::new(Arc::clone(&findings));
    let mut out = Vec::new();
    for piece in input.chunks(pieces) {
        let (mut piece, mut moved) = (piece.to_vec(), Vec::new());
        match guard.take(&mut piece, &mut moved) {
            Ok(kept) => {
                out.extend_from_slice(&piece[..kept]);
                out.extend(moved);
            }
            Err(error) => return (Err(error.to_string()), findings),
        }
    }
    (Ok(out), findings)
}

/// The same, whatever the pieces.
#[track_caller]
fn out_of(input: &[u8]) -> (Vec<u8>, Arc<Findings>) {
    let (whole, findings) = through(input, usize::MAX, usize::MAX);
    let whole = whole.unwrap();
    for pieces in (1..40).chain([input.len() / 2 + 1]) {
        assert_eq!(through(input, pieces, usize::MAX).0.as_ref(), Ok(&whole), "pieces of {pieces}");
    }
    (whole, findings)
}

fn unreadable(reason: &str) -> Option<Finding> {
    Some(Finding::Unreadable(reason.to_owned()))
}

#[test]
fn what_can_be_read_goes_on_as_it_is() {
    let table = long(&[short(b"name"), b"S".to_vec(), long(b"\xff\xfe"), nested(64, b'A')].concat());
    let start = [&[0, 10, 0, 10, 0, 9][..], &table, &long(b"PLAIN"), &long(b"en_US")].concat();
    let input = [
        frame(1, 0, &start),
        frame(8, 0, b""),
        deliver(1, 7, b"a.b"),
        header(1, 3, CONTENT_TYPE | HEADERS | MESSAGE_ID, &[short(b"text"), table, short(b"id")].concat()),
        frame(3, 1, b"ab"),
        deliver(2, 1, b""),
        frame(3, 1, b"c"),
        header(2, 0, 0, b""),
        frame(1, 1, &[0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1, 0]),
    ]
    .concat();
    let (out, findings) = out_of(&input);
    assert_eq!(out, input);
    assert_eq!((findings.take(1, 7), findings.take(2, 1)), (None, None));
}

#[test]
fn strings_become_utf8_where_they_are() {
    let properties = [short(b"a\xff\xfe"), long(&[&short(b"\xfe")[..], b"V"].concat())].concat();
    let input = [deliver(1, 7, b"b\xc3"), header(1, 0, CONTENT_TYPE | HEADERS, &properties)].concat();
    let (out, findings) = out_of(&input);
    let properties = [short(b"a??"), long(&[&short(b"?")[..], b"V"].concat())].concat();
    assert_eq!(out, [deliver(1, 7, b"b?"), header(1, 0, CONTENT_TYPE | HEADERS, &properties)].concat());
    assert_eq!(findings.take(1, 7), unreadable("its routing key is not UTF-8"));
    assert_eq!(findings.take(1, 7), None);
    let blocked = frame(1, 0, &[&[0, 10, 0, 60][..], &short(b"\xff")].concat());
    assert_eq!(out_of(&blocked).0, frame(1, 0, &[&[0, 10, 0, 60][..], &short(b"?")].concat()));
}

#[test]
fn what_is_nested_too_deep_becomes_bytes() {
    for kind in [b'A', b'F'] {
        for depth in [65, 5_000] {
            let mut table = long(&[nested(depth, kind), nested(64, kind)].concat());
            let input = [deliver(1, 7, b"a"), header(1, 0, HEADERS, &table)].concat();
            let (out, findings) = through(&input, usize::MAX, usize::MAX);
            table[4 + 5] = b'x';
            assert_eq!(out.unwrap(), [deliver(1, 7, b"a"), header(1, 0, HEADERS, &table)].concat());
            assert_eq!(
                findings.take(1, 7),
                unreadable("the header \"deep\" is nested deeper than 64 levels")
            );
        }
    }
}

#[test]
fn what_cannot_be_told_apart_is_cut_out_and_the_rest_is_kept() {
    let good = [&short(b"good")[..], b"t\x01"].concat();
    let bad = [&short(b"bad")[..], b"Z123"].concat();
    let table = long(&[&good[..], &bad].concat());
    let properties = [table, short(b"id")].concat();
    let input = [deliver(1, 7, b"a"), header(1, 1, HEADERS | MESSAGE_ID, &properties), frame(3, 1, b"x")];
    let (out, findings) = out_of(&input.concat());
    let properties = [long(&good), short(b"id")].concat();
    let expected = [deliver(1, 7, b"a"), header(1, 1, HEADERS | MESSAGE_ID, &properties), frame(3, 1, b"x")];
    assert_eq!(out, expected.concat());
    assert_eq!(findings.take(1, 7), unreadable("a header is not one of AMQP 0-9-1"));

    for (flags, properties, kept, left, fault) in [
        (
            CONTENT_TYPE | MESSAGE_ID,
            &b"\x01a\x09b"[..],
            CONTENT_TYPE,
            &b"\x01a"[..],
            "its message id is longer than its frame",
        ),
        (CONTENT_TYPE, b"\x01abc", CONTENT_TYPE, b"\x01a", "its properties end before their frame"),
        (CONTENT_TYPE | 1, b"\x01a\0\0", 0, b"", "it has properties that AMQP 0-9-1 does not know"),
        (
            HEADERS,
            b"\0\0\0\x09\x01aV",
            HEADERS,
            b"\0\0\0\x03\x01aV",
            "its headers are longer than their frame",
        ),
    ] {
        let input = [deliver(1, 7, b"a"), header(1, 0, flags, properties)].concat();
        let (out, findings) = out_of(&input);
        assert_eq!(out, [deliver(1, 7, b"a"), header(1, 0, kept, left)].concat(), "{fault}");
        assert_eq!(findings.take(1, 7), unreadable(fault));
    }
}

#[test]
fn a_header_that_is_larger_than_a_frame_loses_its_properties() {
    let large = |extra: usize| {
        let table = long(&[&short(b"large")[..], b"S", &long(&vec![b'x'; FRAME_MAX + extra])].concat());
        header(1, 3, HEADERS, &table)
    };
    let bare = [deliver(1, 7, b"a"), header(1, 3, 0, b""), frame(3, 1, b"abc"), deliver(1, 8, b"b")].concat();
    for extra in [0, 1, 100_000, 3_000_000] {
        let input = [deliver(1, 7, b"a"), large(extra), frame(3, 1, b"abc"), deliver(1, 8, b"b")].concat();
        for pieces in [1_000, 8_191, input.len() / 2, usize::MAX] {
            let (out, findings) = through(&input, pieces, usize::MAX);
            assert_eq!(out.as_ref(), Ok(&bare), "{extra} more, pieces of {pieces}");
            assert_eq!(findings.take(1, 7), unreadable("its properties are larger than a frame may be"));
        }
    }
    // The largest that fits passes unchanged.
    let name = [&short(b"large")[..], b"S"].concat();
    let fits = FRAME_MAX - 8 - 14 - 4 - name.len() - 4;
    let fitting = header(1, 3, HEADERS, &long(&[name, long(&vec![b'x'; fits])].concat()));
    assert_eq!(fitting.len(), FRAME_MAX);
    let input = [deliver(1, 7, b"a"), fitting].concat();
    let (out, findings) = through(&input, 70_000, usize::MAX);
    assert_eq!((out.unwrap(), findings.take(1, 7)), (input, None));
    // A channel that has no message yet, and one whose end is none.
    assert!(through(&large(0), usize::MAX, usize::MAX).0.unwrap_err().contains("a header without a message"));
    let mut no_end = [deliver(1, 7, b"a"), large(0)].concat();
    *no_end.last_mut().unwrap() = 7;
    assert!(through(&no_end, 5_000, usize::MAX).0.unwrap_err().contains("ends with 0x07"));
}

#[test]
fn a_body_there_is_no_room_for_is_left_out_as_it_comes() {
    let message = |tag, body: &[u8]| {
        [deliver(1, tag, b"a"), header(1, body.len() as u64, 0, b""), frame(3, 1, body)].concat()
    };
    let input = [message(1, b"larger than all"), message(2, b"x"), deliver(1, 3, b"b")].concat();
    for pieces in [1, 7, 1_000] {
        let (out, findings) = through(&input, pieces, 10);
        let empty = [deliver(1, 2, b"a"), header(1, 0, 0, b"")].concat();
        assert_eq!(out.unwrap(), [message(1, b"larger than all"), empty, deliver(1, 3, b"b")].concat());
        assert_eq!([1, 2, 3].map(|tag| findings.take(1, tag)), [None, Some(Finding::NoRoom(1)), None]);
    }
}

#[test]
fn room_is_kept_for_one_that_was_handed_back_and_others_wait_until_it_strays() {
    let findings = Arc::new(Findings::new(10));
    let admit = |bytes, redelivered| findings.admit(bytes, redelivered);
    assert_eq!(
        [admit(6, false), admit(7, false), admit(1, false)],
        [BodyMemory::Fits, BodyMemory::Full, BodyMemory::Full]
    );
    drop(HeldBytes::new(&findings, 6));
    assert_eq!(admit(1, false), BodyMemory::Full, "the others come first");
    assert!(findings.has_room(7));
    findings.handed_back(7);
    assert_eq!(
        [admit(9, true), admit(7, false), admit(7, true)],
        [BodyMemory::Fits, BodyMemory::Full, BodyMemory::Reserved]
    );
    assert_eq!(admit(7, true), BodyMemory::Full);
    drop([HeldBytes::new(&findings, 9), HeldBytes::new(&findings, 7)]);
    findings.handed_back(1);
    findings.strayed();
    assert_eq!([admit(1, false), admit(10, true)], [BodyMemory::Fits, BodyMemory::Full]);
    findings.let_go(4);
    assert_eq!([admit(10, false), admit(1, true)], [BodyMemory::Full, BodyMemory::Reserved]);
    drop([HeldBytes::new(&findings, 1), HeldBytes::new(&findings, 1)]);
    findings.handed_back(9);
    assert_eq!(admit(1, false), BodyMemory::Full, "one of 9 is on its way");
    assert_eq!(admit(9, true), BodyMemory::Reserved);
    drop(HeldBytes::new(&findings, 9));
    findings.let_go(1);
    assert_eq!(admit(1, false), BodyMemory::Fits);
    assert_eq!(admit(2, false), BodyMemory::Fits);
    assert_eq!(admit(9, false), BodyMemory::Full);
    assert_eq!(admit(2, false), BodyMemory::Full, "they wait again");
}

#[test]
fn what_no_broker_may_send_is_an_error_that_names_it() {
    let large = u32::try_from(FRAME_MAX).unwrap().to_be_bytes();
    let mut no_end = frame(8, 0, b"");
    *no_end.last_mut().unwrap() = 7;
    for (input, named) in [
        ([&[3, 0, 1][..], &large].concat(), "a frame of 131072 bytes"),
        (frame(9, 0, b""), "a frame of the type 9"),
        (b"AMQP\0\x01\0\0".to_vec(), "its version of AMQP"),
        (no_end, "ends with 0x07"),
        (frame(3, 1, b"x"), "a body without a header on the channel 1"),
        (header(1, 1, 0, b""), "a header without a message"),
        ([deliver(1, 1, b""), deliver(1, 2, b"")].concat(), "before the end of another"),
        (
            [deliver(1, 1, b""), header(1, 1, 0, b""), frame(3, 1, b"ab")].concat(),
            "1 bytes more than announced",
        ),
        ([deliver(1, 1, b""), header(1, 1 << 40, 0, b"")].concat(), "a body of 1099511627776 bytes"),
        ([deliver(1, 1, b""), frame(2, 1, b"\0\x3c")].concat(), "a header that is too short"),
        (deliver(0, 1, b""), "on the channel 0"),
        (frame(1, 1, &[0, 50, 0, 10]), "the method 50.10, which no broker sends"),
        (frame(1, 0, &[0, 10, 0, 60, 9]), "the method 10.60 with arguments that cannot be read"),
        (frame(1, 0, &[0, 10, 0, 61, 9]), "the method 10.61 with more than its arguments"),
        (frame(1, 0, b"x"), "a method that is too short"),
    ] {
        for pieces in [1, 5, 1_000] {
            let error = through(&input, pieces, usize::MAX).0.expect_err(named);
            assert!(error.starts_with("the broker sent ") && error.contains(named), "{error}");
        }
    }
}
