//! Bytes in the files of the embedded store that look like something else.
