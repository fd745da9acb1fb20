//! The frame of every page.

use axum::response::Html;
use maud::{DOCTYPE, Markup, html};

use super::assets::{SCRIPT, STYLE};
use crate::admin::PartsReport;

/// A page of the navigation, and whether the process has the part that it shows.
type Linked = (&'static str, &'static str, fn(&PartsReport) -> bool);

/// The pages of the navigation.
const PAGES: [Linked; 8] = [
    ("overview", "Overview", |_| true),
    ("messages", "Messages", |_| true),
    ("dead-letters", "Dead letters", |_| true),
    ("topics", "Topics", |_| true),
    ("channels", "Channels", |parts| parts.channels),
    ("routing", "Routing", |parts| parts.routing),
    ("consumers", "Consumers", |_| true),
    ("audit", "Audit", |_| true),
];

/// The frame of a page.
pub(super) struct Page<'a> {
    title: &'a str,
    current: &'a str,
    /// The address of its events, if it is kept up to date.
    live: Option<String>,
    parts: PartsReport,
    notices: Markup,
}

impl<'a> Page<'a> {
    /// A page below this one of the navigation.
    pub(super) fn new(title: &'a str, current: &'a str) -> Self {
        Self { title, current, live: None, parts: PartsReport::default(), notices: html! {} }
    }

    /// The navigation links to the pages of these parts too.
    pub(super) fn with_parts(self, parts: PartsReport) -> Self {
        Self { parts, ..self }
    }

    /// The page begins with these notices.
    pub(super) fn with_notices(self, notices: Markup) -> Self {
        Self { notices, ..self }
    }

    /// The page is kept up to date by events.
    pub(super) fn live(self) -> Self {
        let live = Some(format!("events?page={}", self.current));
        Self { live, ..self }
    }

    /// The same, for a page with this query.
    pub(super) fn live_with(self, query: &str) -> Self {
        let live = Some(format!("events?page={}&{query}", self.current));
        Self { live, ..self }
    }

    pub(super) fn render(&self, body: &Markup) -> Html<String> {
        let markup = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) " – outbox" }
                    link rel="stylesheet" href=(STYLE.name);
                    link rel="icon" href="data:,";
                    script src=(SCRIPT.name) defer {}
                }
                body {
                    a.skip href="#content" { "Skip to content" }
                    header {
                        nav aria-label="Pages" {
                            ul {
                                @for (address, name, _) in PAGES.into_iter().filter(|(_, _, is_used)| is_used(&self.parts)) {
                                    li {
                                        a href=(address) aria-current=[(address == self.current).then_some("page")] { (name) }
                                    }
                                }
                            }
                        }
                        @if self.live.is_some() {
                            button #pause type="button" hidden { "Pause updates" }
                            span #live .soft role="status" {}
                        }
                    }
                    main #content tabindex="-1" data-live=[&self.live] {
                        (self.notices)
                        h1 { (self.title) }
                        (body)
                    }
                    footer { "tower-outbox " (env!("CARGO_PKG_VERSION")) }
                }
            }
        };
        Html(markup.into_string())
    }
}
