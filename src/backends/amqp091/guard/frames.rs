//! The walk over the frames of a connection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::{fmt, io};

use super::arguments::{Argument, CHANNEL_CLOSE, CHANNEL_CLOSE_OK, DELIVER, GET_OK, RETURN, arguments};
use super::content;
use super::findings::{BodyMemory, Finding, Findings};
use super::table::{long, made_utf8, mend as mend_table, short};

/// The largest frame that a broker may send, as announced to it.
pub(crate) const FRAME_MAX: usize = 131_072;

/// The largest body there is: RabbitMQ's own limit.
const BODY_MAX: u64 = 512 << 20;

/// Type, channel and size.
const HEAD: usize = 7;
const END: u8 = 0xCE;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;

const BASIC: u16 = 60;

/// Walks the bytes that come over one connection, in pieces of any length.
#[derive(Debug)]
pub(crate) struct Guard {
    findings: Arc<Findings>,
    /// The beginning of a frame whose rest has not come.
    begun: Vec<u8>,
    /// The rest of the frame of a body, or of a frame that is held back.
    body: Option<Rest>,
    /// The messages that come, by channel.
    contents: BTreeMap<u16, Content>,
}

#[derive(Debug)]
struct Rest {
    /// Its end included.
    left: usize,
    passes: bool,
}

#[derive(Debug)]
enum Content {
    /// Its header is to come.
    Announced { tag: Option<u64>, consumed: Option<Consumed>, fault: Option<String> },
    /// This much of its body is to come.
    Comes { left: u64, passes: bool },
}

/// A delivery to a consumer.
#[derive(Clone, Copy, Debug)]
struct Consumed {
    redelivered: bool,
}

/// The output for lapin: first the start of the input in place, then a copy.
struct Out<'a> {
    input: &'a mut [u8],
    at: usize,
    /// The length of the input that passes in place; `None` while that is all of it.
    kept: Option<usize>,
    moved: &'a mut Vec<u8>,
}

impl Out<'_> {
    /// The next bytes go on.
    fn pass(&mut self, length: usize) {
        if self.kept.is_some() {
            self.moved.extend_from_slice(&self.input[self.at..self.at + length]);
        }
        self.at += length;
    }

    /// The next bytes do not go on.
    fn skip(&mut self, length: usize) {
        if length > 0 {
            self.kept.get_or_insert(self.at);
            self.at += length;
        }
    }

    fn rest(&mut self) -> &mut [u8] {
        &mut self.input[self.at..]
    }
}

impl Guard {
    pub(crate) fn new(findings: Arc<Findings>) -> Self {
        Self { findings, begun: Vec::new(), body: None, contents: BTreeMap::new() }
    }

    /// Takes in the next bytes. Those that go on are the first of them, as many as is returned, mended in place, and
    /// behind them those that are put into `moved`.
    ///
    /// # Errors
    /// Bytes that no broker may send, and that lapin must not parse.
    pub(crate) fn take(&mut self, input: &mut [u8], moved: &mut Vec<u8>) -> io::Result<usize> {
        let mut out = Out { input, at: 0, kept: None, moved };
        while !out.rest().is_empty() {
            if let Some(rest) = &mut self.body {
                let length = rest.left.min(out.rest().len());
                rest.left -= length;
                let passes = rest.passes;
                if rest.left == 0 {
                    check_end(out.rest()[length - 1])?;
                    self.body = None;
                }
                if passes { out.pass(length) } else { out.skip(length) }
            } else if self.begun.is_empty() {
                self.begin(&mut out)?;
            } else {
                self.go_on(&mut out)?;
            }
        }
        Ok(out.kept.unwrap_or(out.at))
    }

    /// Takes a frame that begins in what came.
    fn begin(&mut self, out: &mut Out<'_>) -> io::Result<()> {
        let frame = out.rest();
        let head = frame.first_chunk().map(Head::read).transpose()?;
        match head {
            Some(head) if head.kind == BODY => {
                if self.begin_body(&head)? {
                    out.pass(HEAD)
                } else {
                    out.skip(HEAD)
                }
            }
            Some(head) if head.length() <= frame.len() && !head.is_larger_than_agreed() => {
                let frame = &mut frame[..head.length()];
                let left = self.judge(&head, frame)?;
                out.pass(left);
                out.skip(head.length() - left);
            }
            _ => {
                let needed = head.as_ref().map_or(HEAD, Head::needed);
                let length = needed.min(frame.len());
                self.begun.extend_from_slice(&frame[..length]);
                out.skip(length);
                if head.is_some() && length == needed {
                    return self.go_on(out);
                }
            }
        }
        Ok(())
    }

