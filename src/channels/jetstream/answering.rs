//! The requests that are at responders of this engine.

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::sync::mpsc;

use crate::channels::request_types::Reply;
use crate::util::sync::lock;

/// The requests that wait for an answer here, by where it goes. All responders here share one, so that the first answer wins.
#[derive(Default)]
pub(super) struct Answering(pub(super) Mutex<HashMap<String, mpsc::WeakSender<Reply>>>);

impl Answering {
    /// Makes all further answers to a request late.
    pub(super) fn end(&self, to: &str) {
        if let Some(answer) = lock(&self.0).get(to).and_then(mpsc::WeakSender::upgrade) {
            // It takes the only place, and goes to an inbox that nobody reads any more.
            let _ = answer.try_send(Reply::default());
        }
    }
}
