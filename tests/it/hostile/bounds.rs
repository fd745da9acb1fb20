//! Memory and work stay bounded, whatever clients do.
