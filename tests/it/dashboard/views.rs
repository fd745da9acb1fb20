//! Topics, channels and routing.

use axum::Router;
use axum::body::Body;
use http::{Request, StatusCode};
use tower::ServiceExt;
use tower_outbox::{Bus, Message, Settings};

use super::hostile::assert_harmless;
use super::{BASE, Kind, Ops, attributes, on_every_store, positions};
use crate::admin::{Does, until};
use crate::support::{message, text};

on_every_store! {
    topics_show_depth_rates_and_failures
    the_overview_shows_who_shares_the_outbox
}

async fn the_overview_shows_who_shares_the_outbox(kind: Kind) {
    let ops = Ops::new(kind, Does::Take).await;
    let overview = async || ops.page("overview").await;
    until("it has them all", async || overview().await.contains("Sends\"><span>all messages<")).await;
    let page = overview().await;
    let heartbeat = match kind {
        Kind::Durable => "needs none: no other process uses this outbox",
        Kind::Sqlite | Kind::Postgres => "s ago</span>",
    };
    let name = format!(":{}</span>", std::process::id());
    for part in [&*name, "Instances that share the outbox", "Version\"><span>0.", heartbeat] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let status =
        text(ops.bus.admin().oneshot(Request::get("/status").body(Body::empty()).unwrap()).await.unwrap());
    let status: serde_json::Value = serde_json::from_str(&status.await).unwrap();
    let instance = &status["outbox"]["instances"][0];
    assert!(instance["name"].as_str().unwrap().ends_with(&format!(":{}", std::process::id())), "{status}");
    assert!(instance["since"].is_string() && instance["version"].is_string(), "{status}");
}

async fn topics_show_depth_rates_and_failures(kind: Kind) {
    let ops = Ops::with_dead(kind, ["z.order.bad", "z.order.bad"]).await;
    ops.backend.set(Does::Take);
    ops.store(vec![message("order.good"), message("order.good"), message("order.good")]).await;
    ops.until(0, 2).await;
    ops.backend.set(Does::Down);
    ops.store(vec![message("order.late")]).await;
    until("it fails", async || {
        let page = ops.page("topics").await;
        let late = row(&page, "order.late");
        !late.is_empty() && !late.contains("Failed\">0<")
    })
    .await;
    let page = ops.page("topics?within=10s").await;
    let (bad, good, late) = (row(&page, "z.order.bad"), row(&page, "order.good"), row(&page, "order.late"));
    for (row, part) in [
        (bad, "Refused\">2<"),
        (bad, "the bus forbids it"),
        (bad, "Sent\">0<"),
        (good, "Sent\">3<"),
        (good, "Refused\">0<"),
        (late, "Pending\"><a class=\"\" href=\"messages?state=pending&amp;topic=order.late\">1</a>"),
    ] {
        assert!(row.contains(part), "{part}: {row}");
    }
    // Those with dead letters are first, and their number leads to them.
    assert!(page.find("z.order.bad") < page.find("order.good"), "{page}");
    let link = attributes(bad, "class=\"bad\" href=\"")[0].replace("&amp;", "&");
    assert_eq!(positions(&ops.page(&link).await).len(), 2);
}

/// The row of a table whose first cell is this.
#[track_caller]
fn row<'a>(page: &'a str, first: &str) -> &'a str {
    let rows = page.split("<tr").map(|row| row.split("</tr>").next().unwrap());
    rows.into_iter().find(|row| row.contains(&format!("<span>{first}</span>"))).unwrap_or_default()
}

/// The pages of a bus with these settings, and its JSON API.
async fn app(settings: &str) -> (Bus, Router) {
    let settings: Settings = toml::from_str(settings).unwrap();
    let bus = Bus::start(&settings).await.unwrap();
    let router = Router::new().nest(BASE, bus.dashboard().without_guard()).nest("/admin", bus.admin());
    (bus, router)
}

async fn get(router: &Router, address: &str) -> (StatusCode, String) {
    let response = router.clone().oneshot(Request::get(address).body(Body::empty()).unwrap()).await.unwrap();
    (response.status(), text(response).await)
}

async fn page(router: &Router, name: &str) -> String {
    let (status, text) = get(router, &format!("{BASE}/{name}")).await;
    assert_eq!(status, StatusCode::OK, "{name}: {text}");
    text
}

#[tokio::test]
async fn channels_show_depth_and_consumers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("channels");
    let (bus, router) = app(&format!("BACKEND = 'channels'\nPATH = {path:?}")).await;
    assert!(page(&router, "channels").await.contains("No channel was used yet"));
    bus.messenger().send(vec![message("orders.new"), message("orders.new"), message("other")]).await.unwrap();
    let shown = page(&router, "channels").await;
    let orders = row(&shown, "orders.new");
    for part in [
        "Kind\">queue<",
        "Messages\">2<",
        "In\">2<",
        "Out\">0<",
        "Last sequence\">2<",
        "those of the settings",
    ] {
        assert!(orders.contains(part), "{part}: {orders}");
    }
    // The deepest one is first, and a filter names a part.
    assert!(shown.find("orders.new") < shown.find(">other<"), "{shown}");
    let filtered = page(&router, "channels?search=oth").await;
    assert!(filtered.contains(">other<") && !filtered.contains("orders.new"), "{filtered}");
    let (status, json) = get(&router, "/admin/channels?search=orders").await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((status, &json["channels"][0]["messages"]), (StatusCode::OK, &2.into()), "{json}");
}

