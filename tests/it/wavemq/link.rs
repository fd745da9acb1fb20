//! Two routers, and the link between them.

use std::path::Path;
use std::time::Duration;

use tower_outbox::routing::{Pattern, Subject};

use super::sites::{Site, Wire, message, namespace, receive, until};

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

fn contents(received: &[(String, Vec<i64>)]) -> Vec<String> {
    received.iter().map(|(content, _)| content.clone()).collect()
}

async fn publish(site: &Site, uri: &str, range: std::ops::Range<u32>) {
    for n in range {
        site.router.publish(message(uri, &n.to_string())).await.unwrap();
    }
}

#[tokio::test]
async fn messages_go_up_and_down_and_do_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let top = Site::designated(&folder.path().join("top"), None).await;
    let near = Site::site(&folder.path().join("near"), top.peers, "").await;
    let far = Site::site(&folder.path().join("far"), top.peers, "").await;
    let at_top = top.subscribe("t", "a/*").await;
    let (at_near, at_far) = (near.subscribe("n", "a/+").await, far.subscribe("f", "*").await);
    // Overlapping subscriptions of one site bring one copy.
    let also_far = far.subscribe("g", "a/b").await;
    until("the subscriptions are mirrored", async || top.router.peer_patterns(&namespace()).len() == 3).await;
    publish(&near, "a/b", 0..20).await;
    let received = receive(&at_far, 20).await;
    assert_eq!(contents(&received), numbers(0..20));
    // One number for each queue on the way: to the top, to the other site, to the subscriber.
    assert_eq!(received[0].1, [0, 0, 0]);
    assert_eq!(contents(&receive(&also_far, 20).await), numbers(0..20));
    assert_eq!(contents(&receive(&at_top, 20).await), numbers(0..20));
    assert_eq!(contents(&receive(&at_near, 20).await), numbers(0..20));
    for subscription in [&at_near, &at_far, &also_far, &at_top] {
        let more = tokio::time::timeout(Duration::from_millis(200), subscription.lease(1)).await;
        assert!(more.is_err(), "{more:?}");
    }
    near.stop().await;
    far.stop().await;
    top.stop().await;
}

#[tokio::test]
async fn a_site_delivers_while_its_link_is_cut_and_catches_up() {
    let folder = tempfile::tempdir().unwrap();
    let top = Site::designated(&folder.path().join("top"), None).await;
    let wire = Wire::to(top.peers).await;
    let site = Site::site(&folder.path().join("site"), wire.address, "").await;
    let (local, at_top) = (site.subscribe("x", "*").await, top.subscribe("t", "*").await);
    publish(&site, "a", 0..10).await;
    assert_eq!(contents(&receive(&at_top, 10).await), numbers(0..10));
    let mut next = 10;
    for fault in [Wire::cut, Wire::hang, Wire::slow_down] {
        fault(&wire);
        publish(&site, "a", next..next + 50).await;
        assert_eq!(
            contents(&receive(&local, 50 + if next == 10 { 10 } else { 0 }).await).last(),
            Some(&(next + 49).to_string())
        );
        wire.restore();
        // Once or more, in order.
        let mut wanted = next;
        while wanted < next + 50 {
            for content in contents(&receive(&at_top, 1).await) {
                let content: u32 = content.parse().unwrap();
                assert!(content <= wanted, "{content} came before {wanted}");
                wanted += u32::from(content == wanted);
            }
        }
        next += 50;
    }
    site.stop().await;
    top.stop().await;
}

#[tokio::test]
async fn what_waits_for_the_link_survives_a_restart_and_keeps_its_limits() {
    let folder = tempfile::tempdir().unwrap();
    let top = Site::designated(&folder.path().join("top"), None).await;
    let wire = Wire::to(top.peers).await;
    wire.cut();
    let limits = "trunkingQueueMaxLength = 10";
    let site = Site::site(&folder.path().join("site"), wire.address, limits).await;
    publish(&site, "a", 0..15).await;
    assert_eq!(site.router.counts().dropped, 5);
    site.stop().await;
    let site = Site::site(&folder.path().join("site"), wire.address, limits).await;
    let at_top = top.subscribe("t", "*").await;
    wire.restore();
    let received = receive(&at_top, 10).await;
    assert_eq!(contents(&received), numbers(5..15));
    assert_eq!((&received[0].1[..], &received[1].1[..]), (&[5, 0][..], &[0, 0][..]));
    site.stop().await;
    top.stop().await;
}

