//! The pages for operators, over every store.

mod acting;
mod audited;
mod bounded;
mod broker;
mod browser;
mod command;
mod consumers;
mod editing;
mod fields;
mod hostile;
mod live;
mod malformed;
mod openapi;
mod pages;
mod redirected;
mod safety;
mod views;

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode};
use tempfile::TempDir;
use tower::ServiceExt;
use tower_outbox::outbox::OutboxHandle;
use tower_outbox::testing::Sent;
use tower_outbox::{Bus, Message, Settings};

use crate::admin::{Does, Switched, durable, until_held};
use crate::peers::{Brokers, unique};
use crate::support::{messages, text};

/// Where the pages are nested.
pub const BASE: &str = "/ops/outbox";

/// A bus whose dead letters and pending messages the pages show.
pub struct Ops {
    pub router: Router,
    pub bus: Bus,
    pub backend: Switched,
    pub sent: Sent,
    folder: TempDir,
}

/// An answer.
pub struct Shown {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

/// The kinds of stores.
#[derive(Clone, Copy)]
pub enum Kind {
    Durable,
    Sqlite,
    Postgres,
}

impl Ops {
    pub async fn new(kind: Kind, does: Does) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (backend, sent) = Switched::new(does);
        let bus = match kind {
            Kind::Durable => durable(folder.path(), backend.clone(), "").await,
            Kind::Sqlite => {
                let url = format!("sqlite:{}?mode=rwc", folder.path().join("app.db").display());
                transactional(backend.clone(), &url, "").await
            }
            Kind::Postgres => {
                let schema = format!("SCHEMA = '{}'", unique("test").replace('-', "_"));
                transactional(backend.clone(), Brokers::running().get("POSTGRES"), &schema).await
            }
        };
        let router =
            Router::new().nest(BASE, bus.dashboard().with_undo_window(Duration::ZERO).without_guard());
        Self { router, bus, backend, sent, folder }
    }

    /// The same, with pages on which drops can be undone.
    pub fn with_undo(mut self, window: Duration) -> Self {
        self.router = Router::new().nest(BASE, self.bus.dashboard().with_undo_window(window).without_guard());
        self
    }

    /// One with dead letters of these topics.
    pub async fn with_dead<const N: usize>(kind: Kind, topics: [&'static str; N]) -> Self {
        let ops = Self::new(kind, Does::Reject).await;
        ops.store(messages(topics)).await;
        ops.until(0, N as u64).await;
        ops
    }

    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub fn outbox(&self) -> OutboxHandle {
        self.bus.outbox().unwrap()
    }

    pub async fn store(&self, messages: Vec<Message>) {
        self.outbox().append(messages).await.unwrap();
    }

    /// Waits until so many messages are pending and dead.
    pub async fn until(&self, pending: u64, dead: u64) {
        until_held(&self.outbox(), pending, dead).await;
    }

    pub async fn call(&self, request: Request<Body>) -> Shown {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Shown { status, headers, text: text(response).await }
    }

    pub async fn get(&self, page: &str) -> Shown {
        self.call(Request::get(format!("{BASE}/{page}")).body(Body::empty()).unwrap()).await
    }

    /// The text of a page that must be there.
    pub async fn page(&self, page: &str) -> String {
        let shown = self.get(page).await;
        assert_eq!(shown.status, StatusCode::OK, "{page}: {}", shown.text);
        shown.text
    }

    /// Sends a form as a browser does, which follows a redirect.
    pub async fn submit(&self, page: &str, fields: &str) -> Shown {
        let shown = self.send(page, fields).await;
        match shown.status {
            StatusCode::SEE_OTHER => self.get(target(&shown.headers)).await,
            _ => shown,
        }
    }

    /// Sends a form, and follows no redirect.
    pub async fn send(&self, page: &str, fields: &str) -> Shown {
        let request = Request::builder().method(Method::POST).uri(format!("{BASE}/{page}"));
        let request = request
            .header("content-type", "application/x-www-form-urlencoded")
            .header("sec-fetch-site", "same-origin");
        self.call(request.body(fields.to_owned().into()).unwrap()).await
    }

    /// Sends a form that must be accepted.
    pub async fn done(&self, fields: &str) -> String {
        let shown = self.submit("act", fields).await;
        assert_eq!(shown.status, StatusCode::OK, "{fields}: {}", shown.text);
        shown.text
    }
}

/// Returns the page of a redirect, which is beside the form's.
pub fn target(headers: &HeaderMap) -> &str {
    let target = headers["location"].to_str().unwrap();
    assert!(!target.starts_with('/') && !target.split('?').next().unwrap().contains('/'), "{target}");
    target
}

async fn transactional(backend: Switched, url: &str, keys: &str) -> Bus {
    let settings =
        format!("BACKEND = 'own'\nDELIVERY = 'transactional'\n[OUTBOX]\nDATABASE_URL = '{url}'\n{keys}");
    let settings: Settings = toml::from_str(&settings).unwrap();
    let builder = Bus::builder(&settings).with_backend("own", move |_| Ok::<_, Infallible>(backend));
    builder.start().await.unwrap()
}

/// Returns the values of an attribute, in order.
pub fn attributes<'a>(page: &'a str, start: &str) -> Vec<&'a str> {
    let parts = page.split(start).skip(1);
    parts.map(|part| part.split('"').next().unwrap()).collect()
}

/// Returns the positions of the messages of a list.
pub fn positions(page: &str) -> Vec<&str> {
    attributes(page, "name=\"position\" value=\"")
}

/// Each of these over every store.
macro_rules! on_every_store {
    ($($behaviour:ident)*) => {
        mod durable { $(
            #[tokio::test]
            async fn $behaviour() {
                super::$behaviour(crate::dashboard::Kind::Durable).await;
            }
        )* }

        mod sqlite { $(
            #[tokio::test]
            async fn $behaviour() {
                super::$behaviour(crate::dashboard::Kind::Sqlite).await;
            }
        )* }

        mod postgres { $(
            #[tokio::test]
            #[ignore = "needs brokers: ./scripts/test"]
            async fn $behaviour() {
                super::$behaviour(crate::dashboard::Kind::Postgres).await;
            }
        )* }
    };
}
pub(crate) use on_every_store;
