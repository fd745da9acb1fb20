//! Serving an axum app, and stopping everything in order.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;

use axum::Router;
use humantime::format_duration;
use tokio::net::{TcpListener, ToSocketAddrs};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::running::Bus;
use super::shutdown::Shutdown;
use crate::util::deadline::after;
use crate::util::error::debug_as_display;
use crate::util::no_delay::NoDelay;
use crate::util::signals::{Signal, terminated};

/// How long stopping may take after a second signal.
const HURRIED: Duration = Duration::from_secs(1);
/// How long stopping may take by default.
const DEADLINE: Duration = Duration::from_secs(10);

impl Bus {
    /// Binds a TCP listener for [`serve`](Self::serve). Its error names the address, as that of the system does not.
    ///
    /// # Errors
    /// [`ServeError::Listen`] when another program uses the address, or it is not one of this machine.
    #[cfg_attr(docsrs, doc(cfg(feature = "serve")))]
    pub async fn listen(address: impl ToSocketAddrs + fmt::Display) -> Result<TcpListener, ServeError> {
        let address_text = address.to_string();
        let bound = TcpListener::bind(address).await;
        bound.map_err(|source| ServeError::Listen { address: address_text, source })
    }

    /// Serves an axum app until Ctrl-C or SIGTERM, then stops everything in order: the server and the consumers of this bus
    /// finish their requests and messages; then the bus [shuts down](Self::shutdown). All this may take 10 seconds;
    /// [`Serve::with_graceful_shutdown`] sets another deadline, or another signal. A second Ctrl-C or SIGTERM ends the wait for
    /// requests and messages; unhandled messages are delivered again.
    ///
    /// ```no_run
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use axum::{Router, routing::post};
    /// use tower_outbox::{Bus, Settings};
    ///
    /// let bus = Bus::start(&Settings::from_file("app.toml")?).await?;
    /// let handlers = Router::new().route("/user/created", post(|| async {}));
    /// tokio::spawn(bus.consumer("users", handlers)?.into_future());
    /// let app = Router::new().route("/users", post(|| async {})).layer(bus.layer());
    /// let listener = Bus::listen("127.0.0.1:3000").await?;
    /// bus.serve(listener, app).await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    #[cfg_attr(docsrs, doc(cfg(feature = "serve")))]
    pub fn serve(&self, listener: TcpListener, app: Router) -> Serve<'_> {
        Serve { bus: self, listener, app, signal: None, deadline: DEADLINE }
    }
}

/// A server that stops together with its [`Bus`]: see [`Bus::serve`]. It does nothing before it is awaited.
#[must_use]
pub struct Serve<'a> {
    bus: &'a Bus,
    listener: TcpListener,
    app: Router,
    /// Ctrl-C and SIGTERM if none.
    signal: Option<Signal>,
    deadline: Duration,
}

impl Serve<'_> {
    /// Stops at `signal` instead of Ctrl-C and SIGTERM, within `deadline`; by default 10 seconds.
    pub fn with_graceful_shutdown(
        mut self,
        signal: impl Future<Output = ()> + Send + 'static,
        deadline: Duration,
    ) -> Self {
        self.signal = Some(Box::pin(signal));
        self.deadline = deadline;
        self
    }

    async fn run(self) -> Result<(), ServeError> {
        let Self { bus, listener, app, signal, deadline } = self;
        let is_own = signal.is_some();
        let signal = match signal {
            Some(signal) => signal,
            None => terminated()?,
        };
        tracing::info!(address = %listener.local_addr()?, "listening");
        let stop = CancellationToken::new();
        let server =
            axum::serve(NoDelay(listener), app).with_graceful_shutdown(stop.clone().cancelled_owned());
        let mut server = pin!(server.into_future());
        let failed = tokio::select! {
            served = &mut server => Some(served),
            () = signal => None,
        };
        let hurried = CancellationToken::new();
        // Listens before the log line that a person may answer with a second Ctrl-C.
        let again = if is_own { None } else { terminated().ok() };
        let _again =
            again.map(|again| AbortOnDropHandle::new(tokio::spawn(second_signal(again, hurried.clone()))));
        match &failed {
            None => {
                tracing::info!(deadline = %format_duration(deadline), "received the signal to stop; finishing requests and messages")
            }
            Some(_) => {
                tracing::error!(deadline = %format_duration(deadline), "the server ended by itself; finishing messages")
            }
        }
        let begun = Instant::now();
        stop.cancel();
        let until = after(begun, deadline / 4 * 3);
        let finish = async {
            match failed {
                Some(served) => served,
                None => {
                    let served = hurried.run_until_cancelled(timeout_at(until, server)).await;
                    served.and_then(Result::ok).unwrap_or_else(|| {
                        tracing::warn!("stopped the server while requests were running");
                        Ok(())
                    })
                }
            }
        };
        let consumers = async {
            let _ = hurried.run_until_cancelled(bus.stop_consumers(until)).await;
        };
        let (served, ()) = tokio::join!(finish, consumers);
        // The bus stops in order also after a server that failed.
        let deadline = if hurried.is_cancelled() { HURRIED } else { deadline };
        let left = bus.shutdown(deadline.saturating_sub(begun.elapsed())).await;
        if left.is_clean() { Ok(served?) } else { Err(ServeError::Unsent(left)) }
    }
}

impl<'a> IntoFuture for Serve<'a> {
    type Output = Result<(), ServeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl fmt::Debug for Serve<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve").field("listener", &self.listener).finish_non_exhaustive()
    }
}

/// Ends the wait for requests and messages at the next signal.
async fn second_signal(signal: Signal, hurried: CancellationToken) {
    signal.await;
    tracing::warn!("received a second signal to stop; leaving requests and messages unfinished");
    hurried.cancel();
}

/// Why [`Bus::serve`] failed.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: stop the program that uses it, or choose another address")]
    Listen {
        /// The address.
        address: String,
        /// The error of the system.
        source: io::Error,
    },
    /// The signals cannot be listened for, or the server failed.
    #[error("cannot serve the app")]
    Io(#[from] io::Error),
    /// The bus stopped with unsent messages.
    #[error(
        "the message bus stopped with {} unsent messages and {} sends in flight: allow more time in with_graceful_shutdown, or deliver \
         through an outbox (DELIVERY = \"durable\" or \"transactional\")",
        .0.left.len(), .0.sends
    )]
    Unsent(Shutdown),
}

debug_as_display!(ServeError);
