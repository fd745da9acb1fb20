//! Helpers that the conformance suites share. They may change with any release.

pub mod fuse;
pub mod random;
pub mod stores;
