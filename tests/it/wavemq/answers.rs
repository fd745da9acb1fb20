//! The answers to clients and other routers: codes of errors, metrics, and the designated router of each namespace.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::Endpoint;
use tower_outbox::routing::{Namespace, Pattern, PayloadObject, RouteError, RoutedMessage, Uri};
use tower_outbox::wavemq_wire as wire;
use tower_outbox::wavemq_wire::wavemq_client::WavemqClient;
use tower_outbox::wavemq_wire::wavemq_peering_client::WavemqPeeringClient;

use super::sites::{Site, Wire, message, namespace, receive, until};
use crate::peers::unique;

fn other() -> Namespace {
    Namespace::named("other").unwrap()
}

fn bytes(namespace: &Namespace) -> bytes::Bytes {
    namespace.as_bytes().to_vec().into()
}

#[tokio::test]
async fn each_namespace_goes_to_its_designated_router() {
    let folder = tempfile::tempdir().unwrap();
    let names = folder.path().join("namespace");
    std::fs::write(&names, other().to_string()).unwrap();
    let of_other = format!("[RoutingConfig]\nDesignatedNamespaceFiles = [{names:?}]");
    let top = Site::designated(&folder.path().join("top"), None).await;
    let second = Site::start(&folder.path().join("second"), None, &of_other).await;
    let link = Wire::to(second.peers).await;
    let uplink = |namespace: &Namespace, address| {
        format!("[[RoutingConfig.Router]]\nNamespace = \"{namespace}\"\nAddress = \"{address}\"\n")
    };
    let uplinks = uplink(&namespace(), top.peers) + &uplink(&other(), link.address);
    let site = Site::start(&folder.path().join("site"), None, &uplinks).await;
    let persisted = |namespace: Namespace, content: &str| {
        let content = content.as_bytes().to_vec().into();
        let object = PayloadObject { schema: "text".to_owned(), content };
        RoutedMessage::new(namespace, Uri::new("a").unwrap(), vec![object]).with_persist(true)
    };
    link.cut();
    let (all, expiry) = (Pattern::all(), Duration::from_secs(60));
    let at_top = top.subscribe("x", "*").await;
    let at_second = second.router.subscribe(b"jo", "x", &other(), &all, expiry).await.unwrap();
    site.router.publish(persisted(other(), "to the second")).await.unwrap();
    site.router.publish(persisted(namespace(), "to the top")).await.unwrap();
    // A link that is down holds no other one up.
    assert_eq!(receive(&at_top, 1).await[0].0, "to the top");
    link.restore();
    assert_eq!(receive(&at_second, 1).await[0].0, "to the second");
    for (router, none) in [(&top, other()), (&second, namespace())] {
        assert!(router.router.query(&none, &all).next().await.is_empty());
    }
    for site in [site, second, top] {
        site.stop().await;
    }
}

#[tokio::test]
async fn each_error_has_the_code_of_the_original() {
    let folder = tempfile::tempdir().unwrap();
    let top = Site::designated(&folder.path().join("top"), None).await;
    let connect = |address| Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let mut client = WavemqClient::new(connect(top.clients));
    let subscribe = wire::SubscribeParams {
        namespace: bytes(&namespace()),
        uri: "*".to_owned(),
        identifier: unique("x"),
        expiry: 60,
        ..Default::default()
    };
    let mut first = client.subscribe(subscribe.clone()).await.unwrap().into_inner();
    let _second = client.subscribe(subscribe.clone()).await.unwrap();
    let ended = first.message().await.unwrap().unwrap();
    assert_eq!(ended.error.unwrap().code, 701);
    assert!(first.message().await.unwrap().is_none());

    let mut peer = WavemqPeeringClient::new(connect(top.peers));
    let router_id = "site".to_owned();
    let unsubscribe = wire::PeerUnsubscribeParams { namespace: bytes(&namespace()), router_id };
    let answer = peer.peer_unsubscribe(unsubscribe).await.unwrap().into_inner();
    assert_eq!(answer.error.unwrap().code, 703);
    let query =
        wire::PeerQueryParams { namespace: bytes(&other()), uri: "*".to_owned(), ..Default::default() };
    let mut values = peer.peer_query_request(query).await.unwrap().into_inner();
    assert_eq!(values.message().await.unwrap().unwrap().error.unwrap().code, 706);
    // Messages of other designated routers stay in the queue of the site.
    let tbs = wire::PeerSubscriptionTbs {
        namespace: bytes(&other()),
        uri: vec!["*".to_owned()],
        router_id: "site".to_owned(),
        ..Default::default()
    };
    let refused = peer.peer_subscribe(wire::PeerSubscribeParams { tbs: Some(tbs) }).await.unwrap();
    assert_eq!(refused.into_inner().message().await.unwrap().unwrap().error.unwrap().code, 702);

    let publish = |uri: &str| wire::PublishParams {
        namespace: bytes(&namespace()),
        uri: uri.to_owned(),
        ..Default::default()
    };
    assert_eq!(client.publish(publish("a/+")).await.unwrap_err().code(), Code::InvalidArgument);
    let jedi = wire::PublishParams { encrypt_with_jedi: true, ..publish("a") };
    assert_eq!(client.publish(jedi).await.unwrap_err().code(), Code::Unimplemented);
    assert!(client.publish(publish("a")).await.unwrap().into_inner().error.is_none());
    top.router.close().await;
    let answer = client.publish(publish("a")).await.unwrap().into_inner();
    assert_eq!(answer.error.unwrap().code, 704);
    let late = client.subscribe(subscribe).await.unwrap().into_inner().message().await.unwrap().unwrap();
    assert_eq!(late.error.unwrap().code, 704);
    assert!(matches!(top.router.publish(message("a", "x")).await, Err(RouteError::Closed)));
    drop(first);
    top.stop().await;
}