    /// Takes more of a frame that began before.
    fn go_on(&mut self, out: &mut Out<'_>) -> io::Result<()> {
        let head = self.begun.first_chunk().map(Head::read).transpose()?;
        let whole = head.as_ref().map_or(HEAD, Head::needed);
        let length = (whole - self.begun.len()).min(out.rest().len());
        self.begun.extend_from_slice(&out.rest()[..length]);
        out.skip(length);
        if self.begun.len() < whole {
            return Ok(());
        }
        let Some(head) = self.begun.first_chunk().map(Head::read).transpose()? else { return Ok(()) };
        let mut begun = std::mem::take(&mut self.begun);
        if head.kind == BODY {
            if self.begin_body(&head)? {
                out.moved.extend_from_slice(&begun);
            }
        } else if head.is_larger_than_agreed() && begun.len() == head.needed() {
            self.large_header(&head, &mut begun)?;
            out.moved.extend_from_slice(&begun);
        } else if begun.len() == head.length() {
            let left = self.judge(&head, &mut begun)?;
            out.moved.extend_from_slice(&begun[..left]);
        } else {
            self.begun = begun;
            return Ok(());
        }
        // Its memory is used again.
        begun.clear();
        self.begun = begun;
        Ok(())
    }

    /// Whether the frame of a body passes.
    fn begin_body(&mut self, head: &Head) -> io::Result<bool> {
        let size = head.size as u64;
        let Some(Content::Comes { left, passes }) = self.contents.get_mut(&head.channel) else {
            return Err(refused(format!("a body without a header on the channel {}", head.channel)));
        };
        let Some(rest) = left.checked_sub(size) else {
            let larger = format!("a body of {} bytes more than announced", size - *left);
            return Err(refused(larger));
        };
        let passes = *passes;
        *left = rest;
        if rest == 0 {
            self.contents.remove(&head.channel);
        }
        self.body = Some(Rest { left: head.size + 1, passes });
        Ok(passes)
    }

    /// Looks at a whole frame, and mends it. Gives how many of its bytes are left.
    fn judge(&mut self, head: &Head, frame: &mut [u8]) -> io::Result<usize> {
        check_end(frame[frame.len() - 1])?;
        let payload = &mut frame[HEAD..HEAD + head.size];
        match head.kind {
            METHOD => {
                self.method(head.channel, payload)?;
                Ok(frame.len())
            }
            HEADER => {
                let left = self.header(head.channel, payload, None)?;
                if left < head.size {
                    let size = u32::try_from(left).unwrap_or_default();
                    frame[HEAD - 4..HEAD].copy_from_slice(&size.to_be_bytes());
                    frame[HEAD + left] = END;
                }
                Ok(HEAD + left + 1)
            }
            _ => Ok(frame.len()),
        }
    }

