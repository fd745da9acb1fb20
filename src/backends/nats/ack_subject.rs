//! The facts about a message in its subject for acknowledgements.

use std::time::{Duration, SystemTime};

/// The facts of one delivery, from `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<consumer sequence>.<time>.<pending>`;
/// newer servers put a domain and a hash before the stream, and may add parts at the end (ADR-15 of NATS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AckSubject {
    /// The number of this delivery, from 1.
    pub(super) delivered: u32,
    /// The place of the message in its stream.
    pub(super) sequence: u64,
    pub(super) stored: SystemTime,
}

impl AckSubject {
    /// Where the message is acknowledged: the server looks at its place in the stream alone.
    pub(super) fn subject_of(&self, stream: &str, durable: &str) -> String {
        let (Self { delivered, sequence, .. }, time) = (self, self.nanos());
        format!("$JS.ACK.{stream}.{durable}.{delivered}.{sequence}.1.{time}.0")
    }

    /// Returns a text that no other message of a stream of this name has, also after the stream was made again with the first sequence.
    pub(super) fn identity(&self) -> String {
        format!("{}-{}", self.sequence, self.nanos())
    }

    fn nanos(&self) -> u128 {
        self.stored.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos()
    }

    pub(super) fn read(subject: &str) -> Option<Self> {
        let parts = subject.strip_prefix("$JS.ACK.")?.split('.');
        let before = match parts.clone().count() {
            7 => 2,
            9.. => 4,
            _ => return None,
        };
        let mut numbers = parts.skip(before);
        let mut number = || numbers.next()?.parse::<u64>().ok();
        let (delivered, sequence, _) = (number()?, number()?, number()?);
        let stored = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(number()?))?;
        Some(Self { delivered: u32::try_from(delivered).ok()?, sequence, stored })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_no_other() {
        let read = AckSubject {
            delivered: 2,
            sequence: 30,
            stored: SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_001),
        };
        for good in [
            "$JS.ACK.orders.invoices.2.30.4.1700000000000000001.5",
            "$JS.ACK._.hash.orders.invoices.2.30.4.1700000000000000001.5",
            "$JS.ACK.hub.hash.orders.invoices.2.30.4.1700000000000000001.5.token.and.more.to.come",
        ] {
            assert_eq!(AckSubject::read(good), Some(read), "{good}");
        }
        let written = read.subject_of("orders", "invoices");
        assert_eq!(AckSubject::read(&written), Some(read), "{written}");
        for bad in ["", "_INBOX.x", "$JS.ACK.a", "$JS.ACK.o.i.x.30.4.1.5", "$JS.ACK.o.i.2.30.4.-1.5"] {
            assert_eq!(AckSubject::read(bad), None, "{bad}");
        }
    }
}