#[tokio::test]
async fn metrics_have_the_names_of_the_original() {
    let folder = tempfile::tempdir().unwrap();
    let top = Site::designated(&folder.path().join("top"), None).await;
    let site = Site::site(&folder.path().join("site"), top.peers, "subscriptionQueueMaxLength = 2").await;
    let local = site.subscribe("x", "*").await;
    for n in 0..5 {
        site.router.publish(message("a", &n.to_string()).with_persist(n == 0)).await.unwrap();
    }
    until("all went up", async || site.router.counts().upstream == 5).await;
    receive(&local, 1).await;
    let metrics = async |address| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    };
    let text = metrics(site.clients).await;
    for line in [
        "queue_dropped_messages 3",
        "queue_committed_messages 6",
        "queue_queued_messages 1",
        "queue_queued_bytes ",
        "queue_number 2",
        "route_published_messages 5",
        "route_enqueued_messages 10",
        "route_downstream_messages 0",
        "route_upstream_messages 5",
        "route_persisted_messages 0",
        "route_queried_messages 0",
        "peer_errors ",
        "active_subscriptions 2",
    ] {
        assert!(text.contains(&format!("\n{line}")), "{line} is not in {text}");
    }
    assert!(metrics(top.clients).await.contains("\nroute_persisted_messages 1"));
    site.stop().await;
    top.stop().await;
}

/// A designated router with grants for everyone.
async fn granting(folder: &std::path::Path, verbs: &str, uri: &str) -> (Site, impl Fn(&str, &str)) {
    let (names, grants) = (folder.join("names"), folder.join("grants.toml"));
    std::fs::write(&names, namespace().to_string()).unwrap();
    let (file, of) = (grants.clone(), namespace());
    let grant = move |verbs: &str, uri: &str| {
        let verbs = format!("SUBJECT = \"*\"\nVERBS = [{verbs}]\nNAMESPACE = \"{of}\"\nURI = \"{uri}\"");
        std::fs::write(&file, format!("[[GRANT]]\n{verbs}\n")).unwrap();
    };
    grant(verbs, uri);
    let config =
        format!("[RoutingConfig]\nDesignatedNamespaceFiles = [{names:?}]\n[Security]\nGrants = [{grants:?}]");
    (Site::start(&folder.join("top"), None, &config).await, grant)
}

#[tokio::test]
async fn a_subscription_ends_with_its_grant() {
    let folder = tempfile::tempdir().unwrap();
    let (top, grant) = granting(folder.path(), "\"subscribe\"", "*").await;
    let endpoint = Endpoint::from_shared(format!("http://{}", top.clients)).unwrap();
    let client = WavemqClient::new(endpoint.connect_lazy());
    let subscribe = async |identifier: &str| {
        let params = wire::SubscribeParams {
            namespace: bytes(&namespace()),
            uri: "*".to_owned(),
            identifier: identifier.to_owned(),
            expiry: 60,
            ..Default::default()
        };
        client.clone().subscribe(params).await.unwrap().into_inner()
    };
    let mut messages = subscribe("x").await;
    top.router.publish(message("a", "before")).await.unwrap();
    assert!(messages.message().await.unwrap().unwrap().message.is_some());
    grant("\"query\"", "*");
    until("the grant is gone", async || {
        let mut other = subscribe("y").await;
        top.router.publish(message("a", "probe")).await.unwrap();
        other.message().await.unwrap().unwrap().error.is_some_and(|error| error.code == 702)
    })
    .await;
    top.router.publish(message("a", "after")).await.unwrap();
    let last = async {
        loop {
            let item = messages.message().await.unwrap().unwrap();
            if let Some(error) = item.error {
                return error.code;
            }
        }
    };
    assert_eq!(tokio::time::timeout(super::sites::STUCK, last).await.expect("it goes on"), 702);
    drop(messages);
    top.stop().await;
}

#[tokio::test]
async fn a_site_gets_no_message_beyond_its_grant() {
    let folder = tempfile::tempdir().unwrap();
    let (top, _) = granting(folder.path(), "\"route\"", "b/*").await;
    let endpoint = Endpoint::from_shared(format!("http://{}", top.peers)).unwrap();
    let mut peer = WavemqPeeringClient::new(endpoint.connect_lazy());
    let tbs = wire::PeerSubscriptionTbs {
        namespace: bytes(&namespace()),
        uri: ["a", "*", "b/c"].map(str::to_owned).into(),
        router_id: "site".to_owned(),
        ..Default::default()
    };
    let subscribed = peer.peer_subscribe(wire::PeerSubscribeParams { tbs: Some(tbs) }).await.unwrap();
    let mut messages = subscribed.into_inner();
    let begun = messages.message().await.unwrap().unwrap();
    assert!(begun.error.is_none() && begun.message.is_none(), "{begun:?}");
    for uri in ["a", "b", "b/c"] {
        top.router.publish(message(uri, uri)).await.unwrap();
    }
    let got = messages.message().await.unwrap().unwrap().message.unwrap();
    assert_eq!(got.tbs.unwrap().uri, "b/c");
    drop(messages);
    top.stop().await;
}
