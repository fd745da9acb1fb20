//! Two routers, and the link between them.

use std::time::Duration;

use tower_outbox::routing::Pattern;

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
