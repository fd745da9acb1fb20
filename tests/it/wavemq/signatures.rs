//! Signed messages between routers.

use std::path::Path;

use tower_outbox::signing::{KeyKind, SigningKey};

use super::sites::{Site, message, namespace, receive, until};

/// The keys of a router of this name; its public key goes into the folder of trusted keys.
fn keys(folder: &Path, name: &str) -> String {
    let (key, trusted) = (SigningKey::generate(KeyKind::Ed25519).unwrap(), folder.join("trusted"));
    std::fs::create_dir_all(&trusted).unwrap();
    std::fs::write(trusted.join(format!("{name}.pem")), key.public_pem().unwrap()).unwrap();
    let file = folder.join(format!("{name}.key"));
    std::fs::write(&file, key.to_pem().unwrap()).unwrap();
    format!("SigningKey = {file:?}\nSigningName = \"{name}\"\n")
}

/// A designated router that verifies.
async fn verifying(folder: &Path, security: &str) -> Site {
    let names = folder.join("namespace");
    std::fs::write(&names, namespace().to_string()).unwrap();
    let routing = format!("[RoutingConfig]\nDesignatedNamespaceFiles = [{names:?}]");
    let trusted = folder.join("trusted");
    Site::start(
        &folder.join("top"),
        None,
        &format!("{routing}\n[Security]\nTrustedKeys = {trusted:?}\n{security}"),
    )
    .await
}

/// A site with an uplink.
async fn site(folder: &Path, name: &str, top: &Site, security: &str) -> Site {
    let uplink =
        format!("[[RoutingConfig.Router]]\nNamespace = \"{}\"\nAddress = \"{}\"", namespace(), top.peers);
    Site::start(&folder.join(name), None, &format!("{uplink}\n[Security]\n{security}")).await
}

#[tokio::test]
async fn a_forged_message_is_dropped_and_counted_at_the_first_hop() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (good, bad) = (keys(folder, "good"), keys(folder, "bad"));
    // The site `bad` signs with a key that is not its own.
    let forged = keys(&folder.join("other"), "good");
    let top = verifying(folder, "").await;
    let at_top = top.subscribe("t", "*").await;
    let sites = [
        site(folder, "good-site", &top, &good).await,
        site(folder, "forging", &top, &forged).await,
        site(folder, "unsigned", &top, "").await,
        site(folder, "bad-site", &top, &bad).await,
    ];
    for (n, site) in sites.iter().enumerate() {
        site.router.publish(message("a", &n.to_string())).await.unwrap();
    }
    let mut came = [receive(&at_top, 1).await, receive(&at_top, 1).await].concat();
    came.sort();
    assert_eq!(came.iter().map(|(content, _)| content.as_str()).collect::<Vec<_>>(), ["0", "3"]);
    until("the others are refused", async || top.router.counts().forged == 2).await;
    until("their sites know", async || {
        sites.iter().map(|site| site.router.counts().refused).eq([0, 1, 1, 0])
    })
    .await;
    // The next message of a site that was refused is not held up by the former one.
    assert_eq!(sites[1].router.counts().queued, 0);
    for site in sites {
        site.stop().await;
    }
    top.stop().await;
}

#[tokio::test]
async fn a_signature_covers_all_that_a_router_could_change() {
    let original = message("a/b", "content").with_persist(true);
    let mut changed = vec![message("a/c", "content").with_persist(true), message("a/b", "conten")];
    let change = |change: &dyn Fn(&mut tower_outbox::routing::RoutedMessage)| {
        let mut message = original.clone();
        change(&mut message);
        message
    };
    changed.push(change(&|it| it.persist = false));
    changed.push(change(&|it| it.source = b"jo".to_vec().into()));
    changed.push(change(&|it| it.origin = "other".into()));
    changed.push(change(&|it| it.partition.push(b"p".to_vec().into())));
    changed.push(change(&|it| it.payload[0].schema = "texts".to_owned()));
    // The same letters, cut elsewhere.
    changed.push(change(&|it| {
        it.payload[0].schema = "textc".to_owned();
        it.payload[0].content = b"ontent".to_vec().into();
    }));
    changed.push(change(&|it| it.payload.push(it.payload[0].clone())));
    for (n, message) in changed.iter().enumerate() {
        assert_ne!(message.signed_bytes(), original.signed_bytes(), "{n}");
    }
    let hop =
        change(&|it| (it.timestamps, it.drops, it.signature) = (vec![1], vec![2], b"s".to_vec().into()));
    assert_eq!(hop.signed_bytes(), original.signed_bytes(), "routers add these");
}

#[tokio::test]
async fn messages_for_a_site_are_verified_there_too() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (good, trusted) = (keys(folder, "good"), folder.join("trusted"));
    let top = verifying(folder, "AcceptUnsigned = true").await;
    let near = site(folder, "near", &top, &good).await;
    let unsigned = site(folder, "unsigned", &top, "").await;
    let far = site(folder, "far", &top, &format!("TrustedKeys = {trusted:?}")).await;
    let at_far = far.subscribe("f", "*").await;
    until("the subscription is mirrored", async || !top.router.peer_patterns(&namespace()).is_empty()).await;
    unsigned.router.publish(message("a", "unsigned")).await.unwrap();
    until("it was dropped", async || far.router.counts().forged == 1).await;
    near.router.publish(message("a", "signed")).await.unwrap();
    assert_eq!(receive(&at_far, 1).await[0].0, "signed");
    until("both are settled", async || top.router.counts().queued == 0).await;
    for site in [near, unsigned, far, top] {
        site.stop().await;
    }
}
