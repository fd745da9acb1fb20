//! One thread of the process for work that takes long and may wait, such as compactions.

use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;

use crate::util::caught::called;
use crate::util::sync::lock;

type Work = Box<dyn FnOnce() + Send>;

/// The work that waits; `None` while there is no thread.
static QUEUE: Mutex<Option<VecDeque<Work>>> = Mutex::new(None);

/// Runs `work` after all that was passed before. The thread starts with the first work, and ends with the last.
///
/// # Errors
/// The thread cannot be started.
pub(crate) fn run_later(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut queue = lock(&QUEUE);
    if queue.is_none() {
        std::thread::Builder::new().name("log-background".to_owned()).spawn(run)?;
    }
    queue.get_or_insert_default().push_back(Box::new(work));
    Ok(())
}

fn run() {
    while let Some(work) = next() {
        // Work that panics must not stop the rest.
        let _ = called(work);
    }
}

fn next() -> Option<Work> {
    let mut queue = lock(&QUEUE);
    let work = queue.as_mut().and_then(VecDeque::pop_front);
    if work.is_none() {
        *queue = None;
    }
    work
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn work_runs_in_order_also_after_a_panic() {
        let (done, order) = channel();
        for round in 0..3 {
            run_later(|| panic!("work that panics")).unwrap();
            for n in 0..100 {
                let done = done.clone();
                run_later(move || done.send(n).unwrap()).unwrap();
            }
            assert_eq!(order.iter().take(100).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>(), "{round}");
        }
    }
}