    fn method(&mut self, channel: u16, payload: &mut [u8]) -> io::Result<()> {
        let Some(&[class, class2, id, id2]) = payload.first_chunk() else {
            return Err(refused("a method that is too short"));
        };
        let method = (u16::from_be_bytes([class, class2]), u16::from_be_bytes([id, id2]));
        let named = |what: &str| refused(format!("the method {}.{}{what}", method.0, method.1));
        let Some(arguments) = arguments(method) else { return Err(named(", which no broker sends")) };
        let (mut at, mut end, mut fault) = (4, payload.len(), None);
        let mut tag_at = 4;
        for argument in arguments {
            let next = match argument {
                Argument::Fixed(length) => Some(at + length).filter(|next| *next <= end),
                Argument::Short(_) => short(&payload[at..end]).map(|length| at + length),
                Argument::Long => long(&payload[at..end]).map(|length| at + length),
                // Nothing may be cut out of it, only made plain bytes.
                Argument::Table => {
                    mend_table(payload, at, &mut end, &mut |_| {}).filter(|_| end == payload.len())
                }
            };
            let Some(next) = next else { return Err(named(" with arguments that cannot be read")) };
            if let Argument::Short(name) = argument
                && made_utf8(&mut payload[at + 1..next])
            {
                fault.get_or_insert_with(|| format!("its {name} is not UTF-8"));
            }
            // In `basic.deliver` the delivery tag comes behind the consumer tag.
            if tag_at == 4 && method == DELIVER {
                tag_at = next;
            }
            at = next;
        }
        if at != end {
            return Err(named(" with more than its arguments"));
        }
        match method {
            DELIVER | GET_OK | RETURN => {
                if channel == 0 {
                    return Err(named(" on the channel 0"));
                }
                let tag = payload[tag_at..].first_chunk().map(|tag| u64::from_be_bytes(*tag));
                let tag = tag.filter(|_| method != RETURN);
                let redelivered = payload.get(tag_at + 8).is_some_and(|bits| bits & 1 != 0);
                let consumed = (method == DELIVER).then_some(Consumed { redelivered });
                let content = Content::Announced { tag, consumed, fault };
                if self.contents.insert(channel, content).is_some() {
                    return Err(named(" before the end of another message"));
                }
            }
            CHANNEL_CLOSE | CHANNEL_CLOSE_OK => {
                self.contents.remove(&channel);
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes the beginning of a content header that is larger than a frame may be, and makes it a whole one without
    /// properties; the rest does not go on.
    ///
    /// RabbitMQ sends them so: it adds headers to what expires or is shovelled, and takes larger ones over AMQP 1.0.
    fn large_header(&mut self, head: &Head, begun: &mut Vec<u8>) -> io::Result<()> {
        begun[HEAD + content::HEAD - 2..].fill(0);
        let fault = "its properties are larger than a frame may be".to_owned();
        let left = self.header(head.channel, &mut begun[HEAD..], Some(fault))?;
        self.body = Some(Rest { left: head.size + 1 - left, passes: false });
        begun[HEAD - 4..HEAD].copy_from_slice(&u32::try_from(left).unwrap_or_default().to_be_bytes());
        begun.push(END);
        Ok(())
    }

    /// Gives how many bytes of a content header are left.
    fn header(&mut self, channel: u16, payload: &mut [u8], large: Option<String>) -> io::Result<usize> {
        let Some(Content::Announced { tag, consumed, fault }) = self.contents.remove(&channel) else {
            return Err(refused(format!("a header without a message on the channel {channel}")));
        };
        let size = payload.get(4..12).and_then(|size| size.first_chunk());
        let (Some(size), true) = (size, payload.len() >= content::HEAD) else {
            return Err(refused("a header that is too short"));
        };
        let size = u64::from_be_bytes(*size);
        let class = u16::from_be_bytes([payload[0], payload[1]]);
        if class != BASIC {
            return Err(refused(format!("a header of the class {class}")));
        }
        if size > BODY_MAX {
            return Err(refused(format!("a body of {size} bytes, more than RabbitMQ has")));
        }
        let (left, of_header) = content::mend(payload);
        let memory = consumed.map(|consumed| self.findings.admit(size, consumed.redelivered));
        let passes = memory != Some(BodyMemory::Full);
        let finding = if passes {
            let came_back = (memory == Some(BodyMemory::Reserved)).then_some(Finding::CameBack);
            fault.or(large).or(of_header).map(Finding::Unreadable).or(came_back)
        } else {
            // A message without a body, to lapin.
            payload[4..12].fill(0);
            Some(Finding::NoRoom(size))
        };
        if let (Some(finding), Some(tag)) = (finding, tag) {
            self.findings.note(channel, tag, finding);
        }
        if let Some(tag) = tag.filter(|_| consumed.is_some() && content::is_request(payload)) {
            self.findings.note_arrival(channel, tag);
        }
        if size > 0 {
            self.contents.insert(channel, Content::Comes { left: size, passes });
        }
        Ok(left)
    }
}

/// The beginning of an answer of TLS (RFC 8446, 5.1).
const TLS_ALERT: u8 = 21;
const TLS_MAJOR: u8 = 3;

/// The beginning of a frame.
struct Head {
    kind: u8,
    channel: u16,
    size: usize,
}

impl Head {
    fn read(bytes: &[u8; HEAD]) -> io::Result<Self> {
        let [kind, channel, channel2, size @ ..] = *bytes;
        let size = u32::from_be_bytes(size) as usize;
        match kind {
            METHOD | HEADER | BODY | HEARTBEAT if HEAD + size < FRAME_MAX || kind == HEADER => {
                Ok(Self { kind, channel: u16::from_be_bytes([channel, channel2]), size })
            }
            METHOD | HEADER | BODY | HEARTBEAT => {
                Err(refused(format!("a frame of {size} bytes, more than was agreed")))
            }
            b'A' => Err(refused("its version of AMQP: it has no 0-9-1")),
            TLS_ALERT if channel == TLS_MAJOR => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the port answers no AMQP but TLS: write amqps:// in URLS",
            )),
            _ => Err(refused(format!("a frame of the type {kind}, which AMQP 0-9-1 does not have"))),
        }
    }

    /// Of the whole frame.
    fn length(&self) -> usize {
        HEAD + self.size + 1
    }

    fn is_larger_than_agreed(&self) -> bool {
        self.length() > FRAME_MAX
    }

    /// How much of the frame is gathered before it is looked at.
    fn needed(&self) -> usize {
        if self.is_larger_than_agreed() { HEAD + content::HEAD } else { self.length() }
    }
}

fn check_end(byte: u8) -> io::Result<()> {
    if byte == END { Ok(()) } else { Err(refused(format!("a frame that ends with {byte:#04x}"))) }
}

fn refused(what: impl fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the broker sent {what}"))
}
