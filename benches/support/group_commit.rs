//! The least that makes records durable: whatever waits is one write and one sync.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::oneshot;

/// A record, and who waits for it.
pub(crate) type Waiting = (Bytes, oneshot::Sender<()>);

/// A thread that makes whatever waits durable in one go.
pub(crate) struct GroupCommit(mpsc::Sender<Waiting>);

impl GroupCommit {
    pub(crate) fn start(mut commit: impl FnMut(&[Waiting]) + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel::<Waiting>();
        thread::spawn(move || {
            let mut group = Vec::new();
            while let Ok(first) = receiver.recv() {
                group.push(first);
                group.extend(receiver.try_iter());
                commit(&group);
                for (_, done) in group.drain(..) {
                    let _ = done.send(());
                }
            }
        });
        Self(sender)
    }

    pub(crate) async fn append(&self, record: Bytes) {
        let (done, durable) = oneshot::channel();
        self.0.send((record, done)).expect("the thread runs");
        durable.await.expect("it is written");
    }
}

/// Writes records to a file that grows, and notes how many microseconds each `fdatasync` took.
pub(crate) fn bare(folder: &Path, syncs: Arc<Mutex<Vec<f64>>>) -> GroupCommit {
    let mut file = File::create(folder.join("bare")).expect("it can be created");
    let mut buffer = Vec::new();
    GroupCommit::start(move |group| {
        buffer.clear();
        for (record, _) in group {
            buffer.extend_from_slice(record);
        }
        file.write_all(&buffer).expect("there is room");
        let begun = Instant::now();
        file.sync_data().expect("there is room");
        syncs.lock().expect("nobody panics").push(begun.elapsed().as_secs_f64() * 1e6);
    })
}