#[tokio::test]
async fn a_designated_router_that_restarts_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut top = Site::designated(&folder.path().join("top"), None).await;
    let site = Site::site(&folder.path().join("site"), top.peers, "").await;
    drop(top.subscribe("t", "*").await);
    for round in 0..4 {
        publish(&site, "a", round * 20..round * 20 + 10).await;
        let address = top.peers;
        top.stop().await;
        publish(&site, "a", round * 20 + 10..round * 20 + 20).await;
        top = Site::designated(&folder.path().join("top"), Some(address)).await;
    }
    let at_top = top.subscribe("t", "*").await;
    let mut wanted = 0;
    while wanted < 80 {
        let content: u32 = contents(&receive(&at_top, 1).await)[0].parse().unwrap();
        assert!(content <= wanted, "{content} came before {wanted}");
        wanted += u32::from(content == wanted);
    }
    site.stop().await;
    top.stop().await;
}

#[tokio::test]
async fn last_values_are_kept_at_the_designated_router() {
    let folder = tempfile::tempdir().unwrap();
    let top = Site::designated(&folder.path().join("top"), None).await;
    let site = Site::site(&folder.path().join("site"), top.peers, "").await;
    site.router.publish(message("a/b", "1").with_persist(true)).await.unwrap();
    let all = Pattern::all();
    until("the value is at the top", async || top.router.query(&namespace(), &all).next().await.len() == 1)
        .await;
    assert!(site.router.query(&namespace(), &all).next().await.is_empty());
    site.stop().await;
    top.stop().await;
}

/// Writes a certificate of this authority with its key; returns the keys of the configuration, and the certificate.
fn certificate(
    folder: &Path,
    name: &str,
    authority: &rcgen::Issuer<'_, rcgen::KeyPair>,
) -> (String, Vec<u8>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    let (file, key_file) = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
    std::fs::write(&file, certificate.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let keys =
        format!("Certificate = {file:?}\nPrivateKey = {key_file:?}\nCACert = {:?}\n", folder.join("ca.crt"));
    (keys, certificate.der().to_vec())
}

#[tokio::test]
async fn only_routers_with_a_certificate_and_a_grant_connect() {
    let folder = tempfile::tempdir().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    std::fs::write(folder.path().join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    let authority = rcgen::Issuer::new(params, key);
    let (top_keys, _) = certificate(folder.path(), "top", &authority);
    let (good_keys, good) = certificate(folder.path(), "good", &authority);
    let (other_keys, other) = certificate(folder.path(), "other", &authority);
    let grant = |certificate: &[u8], uri: &str| {
        let subject = Subject::of(certificate);
        let namespace = namespace();
        format!(
            "[[GRANT]]\nSUBJECT = \"{subject}\"\nVERBS = [\"route\"]\nNAMESPACE = \"{namespace}\"\nURI = \"{uri}\"\n"
        )
    };
    let (grants, names) = (folder.path().join("grants.toml"), folder.path().join("namespace"));
    std::fs::write(&grants, grant(&good, "*")).unwrap();
    std::fs::write(&names, namespace().to_string()).unwrap();
    let designated = format!(
        "[RoutingConfig]\nDesignatedNamespaceFiles = [{names:?}]\n[Security]\nGrants = [{grants:?}]\n{top_keys}"
    );
    let top = Site::start(&folder.path().join("top"), None, &designated).await;
    let at_top = top.subscribe("t", "*").await;
    let uplink = |keys: &str| {
        let keys = if keys.is_empty() { String::new() } else { format!("[Security]\n{keys}") };
        format!(
            "[[RoutingConfig.Router]]\nNamespace = \"{}\"\nAddress = \"{}\"\n{keys}",
            namespace(),
            top.peers
        )
    };
    let plain = Site::start(&folder.path().join("plain"), None, &uplink("")).await;
    let stranger = Site::start(&folder.path().join("other"), None, &uplink(&other_keys)).await;
    let site = Site::start(&folder.path().join("good"), None, &uplink(&good_keys)).await;
    publish(&plain, "a", 0..1).await;
    publish(&stranger, "a", 1..2).await;
    publish(&stranger, "b", 2..3).await;
    publish(&site, "a", 3..4).await;
    assert_eq!(contents(&receive(&at_top, 1).await), ["3"]);
    until("the others were refused", async || {
        plain.router.counts().peer_errors > 0 && stranger.router.counts().peer_errors > 0
    })
    .await;
    assert_eq!(
        (plain.router.counts().queued, stranger.router.counts().queued),
        (1, 2),
        "their messages wait"
    );
    // A grant on some URIs lets those pass, and refuses the others for good.
    std::fs::write(&grants, grant(&good, "*") + &grant(&other, "b")).unwrap();
    assert_eq!(contents(&receive(&at_top, 1).await), ["2"]);
    until("the rest is refused", async || stranger.router.counts().refused == 1).await;
    for site in [plain, stranger, site, top] {
        site.stop().await;
    }
}
