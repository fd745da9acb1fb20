//! `tower-outbox dashboard`.

use std::net::SocketAddr;

use axum::Extension;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use clap::Args;
use http::StatusCode;
use http::header::HOST;
use tokio::net::TcpListener;

use super::context::Context;
use super::error::CliError;
use super::target::Target;
use crate::admin::Operator;
use crate::dashboard;
use crate::settings::TraceUrl;
use crate::util::signals::terminated;

/// Serve pages for operators on this machine: of a stopped app, of a database, or of the app at --url
#[derive(Args)]
#[command(
    after_help = "Everyone on this machine can open the pages, and nobody else. They stop with Ctrl-C or SIGTERM."
)]
pub(super) struct Dashboard {
    /// The loopback address to serve on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8025")]
    listen: SocketAddr,
}

impl Dashboard {
    pub(super) fn run(&self, context: &Context) -> Result<(), CliError> {
        if !self.listen.ip().is_loopback() {
            return Err(CliError::failed(format!(
                "{} can be reached by others, and the pages ask for no password: listen on 127.0.0.1, or nest bus.dashboard() in \
                 the app behind its authentication",
                self.listen
            )));
        }
        let target = Target::of(context)?;
        let trace_url = if target.is_running() { None } else { context.settings()?.dashboard.trace_url };
        // The target closes its store outside of the runtime, so it outlives the server.
        context.runtime.block_on(self.serve(context, &target, trace_url))
    }

    async fn serve(
        &self,
        context: &Context,
        target: &Target,
        trace_url: Option<TraceUrl>,
    ) -> Result<(), CliError> {
        let signal = terminated().map_err(|error| CliError::error(&error))?;
        let listener = TcpListener::bind(self.listen).await;
        let listener = listener
            .map_err(|error| CliError::failed(format!("cannot listen on {}: {error}", self.listen)))?;
        let address = listener.local_addr().map_err(|error| CliError::error(&error))?;
        let pages =
            dashboard::Dashboard::of(target.answering(), trace_url).guarded_by(from_fn(of_this_machine));
        let pages = pages.layer(Extension(Operator::new(context.operator())));
        context.output.line(format!("serving the dashboard on http://{address}"))?;
        let served = axum::serve(listener, pages).with_graceful_shutdown(signal).await;
        served.map_err(|error| CliError::error(&error))
    }
}

/// Refuses a name that another site gave to this address.
async fn of_this_machine(request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    if !matches!(name, "localhost" | "127.0.0.1" | "[::1]") {
        let error = "open the dashboard as http://127.0.0.1 or http://localhost";
        return (StatusCode::FORBIDDEN, error).into_response();
    }
    next.run(request).await
}
