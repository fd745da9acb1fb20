//! Headers only we may set are not believed from a stranger.
