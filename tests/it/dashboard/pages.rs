//! The content of each page.

use tower_outbox::Message;

use super::{BASE, Kind, Ops, attributes, on_every_store, positions};
use crate::admin::Does;
use crate::support::{message, messages};

on_every_store! {
    the_overview_says_how_much_waits_and_why
    a_list_is_filtered_by_its_address
    pages_follow_each_other_by_position
    a_message_is_shown_whole
    dead_letters_are_grouped_by_reason_and_topic
}

async fn the_overview_says_how_much_waits_and_why(kind: Kind) {
    let ops = Ops::with_dead(kind, ["a", "b"]).await;
    ops.backend.set(Does::Down);
    ops.store(messages(["c"])).await;
    ops.until(1, 2).await;
    let page = ops.page("overview").await;
    for part in
        ["The broker is down: no broker answers", ">1</a></b><span>pending", ">2</a></b><span>dead letters"]
    {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(page.contains("<svg"), "{page}");
}

async fn a_list_is_filtered_by_its_address(kind: Kind) {
    let ops = Ops::with_dead(kind, ["user.created", "user.deleted", "order.created"]).await;
    assert_eq!(positions(&ops.page("messages").await).len(), 3);
    for (query, count) in [
        ("state=dead", 3),
        ("state=pending", 0),
        ("topic=user.*", 2),
        ("topic=order.created&reason=FORBIDS", 1),
        ("reason=timeout", 0),
        ("older_than=1h", 0),
        ("key=&id=", 3),
    ] {
        let page = ops.page(&format!("messages?{query}")).await;
        assert_eq!(positions(&page).len(), count, "{query}: {page}");
        let noun = if count == 1 { "message matches" } else { "messages match" };
        assert!(page.contains(&format!("{count} {noun}")), "{query}: {page}");
    }
    let wrong = ops.get("messages?older_than=soon").await;
    assert!(wrong.status.is_client_error() && wrong.text.contains("soon"), "{}", wrong.text);
}

async fn pages_follow_each_other_by_position(kind: Kind) {
    let ops = Ops::new(kind, Does::Down).await;
    ops.store((0..120).map(|_| message("a")).collect()).await;
    let (mut seen, mut page) = (Vec::new(), ops.page("messages?state=pending").await);
    loop {
        seen.extend(positions(&page).into_iter().map(str::to_owned));
        let next = attributes(&page, "rel=\"next\" href=\"").first().map(|next| next.replace("&amp;", "&"));
        match next {
            Some(next) => page = ops.page(&next).await,
            None => break,
        }
    }
    assert_eq!(seen.len(), 120);
    assert!(seen.windows(2).all(|pair| pair[0] != pair[1]));
}

async fn a_message_is_shown_whole(kind: Kind) {
    let ops = Ops::new(kind, Does::Reject).await;
    let body = br#"{"total":12345678901234567890.10,"name":"Jo"}"#;
    let message = Message::new("order.created", body.as_slice()).unwrap();
    let message =
        message.with_content_type("application/json").with_key("order-7").with_header("tenant", "blue");
    let id = message.id();
    ops.store(vec![message]).await;
    ops.until(0, 1).await;
    let list = ops.page("messages").await;
    let position = positions(&list)[0].to_owned();
    let page = ops.page(&format!("message?position={position}")).await;
    for part in [
        &id.to_string(),
        "order.created",
        "order-7",
        "<dt>tenant</dt><dd>blue</dd>",
        "&quot;total&quot;: 12345678901234567890.10,",
        "given up on: rejected: the bus forbids it",
        "Failed attempts",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let bytes = ops.page(&format!("message?position={position}&view=hex")).await;
    assert!(bytes.contains("7b 22 74"), "{bytes}");
    let raw = ops.get(&format!("body?position={position}")).await;
    assert_eq!(raw.text.as_bytes(), body);
    assert!(raw.headers["content-disposition"].to_str().unwrap().starts_with("attachment"));
    assert_eq!(ops.get("message?position=999999").await.status, 404);
}

async fn dead_letters_are_grouped_by_reason_and_topic(kind: Kind) {
    let ops = Ops::with_dead(kind, ["a", "b", "a", "a"]).await;
    let page = ops.page("dead-letters").await;
    assert!(page.contains("4 dead letters"), "{page}");
    let (three, one) = (page.find(">3</a>").unwrap(), page.find(">1</a>").unwrap());
    assert!(three < one && page.contains("the bus forbids it"), "{page}");
    // The number leads to the messages of the group.
    let links = attributes(&page, "href=\"messages?");
    let group = links.iter().find(|link| link.contains("topic=a")).unwrap().replace("&amp;", "&");
    assert_eq!(positions(&ops.page(&format!("messages?{group}")).await).len(), 3);
}

#[tokio::test]
async fn an_outbox_that_holds_nothing_says_so() {
    let ops = Ops::new(Kind::Durable, Does::Take).await;
    assert!(ops.page("messages").await.contains("No message matches"));
    assert!(ops.page("dead-letters").await.contains("There is no dead letter"));
    assert!(ops.page("overview").await.contains("The broker is up"));
}

#[tokio::test]
async fn any_base_path_works() {
    let ops = Ops::new(Kind::Durable, Does::Take).await;
    let shown = ops.call(http::Request::get(BASE).body(axum::body::Body::empty()).unwrap()).await;
    assert_eq!(
        (shown.status.as_u16(), &shown.headers["location"]),
        (303, &"./outbox/overview".parse().unwrap())
    );
    // No address in a page begins at the root.
    for page in ["overview", "messages", "dead-letters", "nothing"] {
        let text = ops.get(page).await.text;
        for start in ["href=\"", "src=\"", "action=\""] {
            let absolute: Vec<_> = attributes(&text, start)
                .into_iter()
                .filter(|to| to.starts_with('/') || to.contains("://"))
                .collect();
            assert!(absolute.is_empty(), "{page}: {absolute:?}");
        }
    }
}

#[tokio::test]
async fn the_first_load_is_small_and_kept_by_browsers() {
    let ops = Ops::new(Kind::Durable, Does::Take).await;
    let page = ops.page("overview").await;
    let mut bytes = page.len();
    for name in [attributes(&page, "stylesheet\" href=\""), attributes(&page, "script src=\"")].concat() {
        let asset = ops.get(name).await;
        assert!(asset.headers["cache-control"].to_str().unwrap().contains("immutable"), "{name}");
        bytes += asset.text.len();
    }
    // Even without compression.
    assert!(bytes < 60_000, "{bytes}");
}

/// The answer of the JSON API.
async fn json(ops: &Ops, address: &str) -> serde_json::Value {
    let request = http::Request::get(address).body(axum::body::Body::empty()).unwrap();
    let response = tower::ServiceExt::oneshot(ops.bus.admin(), request).await.unwrap();
    serde_json::from_str(&crate::support::text(response).await).unwrap()
}

#[tokio::test]
async fn a_count_that_was_cut_short_says_so() {
    let ops = Ops::new(Kind::Durable, Does::Down).await;
    ops.store((0..1_200).map(|_| message("a")).collect()).await;
    let cut = json(&ops, "/count?topic=a&within=0s").await;
    assert!(cut["exact"] == false && cut["messages"].as_u64() < Some(1_200), "{cut}");
    let whole = json(&ops, "/count?topic=a&within=60s").await;
    assert!(whole["exact"] == true && whole["messages"] == 1_200, "{whole}");
}

#[tokio::test]
async fn a_group_has_its_first_and_last_time() {
    let ops = Ops::with_dead(Kind::Durable, ["a"]).await;
    ops.store(vec![message("a")]).await;
    ops.until(0, 2).await;
    let groups = json(&ops, "/groups").await;
    let group = &groups["groups"][0];
    assert!(group["messages"] == 2 && group["first"].as_str() < group["last"].as_str(), "{groups}");
}
