//! What this crate logs, as text.

use std::cell::RefCell;
use std::io;
use std::sync::{Mutex, Once, PoisonError};

thread_local! {
    static WRITTEN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What was logged as a warning or an error, on any thread.
static ALARMS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Begins to look at what this thread logs, at any level.
///
/// One subscriber for the process, since tracing remembers what the first one did not want; one
/// buffer for each thread, since tests of one process run side by side.
pub fn listen() -> Logs {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        tracing_subscriber::fmt()
            .with_env_filter("tower_outbox=trace,tower_http=debug")
            .with_ansi(false)
            .without_time()
            .with_writer(|| Writer)
            .init();
    });
    WRITTEN.take();
    Logs(())
}

pub struct Logs(());

impl Logs {
    /// The lines so far, `LEVEL target: message field=value`.
    #[allow(clippy::unused_self, reason = "it proves that somebody listened")]
    pub fn lines(&self) -> Vec<String> {
        WRITTEN.with_borrow(|written| {
            String::from_utf8(written.clone()).unwrap().lines().map(|line| line.trim().to_owned()).collect()
        })
    }

    /// Those of them that contain this.
    pub fn with(&self, part: &str) -> Vec<String> {
        self.lines().into_iter().filter(|line| line.contains(part)).collect()
    }

    /// The warnings and errors of all threads that contain this, such as a folder that only one test knows.
    #[allow(clippy::unused_self, reason = "it proves that somebody listened")]
    pub fn alarms(&self, part: &str) -> Vec<String> {
        let alarms = ALARMS.lock().unwrap_or_else(PoisonError::into_inner);
        alarms.iter().filter(|line| line.contains(part)).cloned().collect()
    }
}

struct Writer;

impl io::Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        WRITTEN.with_borrow_mut(|written| written.extend_from_slice(line));
        let text = String::from_utf8_lossy(line);
        if text.starts_with("ERROR") || text.starts_with(" WARN") {
            ALARMS.lock().unwrap_or_else(PoisonError::into_inner).push(text.trim().to_owned());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
