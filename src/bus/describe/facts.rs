//! The parts of a description.

use indexmap::IndexMap;

/// Facts by their names, in an order to read.
pub(super) type Facts = IndexMap<&'static str, String>;

/// Where a consumer receives from.
#[derive(Clone, Debug, Default)]
pub(super) struct Input {
    /// The queue or address.
    pub(super) address: Option<String>,
    /// The patterns of the topics that it gets; none if they are not known here.
    pub(super) patterns: Vec<String>,
}
