//! The kinds of channels.

use crate::channels::ChannelKind;

/// The kinds of channels, with their names on the wire.
pub(super) const KINDS: [(&str, ChannelKind); 5] = [
    ("queues", ChannelKind::Queue),
    ("events_store", ChannelKind::Stream),
    ("events", ChannelKind::Events),
    ("commands", ChannelKind::Commands),
    ("queries", ChannelKind::Queries),
];
