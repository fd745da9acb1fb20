//! Code of the app that panics, and times without end.
