//! What a database refuses, and ids that strangers chose.
