//! A form is answered by a redirect to its outcome.

use std::time::Duration;

use http::StatusCode;

use super::acting::fields;
use super::hostile::assert_harmless;
use super::{Kind, Ops, attributes, on_every_store, positions, target};
use crate::admin::Does;

on_every_store! {
    an_outcome_can_be_loaded_again
    a_drop_is_announced_on_every_page_until_it_happens
}

async fn an_outcome_can_be_loaded_again(kind: Kind) {
    let ops = Ops::with_dead(kind, ["a", "b", "c"]).await;
    ops.backend.set(Does::Down);
    let question = ops.page("confirm?act=requeue-all&topic=a").await;
    let answer = ops.send("act", &fields(&question)).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    for _ in 0..2 {
        let shown = ops.page(target(&answer.headers)).await;
        assert!(shown.contains("Requeued 1 message.") && shown.contains("role=\"status\""), "{shown}");
    }
    ops.until(1, 2).await;
    let answer = ops.send("act", "act=drop-all&state=dead&topic=b").await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    assert!(ops.page(target(&answer.headers)).await.contains("Dropped 1 message. This is final."));
    ops.until(1, 1).await;
}

async fn a_drop_is_announced_on_every_page_until_it_happens(kind: Kind) {
    let ops = Ops::with_dead(kind, ["a", "b"]).await.with_undo(Duration::from_secs(600));
    let position = positions(&ops.page("messages").await)[0].to_owned();
    let answer = ops.send("act", "act=drop-all&state=dead&topic=a").await;
    let done = target(&answer.headers).to_owned();
    let pages = [
        "overview",
        "messages",
        "dead-letters",
        "topics",
        "consumers",
        "audit",
        "confirm?act=requeue-all",
        &done,
    ];
    let (message, edit) = (format!("message?position={position}"), format!("edit?position={position}"));
    for page in pages.into_iter().chain([message.as_str(), &edit]) {
        let shown = ops.page(page).await;
        assert!(shown.contains("1 message will be dropped in") && shown.contains("UTC"), "{page}: {shown}");
        assert!(
            shown.contains("action=\"undo\"")
                && shown.contains(">Undo</button>")
                && shown.contains("did not say who asked"),
            "{page}: {shown}"
        );
    }
    let page = ops.page(&done).await;
    let kept = ops.send("undo", &format!("id={}", attributes(&page, "name=\"id\" value=\"")[0])).await;
    assert!(ops.page(target(&kept.headers)).await.contains("Kept 1 message. The drop is undone."));
    let late = ops.page(&done).await;
    assert!(late.contains("can no longer be undone") && !late.contains("action=\"undo\""), "{late}");
}

#[tokio::test]
async fn an_address_cannot_put_words_into_an_outcome() {
    let ops = Ops::new(Kind::Durable, Does::Down).await;
    for did in [
        "requeued",
        "dropped",
        "dropping",
        "kept",
        "stored",
        "broker-requeued",
        "broker-dropped",
        "EVIL",
        "%3Cscript%3E",
        "",
    ] {
        for (name, is_wrong) in [
            ("messages", true),
            ("left", true),
            ("drop", true),
            ("id", true),
            ("queue", false),
            ("running", false),
            ("x", false),
        ] {
            let page = format!("done?did={did}&{name}=Call+0900-EVIL%3Cscript%3E%00%E2%80%AE");
            let shown = ops.get(&page).await;
            assert_harmless(&page, &shown.text);
            assert!(did != "EVIL" || shown.status.is_client_error(), "{page}");
            // A refused field is quoted in the error of a page that says so; a queue is in a link alone.
            let words = shown.text.replace("broker?queue=Call+0900-EVIL", "");
            assert!(
                is_wrong && shown.status.is_client_error() || !words.contains("EVIL"),
                "{page}: {}",
                shown.text
            );
        }
    }
    assert_eq!(ops.get("done?did=requeued&messages=-1").await.status, StatusCode::BAD_REQUEST);
    // Words about the broker are said of its own operations alone.
    for (did, is_said) in [("requeued", false), ("broker-requeued", true)] {
        let page = ops.page(&format!("done?did={did}&messages=1&running=yes&queue=q")).await;
        assert_eq!(page.contains("It goes on") && page.contains("broker?queue=q"), is_said, "{did}: {page}");
        assert_eq!(page.contains("It goes on") || page.contains("broker?queue=q"), is_said, "{did}: {page}");
    }
}
