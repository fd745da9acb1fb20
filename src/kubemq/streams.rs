//! How many streams each client has open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::fault::Refusal;
use super::limits;
use crate::util::sync::lock;

/// How many streams each client has open, by the name that it has proved.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams(Arc<Mutex<HashMap<Arc<str>, usize>>>);

impl Streams {
    /// Counts one more stream until it is dropped.
    pub(super) fn open(&self, name: &Arc<str>) -> Result<OpenStream, Refusal> {
        let mut open = lock(&self.0);
        let count = open.entry(Arc::clone(name)).or_default();
        if *count >= limits::STREAMS {
            return Err(Refusal::Limit(format!(
                "too many open streams: a client may have {}",
                limits::STREAMS
            )));
        }
        *count += 1;
        Ok(OpenStream { streams: self.clone(), name: Arc::clone(name) })
    }

    pub(super) fn count(&self) -> usize {
        lock(&self.0).values().sum()
    }
}

/// One open stream.
#[derive(Debug)]
pub(super) struct OpenStream {
    streams: Streams,
    name: Arc<str>,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut open = lock(&self.streams.0);
        if let Some(count) = open.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_a_number_of_streams_of_its_own() {
        let (streams, shop, mailer) = (Streams::default(), Arc::from("shop"), Arc::from("mailer"));
        let mut open: Vec<_> = (0..limits::STREAMS).map(|_| streams.open(&shop).unwrap()).collect();
        assert!(streams.open(&shop).is_err());
        assert!(streams.open(&mailer).is_ok());
        open.pop();
        assert!(streams.open(&shop).is_ok());
        drop(open);
        assert_eq!(streams.count(), 0);
    }
}
