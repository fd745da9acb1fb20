//! Settings, certificates and secrets as people write them.