#[tokio::test]
async fn routing_shows_queues_and_drops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("router");
    let (bus, router) = app(&format!(
        "BACKEND = 'routing'\nPATH = {path:?}\nMAX_MESSAGES = 2\n[CONSUMERS.display]\nURI = 'floor1/*'"
    ))
    .await;
    let source = bus.source("display").unwrap();
    // The queue is there from the first receive on.
    assert!(tokio::time::timeout(std::time::Duration::from_millis(200), source.receive(1)).await.is_err());
    let values = (0..5).map(|value| Message::json("floor1.temperature", &value).unwrap()).collect();
    bus.messenger().send(values).await.unwrap();
    let shown = page(&router, "routing").await;
    for part in [
        "<b><span class=\"bad\">3</span></b><span>dropped by queues",
        "floor1/*",
        "no designated router",
        "2 messages",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

#[tokio::test]
async fn a_part_has_a_page_only_where_it_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("channels");
    let (_bus, with) = app(&format!("BACKEND = 'channels'\nPATH = {path:?}")).await;
    let (_other, without) = app("BACKEND = 'memory'").await;
    let links = |page: &str| {
        ["topics", "channels", "routing"].map(|name| page.contains(&format!("<a href=\"{name}\"")))
    };
    assert_eq!(links(&page(&with, "overview").await), [true, true, false]);
    assert_eq!(links(&page(&without, "overview").await), [true, false, false]);
    for name in ["channels", "routing"] {
        let (status, text) = get(&without, &format!("{BASE}/{name}")).await;
        assert!(status == StatusCode::NOT_FOUND && text.contains("BACKEND is not"), "{text}");
    }
}

#[tokio::test]
async fn hostile_names_are_shown_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("channels");
    let (bus, router) = app(&format!("BACKEND = 'channels'\nPATH = {path:?}")).await;
    let name = "\"><script>alert(1)</script><img/src=x/onerror=alert(1)>\u{202e}gpj".replace('>', "");
    let _ = bus.messenger().send(vec![Message::new(name, "x").unwrap()]).await;
    for view in ["topics", "channels", "channels?search=%22%3E%3Cscript%3E", "overview"] {
        assert_harmless(view, &page(&router, view).await);
    }
    assert!(page(&router, "topics").await.contains("\\u{202e}"));
}

#[tokio::test]
async fn the_overview_names_the_brokers_and_where_messages_go() {
    let (bus, router) = app(
        "BACKEND = 'amqp091'\nURLS = 'amqp://jo:geheim@127.0.0.1:1/orders?token=geheim,amqp://127.0.0.1:2'\nEXCHANGE = 'events<1>'\nTOPIC_PREFIX = 'eu.shop'",
    )
    .await;
    let shown = page(&router, "overview").await;
    for part in [
        "Brokers: ",
        "@127.0.0.1:1/orders",
        "amqp://127.0.0.1:2",
        "the exchange &quot;events&lt;1&gt;&quot; with the routing key eu.shop.TOPIC",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let (_, json) = get(&router, "/admin/status").await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["brokers"].as_array().map(Vec::len), Some(2), "{json}");
    for text in [shown, json.to_string(), bus.describe().to_string()] {
        assert!(!text.contains("geheim") && !text.contains("jo:") && !text.contains("//jo"), "{text}");
    }
    let (_bus, own) = app("BACKEND = 'memory'").await;
    let shown = page(&own, "overview").await;
    assert!(!shown.contains("Broker:") && shown.contains("Messages go to a queue in memory"), "{shown}");
}

#[tokio::test]
async fn a_lag_that_nobody_knows_says_why() {
    let (bus, router) =
        app("BACKEND = 'mqtt'\nURLS = 'mqtt://127.0.0.1:1'\n[CONSUMERS.display]\nTOPICS = 'floor1/#'").await;
    tokio::spawn(bus.consumer("display", Router::new()).unwrap().into_future());
    let shown = page(&router, "consumers").await;
    let row = row(&shown, "display");
    assert!(
        row.contains("title=\"The number of waiting messages is unknown") && row.contains(">unknown</span>"),
        "{row}"
    );
    // A title is not seen on a phone, or with the keyboard alone.
    assert!(shown.contains("<p class=\"soft\">The number of waiting messages is unknown"), "{shown}");
    let (known, router) = app("BACKEND = 'memory'\n[CONSUMERS.display]").await;
    tokio::spawn(known.consumer("display", Router::new()).unwrap().into_future());
    let shown = page(&router, "consumers").await;
    assert!(!shown.contains("unknown"), "{shown}");
}
