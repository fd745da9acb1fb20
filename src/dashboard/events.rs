//! Server-sent events: the parts of a page that change, again and again.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use http::header::CONTENT_TYPE;
use maud::html;
use tokio::time::{Instant, sleep};

use super::api::Api;
use super::drops::notices;
use super::error::PageError;
use super::fields::Fields;
use super::filter::NAMES;
use super::{audit, channels, consumers, dead_letters, messages, overview, routing, topics};

/// How often a page is looked at.
const PERIOD: Duration = Duration::from_secs(2);

/// After this the browser asks again, so that a server that stops waits no longer.
const LONGEST: Duration = Duration::from_secs(10);

/// A page that is kept up to date.
struct Live {
    api: Api,
    /// The page, and the fields of its address.
    fields: Fields,
    begun: Instant,
    last: Option<String>,
}

pub(super) async fn events(api: Api, fields: Fields) -> Result<Response, PageError> {
    let fields = fields.only(&[&NAMES[..], &["page", "after"]].concat(), &[])?;
    let live = Live { api, fields, begun: Instant::now(), last: None };
    // A wrong page is an answer of its own.
    live.content().await?;
    let body = Body::from_stream(unfold(live, Live::next));
    Ok(([(CONTENT_TYPE, "text/event-stream")], body).into_response())
}

impl Live {
    async fn content(&self) -> Result<String, PageError> {
        let content = match self.fields.get("page").unwrap_or_default() {
            "overview" => overview::content(&self.api).await?,
            "messages" => messages::content(&self.api, &self.fields).await?,
            "dead-letters" => dead_letters::content(&self.api).await?,
            "topics" => topics::content(&self.api).await?,
            "channels" => channels::content(&self.api, "").await?,
            "routing" => routing::content(&self.api).await?,
            "audit" => audit::content(&self.api).await?,
            "consumers" => consumers::content(&self.api).await?,
            _ => return Err(PageError::not_found("this page has no events")),
        };
        Ok(html! { (notices(&self.api.drops().await?)) (content) }.into_string())
    }

    /// Returns the next event; `None` at the end.
    async fn next(mut self) -> Option<(Result<String, std::convert::Infallible>, Self)> {
        if self.last.is_some() {
            sleep(PERIOD).await;
        }
        if self.begun.elapsed() > LONGEST {
            return None;
        }
        let content = self.content().await.ok()?;
        let event = match self.last.as_ref() == Some(&content) {
            // Shows that the connection lives.
            true => ":\n\n".to_owned(),
            false => event(&content),
        };
        self.last = Some(content);
        Some((Ok(event), self))
    }
}

fn event(content: &str) -> String {
    let mut text = String::from("event: part\nretry: 1000\n");
    for line in content.split(['\n', '\r']) {
        text.push_str("data: ");
        text.push_str(line);
        text.push('\n');
    }
    text.push('\n');
    text
}
