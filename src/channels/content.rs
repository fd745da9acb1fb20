//! The content of a message, in every pattern.

use std::fmt;

use bytes::Bytes;

/// The most bytes of the messages of one receive or peek, but for the first message: 64 MiB.
pub(super) const MOST_BYTES: u64 = 64 << 20;

/// The content of a message: an engine keeps it as it is and reads none of it.
///
/// These are the fields that KubeMQ clients set. A clone shares the body.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// The id that the sender gave. It need not be unique, and may be empty.
    pub id: String,
    /// The name of the sender; may be empty.
    pub client: String,
    /// A text beside the body; may be empty.
    pub metadata: String,
    /// The body.
    pub body: Bytes,
    /// Names and values, in the order of the sender.
    pub tags: Vec<(String, String)>,
}

impl Content {
    /// Returns the number of bytes of all fields. Limits count these.
    #[must_use]
    pub fn size(&self) -> usize {
        let tags: usize = self.tags.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.id.len() + self.client.len() + self.metadata.len() + self.body.len() + tags
    }

    /// Returns the value of a tag.
    #[must_use]
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.tags.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Shows lengths, since bodies, metadata and tags must not get into logs.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content")
            .field("id", &self.id)
            .field("client", &self.client)
            .field("body_len", &self.body.len())
            .finish_non_exhaustive()
    }
}
