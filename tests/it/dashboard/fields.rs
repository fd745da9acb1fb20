//! Fields that are filled in wrongly.

use http::StatusCode;
use tower_outbox::Message;

use super::hostile::assert_harmless;
use super::{Kind, Ops, attributes, on_every_store, positions};
use crate::admin::Does;

on_every_store! {
    a_wrong_filter_marks_its_field_and_keeps_the_others
}

async fn a_wrong_filter_marks_its_field_and_keeps_the_others(kind: Kind) {
    let ops = Ops::with_dead(kind, ["a"]).await;
    for (name, value, expected) in [
        ("older_than", "abc", "such as 90s, 30m or 1d"),
        ("older_than", "-1", "such as 90s, 30m or 1d"),
        ("id", "123", "whole id, such as"),
        ("state", "lost", "Choose pending or dead"),
        ("topic", "*.created", "one *, such as order.*"),
        ("key", "a%00b", "without a NUL"),
        ("reason", "%00", "without a NUL"),
    ] {
        let page = format!("messages?{name}={value}&{}=kept-9", if name == "key" { "reason" } else { "key" });
        let shown = ops.get(&page).await;
        assert_eq!(shown.status, StatusCode::BAD_REQUEST, "{page}");
        assert!(
            shown.text.contains(expected) && shown.text.contains("value=\"kept-9\""),
            "{page}: {}",
            shown.text
        );
        assert_eq!(attributes(&shown.text, "aria-invalid=\""), ["true"], "{page}");
        let described = attributes(&shown.text, "aria-describedby=\"")[0];
        assert!(shown.text.contains(&format!("id=\"{described}\"")), "{page}");
        assert!(positions(&shown.text).is_empty(), "{page}");
        assert_harmless(&page, &shown.text);
        for act in ["requeue-all", "drop-all"] {
            let shown = ops.get(&format!("confirm?act={act}&{name}={value}")).await;
            assert!(
                shown.status == StatusCode::BAD_REQUEST && shown.text.contains(expected),
                "{act}: {}",
                shown.text
            );
            let shown = ops.submit("act", &format!("act={act}&{name}={value}")).await;
            assert!(
                shown.status == StatusCode::BAD_REQUEST && shown.text.contains(expected),
                "{act}: {}",
                shown.text
            );
        }
    }
    ops.until(0, 1).await;
    for right in [
        "older_than=30",
        "older_than=1d",
        "topic=*",
        "topic=a*",
        "state=dead",
        "id=01890a5d-ac96-774b-bcce-b302099a8057",
    ] {
        assert_eq!(ops.get(&format!("messages?{right}")).await.status, StatusCode::OK, "{right}");
    }
}

#[tokio::test]
async fn a_wrong_rate_is_asked_again_with_the_same_messages() {
    let ops = Ops::with_dead(Kind::Durable, ["a", "b"]).await;
    for rate in ["fast", "0", "-1", "NaN", "inf", "1e-9"] {
        let shown = ops.submit("act", &format!("act=requeue-all&state=dead&topic=a&rate={rate}")).await;
        assert_eq!(shown.status, StatusCode::BAD_REQUEST, "{rate}");
        for part in [
            "Requeue 1 message?",
            "name=\"topic\" value=\"a\"",
            "aria-invalid=\"true\"",
            "such as 100; at least 0.001",
        ] {
            assert!(shown.text.contains(part), "{rate}: {part}: {}", shown.text);
        }
    }
    ops.until(0, 2).await;
}

#[tokio::test]
async fn a_refused_edit_keeps_what_was_written() {
    let ops = Ops::new(Kind::Durable, Does::Down).await;
    let message = Message::new("a", "old").unwrap();
    let id = message.id();
    ops.store(vec![message]).await;
    let position = positions(&ops.page("messages").await)[0].to_owned();
    let form = format!(
        "position={position}&id={id}&topic=a+b&key=k&content_type=text/plain&body=%3Cnew%3E%0D%0Atext"
    );
    let shown = ops.submit("edit", &form).await;
    assert_eq!(shown.status, StatusCode::BAD_REQUEST);
    for part in ["Nothing is stored: ", "value=\"a b\"", "&lt;new&gt;\r\ntext</textarea>", "role=\"alert\""] {
        assert!(shown.text.contains(part), "{part}: {}", shown.text);
    }
    // The box was not ticked.
    assert!(!shown.text.contains("checked"), "{}", shown.text);
    ops.until(1, 0).await;
}
