//! The signals that stop a process.

use std::future::Future;
use std::io;
use std::pin::Pin;

pub(crate) type Signal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Waits for Ctrl-C or SIGTERM.
pub(crate) fn terminated() -> io::Result<Signal> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};

        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Box::pin(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }))
    }
    #[cfg(not(unix))]
    Ok(Box::pin(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }))
}
