//! The limits of the face. Those that the real server has are its defaults.

/// The largest request and the largest answer that is decoded, in bytes: 100 MiB.
pub(super) const BODY: usize = 100 << 20;
/// The longest id, client id, group or cache key, in bytes.
pub(super) const TEXT: usize = 1_024;
/// The longest metadata, in bytes.
pub(super) const METADATA: usize = 1 << 20;
/// The most tags of a message, and of the metadata of a request.
pub(super) const TAGS: usize = 1_024;
/// The most messages of one batch.
pub(super) const BATCH: usize = 16_384;
/// The most messages of one receive.
pub(super) const RECEIVE: usize = 1_024;
/// The longest wait, in seconds.
pub(super) const WAIT: i32 = 3_600;
/// The wait without one, in seconds.
pub(super) const DEFAULT_WAIT: i32 = 1;
/// The longest expiration, delay and visibility, in seconds.
pub(super) const SECONDS: i32 = 43_200;
/// The visibility without one, in seconds.
pub(super) const DEFAULT_VISIBILITY: i32 = 60;
/// The most receives of a message, and the number without one.
pub(super) const RECEIVES: i32 = 1_024;
/// The most requests of one stream that are stored at once.
pub(super) const PIPELINE: usize = 256;
/// The most bytes of these, unless one request has more.
pub(super) const PIPELINE_BYTES: usize = 8 << 20;
/// The most open transactions of one downstream.
pub(super) const TRANSACTIONS: usize = 1_024;
/// How many closed transactions a downstream remembers.
pub(super) const CLOSED: usize = 4_096;
/// The most requests that wait for the answer of a responder.
pub(super) const PENDING: usize = 65_536;
/// The most bytes of cached answers.
pub(super) const CACHE_BYTES: u64 = 64 << 20;
/// The largest cached answer, in bytes.
pub(super) const CACHED: usize = 1 << 20;
/// The most streams that one identity has open.
pub(super) const STREAMS: usize = 4_096;
