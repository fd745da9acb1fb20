//! The frame of every page.

use axum::response::Html;
use maud::{DOCTYPE, Markup, html};

use super::assets::{SCRIPT, STYLE};

/// The pages of the navigation.
const PAGES: [(&str, &str); 3] =
    [("overview", "Overview"), ("messages", "Messages"), ("dead-letters", "Dead letters")];

/// The frame of a page.
pub(super) struct Page<'a> {
    title: &'a str,
    current: &'a str,
    live: Option<String>,
}

impl<'a> Page<'a> {
    /// A page below this one of the navigation.
    pub(super) fn new(title: &'a str, current: &'a str) -> Self {
        Self { title, current, live: None }
    }

    /// The address of the events that keep the page up to date.
    #[allow(dead_code, reason = "pages become live one by one")]
    pub(super) fn live(mut self, address: impl Into<String>) -> Self {
        self.live = Some(address.into());
        self
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
                                @for (address, name) in PAGES {
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
                    main #content tabindex="-1" data-live=[self.live.as_deref()] {
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
