//! Why a request gets no transaction.

use axum_core::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};

use super::database::TxDatabase;
use crate::util::error::{BoxError, Chain, debug_as_display};

/// Why a handler got no [`Tx`](super::Tx).
///
/// It answers 503 with `Retry-After` when another try may pass, 200 when the message was handled before, else 500.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum TxRejection {
    /// There is no layer around the route.
    #[error(
        "no MessageQueue in the request: add tower_outbox::MessagingLayer around this route, as .layer(bus.layer())"
    )]
    MissingLayer,
    /// The messages of the layer do not go through an outbox in this database.
    #[error(
        "the messenger of MessagingLayer is no outbox in {database}: set DELIVERY = \"transactional\" with this database, or give the layer an Outbox with a {database}Store"
    )]
    NoOutbox {
        /// Which database was asked for.
        database: &'static str,
    },
    /// The transaction of this request is in use.
    #[error(
        "another Tx of this request is alive: drop it before the next is extracted, or hand it on as `&mut *tx`"
    )]
    Held,
    /// The response is decided.
    #[error(
        "the response is already decided: take Tx as an argument of the handler, not in a task it leaves behind"
    )]
    Closed,
    /// The message of this request was handled before; the consumer acknowledges it.
    #[error("the message was handled before")]
    AlreadyHandled,
    /// The database cannot be used now: no connection, busy, deadlock.
    #[error(
        "the database cannot be used now; raise the pool's max_connections or acquire_timeout if it is only short of connections"
    )]
    Unavailable(#[source] BoxError),
    /// The database refused.
    #[error("the transaction could not be begun")]
    Failed(#[source] BoxError),
}

debug_as_display!(TxRejection);

impl TxRejection {
    pub(super) fn of<DB: TxDatabase>(error: sqlx::Error) -> Self {
        if super::database::is_transient::<DB>(&error) {
            Self::Unavailable(error.into())
        } else {
            Self::Failed(error.into())
        }
    }
}

impl IntoResponse for TxRejection {
    fn into_response(self) -> Response {
        match self {
            Self::AlreadyHandled => StatusCode::OK.into_response(),
            Self::Unavailable(_) => {
                tracing::warn!(error = %Chain(&self), "request without its transaction");
                let after = [(RETRY_AFTER, HeaderValue::from_static("5"))];
                (StatusCode::SERVICE_UNAVAILABLE, after).into_response()
            }
            _ => {
                tracing::error!(error = %Chain(&self), "request without its transaction");
                (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
            }
        }
    }
}
