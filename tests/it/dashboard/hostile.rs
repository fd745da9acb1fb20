//! Foreign texts are shown, and do nothing.

use tower_outbox::Message;

use super::{Kind, Ops, on_every_store, positions};
use crate::admin::Does;

on_every_store! {
    hostile_messages_are_shown_harmless
    a_hostile_reason_groups_and_selects_as_any_other
}

const SCRIPT: &str = "\"><script>alert(1)</script><img src=x onerror=alert(1)>";

fn hostile() -> Vec<Message> {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let json = |body: String| Message::new("a", body).unwrap().with_content_type("application/json");
    vec![
        Message::new("a", SCRIPT)
            .unwrap()
            .with_content_type("text/html")
            .with_key(SCRIPT)
            .with_header("x", SCRIPT),
        Message::new("a", "abc\u{202e}gpj.exe\u{0}\u{1b}[2J")
            .unwrap()
            .with_key("k\u{202e}ey")
            .with_content_type(SCRIPT),
        json("x".repeat(1 << 20)),
        json(format!("\"{}\"", "<".repeat(1 << 20))),
        json(deep),
        Message::new("a", vec![0xff; 100_000]).unwrap(),
        json(format!("{{\"{SCRIPT}\": 1}}").replace("\"><", "><")),
    ]
}

async fn hostile_messages_are_shown_harmless(kind: Kind) {
    let ops = Ops::new(kind, Does::Down).await;
    let messages = hostile();
    let count = messages.len();
    ops.store(messages).await;
    let list = ops.page("messages").await;
    assert_eq!(positions(&list).len(), count);
    assert_harmless("messages", &list);
    for position in positions(&list) {
        for view in ["", "json", "text", "hex"] {
            let page = format!("message?position={position}&view={view}");
            assert_harmless(&page, &ops.page(&page).await);
        }
    }
    assert!(list.contains("\\u{202e}"), "{list}");
    for query in ["topic", "key", "reason", "id", "state", "older_than", "after", "act", "position"] {
        let encoded: String = url::form_urlencoded::byte_serialize(SCRIPT.as_bytes()).collect();
        for page in ["messages?", "confirm?act=requeue-all&", "confirm?", "message?"] {
            let shown = ops.get(&format!("{page}{query}={encoded}")).await;
            assert_harmless(page, &shown.text);
        }
    }
}

async fn a_hostile_reason_groups_and_selects_as_any_other(kind: Kind) {
    let ops = Ops::new(kind, Does::RejectBecause(SCRIPT)).await;
    ops.store(vec![crate::support::message("a")]).await;
    ops.until(0, 1).await;
    let page = ops.page("dead-letters").await;
    assert_harmless("dead-letters", &page);
    let link = super::attributes(&page, "href=\"messages?").into_iter().find(|link| link.contains("topic=a"));
    let list = ops.page(&format!("messages?{}", link.unwrap().replace("&amp;", "&"))).await;
    assert_harmless("messages", &list);
    assert_eq!(positions(&list).len(), 1);
}

/// A page has the one script that it loads, no handler, no inline style, no hidden character, and a bounded size.
#[track_caller]
pub fn assert_harmless(page: &str, text: &str) {
    assert_eq!(text.matches("<script").count(), 1, "{page}");
    assert!(!text.contains("<img"), "{page}");
    assert!(!text.contains('\u{202e}') && !text.contains('\0') && !text.contains('\u{1b}'), "{page}");
    for tag in text.split('<').skip(1) {
        // The values of attributes are between quotes, which are escaped within.
        let outside: String = tag.split('>').next().unwrap().split('"').step_by(2).collect();
        assert!(!outside.contains("style=") && !outside.contains("onerror="), "{page}: <{outside}>");
    }
    assert!(text.len() < 2_000_000, "{page}: {}", text.len());
}
