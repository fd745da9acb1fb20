//! An app that is its own site router.

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;
use tower_outbox::routing::{Pattern, RouteError, persist};
use tower_outbox::source::Source;
use tower_outbox::wavemq::{Wavemq, WavemqConfig};
use tower_outbox::{Bus, Message, Messenger, Settings};

use super::sites::{STUCK, Site, Wire, namespace, until};

/// Writes the configuration of a site with this designated router.
fn write_config(folder: &Path, uplink: std::net::SocketAddr) -> std::path::PathBuf {
    let (file, queue, namespace) = (folder.join("wavemq.toml"), folder.join("queue"), namespace());
    let text = format!(
        "[QueueConfig]\nqueueDataStore = {queue:?}\n[LocalConfig]\nlistenAddr = \"127.0.0.1:0\"\n[PeerConfig]\nlistenAddr = \"127.0.0.1:0\"\n\
         [[RoutingConfig.Router]]\nNamespace = \"{namespace}\"\nAddress = \"{uplink}\""
    );
    std::fs::write(&file, text).unwrap();
    file
}

#[tokio::test]
async fn an_app_at_a_site_goes_on_while_its_uplink_is_down() {
    let folder = tempfile::tempdir().unwrap();
    let top = Site::designated(&folder.path().join("top"), None).await;
    let wire = Wire::to(top.peers).await;
    let at_top = top.subscribe("t", "*").await;
    let (config, namespace) = (write_config(folder.path(), wire.address), namespace().to_string());
    let settings: Settings = toml::from_str(&format!(
        "BACKEND = \"routing\"\nCONFIG = {config:?}\nNAMESPACE = \"{namespace}\"\n[CONSUMERS.display]\nURI = \"floor1/*\""
    ))
    .unwrap();
    let bus = Bus::start(&settings).await.unwrap();
    let display = bus.source("display").unwrap();
    assert!(timeout(Duration::from_millis(50), display.receive(1)).await.is_err());
    let send = async |body: &'static str| {
        bus.messenger().send(vec![Message::new("floor1.temperature", body).unwrap()]).await.unwrap();
        let delivery = timeout(STUCK, display.receive(1)).await.unwrap().unwrap().remove(0);
        assert_eq!(delivery.view().unwrap().message().body(), body);
        delivery.ack().await.unwrap();
    };
    send("1").await;
    let first = timeout(STUCK, at_top.lease(1)).await.unwrap().unwrap();
    at_top.ack(&[first[0].seq]);
    wire.cut();
    send("2").await;
    wire.restore();
    // The first one may come again.
    loop {
        let next = timeout(STUCK, at_top.lease(1)).await.unwrap().unwrap().remove(0);
        at_top.ack(&[next.seq]);
        assert_eq!(next.message.uri.as_str(), "floor1/temperature");
        if next.message.payload[0].content[..] == *b"2" {
            break;
        }
    }
    let _ = bus.shutdown(Duration::from_secs(10)).await;
    top.stop().await;
}

#[tokio::test]
async fn an_app_reads_last_values_at_the_designated_router() {
    let folder = tempfile::tempdir().unwrap();
    let top = Site::designated(&folder.path().join("top"), None).await;
    let wire = Wire::to(top.peers).await;
    let config = WavemqConfig::read(&write_config(folder.path(), wire.address)).unwrap();
    let server = Wavemq::open(config).await.unwrap();
    let routing = server.routing(namespace());
    for n in 0..100 {
        let value = Message::json(format!("floor{n}.temperature"), &n).unwrap();
        routing.send(vec![persist(value)]).await.unwrap();
    }
    let pattern = Pattern::new("*/temperature").unwrap();
    let count = async || {
        let (mut values, mut count) = (routing.query(&pattern).await?, 0);
        while let Some(value) = values.next().await? {
            assert!(value.topic().as_str().ends_with(".temperature"));
            count += 1;
        }
        Ok::<_, RouteError>(count)
    };
    until("all values are at the top", async || matches!(count().await, Ok(100))).await;
    wire.cut();
    until("the link is down", async || matches!(count().await, Err(RouteError::LinkDown))).await;
    routing.close(STUCK).await;
    drop(server);
    top.stop().await;
}
