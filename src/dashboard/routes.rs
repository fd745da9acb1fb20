//! The routes of the pages. All are one segment below the dashboard, so that their links are relative: any base path works.

use axum::Router;
use axum::extract::{DefaultBodyLimit, OriginalUri};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::StatusCode;
use http::header::LOCATION;

use super::act::{act, confirm};
use super::api::Api;
use super::assets::{SCRIPT, STYLE};
use super::audit::audit;
use super::channels::channels;
use super::dead_letters::dead_letters;
use super::done::outcome;
use super::error::PageError;
use super::events::events;
use super::message::{message, raw_body};
use super::messages::messages;
use super::overview::overview;
use super::routing::routing;
use super::same_origin::guard;
use super::topics::topics;
use super::undo::undo;
use super::{broker, broker_act, consumers, edit};

/// The largest body of a form.
const BODY_LIMIT: usize = 8 << 20;

pub(super) fn router(api: Api) -> Router {
    Router::new()
        .route("/", get(home))
        .route("/overview", get(overview))
        .route("/messages", get(messages))
        .route("/message", get(message))
        .route("/body", get(raw_body))
        .route("/dead-letters", get(dead_letters))
        .route("/broker", get(broker::list).post(broker_act::act))
        .route("/broker-message", get(broker::message))
        .route("/broker-confirm", get(broker_act::confirm))
        .route("/topics", get(topics))
        .route("/channels", get(channels))
        .route("/routing", get(routing))
        .route("/consumers", get(consumers::consumers).post(consumers::pause))
        .route("/audit", get(audit))
        .route("/edit", get(edit::form).post(edit::store))
        .route("/events", get(events))
        .route("/confirm", get(confirm))
        .route("/done", get(outcome))
        .route("/undo", post(undo))
        .route("/act", post(act))
        .route(&format!("/{}", STYLE.name), get(async || STYLE.answer()))
        .route(&format!("/{}", SCRIPT.name), get(async || SCRIPT.answer()))
        .method_not_allowed_fallback(wrong_method)
        .fallback(no_page)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(from_fn(guard))
        .with_state(api)
}

/// Redirects to the overview, by a relative address: a proxy may have cut the path.
async fn home(OriginalUri(uri): OriginalUri) -> Response {
    let last = uri.path().rsplit('/').next().unwrap_or_default();
    let to = if last.is_empty() { "overview".to_owned() } else { format!("./{last}/overview") };
    (StatusCode::SEE_OTHER, [(LOCATION, to)]).into_response()
}

async fn wrong_method() -> PageError {
    PageError::new(StatusCode::METHOD_NOT_ALLOWED, "this address is not asked in this way; go back")
}

async fn no_page() -> PageError {
    PageError::not_found("there is no such page")
}
