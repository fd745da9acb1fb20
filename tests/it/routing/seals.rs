//! The contract of a seal: messages that are forged, and those that cannot be verified now.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tower_outbox::async_trait;
use tower_outbox::routing::{RouteError, RoutedMessage, RouterSettings, Seal, SealError, SiteRouter};

use super::{assert_empty, contents, message, receive, subscribe};

/// Takes the content `forged` as forged, and cannot read its keys when it is told so.
#[derive(Debug, Default)]
struct Keys {
    are_away: AtomicBool,
}

#[async_trait]
impl Seal for Keys {
    fn sign(&self, _: &RoutedMessage) -> Bytes {
        Bytes::from_static(b"signature")
    }

    async fn verify(&self, message: &RoutedMessage) -> Result<(), SealError> {
        match &message.payload[0].content[..] {
            b"forged" => Err(SealError::Forged("it is forged".to_owned())),
            b"later" if self.are_away.load(Ordering::SeqCst) => {
                Err(SealError::Unavailable("the keys are away".into()))
            }
            _ => Ok(()),
        }
    }
}

#[tokio::test]
async fn a_message_that_cannot_be_verified_now_holds_those_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let keys = Arc::new(Keys { are_away: AtomicBool::new(true) });
    let settings = RouterSettings::new(folder.path().join("router"));
    let router = SiteRouter::open_with(settings, Some(Arc::<Keys>::clone(&keys))).await.unwrap();
    let subscription = subscribe(&router, "x", "*").await;
    let batch = || ["first", "forged", "later", "last"].map(|content| message("a", content)).to_vec();
    let results = router.forward(batch()).await;
    assert!(matches!(
        &results[..],
        [Ok(()), Err(RouteError::Forged(_)), Err(RouteError::Storage(_)), Err(RouteError::Storage(_))]
    ));
    assert_eq!(contents(&receive(&subscription, 1).await), ["first"]);
    assert_empty(&subscription).await;
    assert_eq!(router.counts().forged, 1);
    keys.are_away.store(false, Ordering::SeqCst);
    let results = router.forward(batch().split_off(2)).await;
    assert!(matches!(&results[..], [Ok(()), Ok(())]), "{results:?}");
    assert_eq!(contents(&receive(&subscription, 2).await), ["later", "last"]);
    router.publish(message("a", "forged")).await.unwrap();
    let own = receive(&subscription, 1).await;
    assert_eq!(&own[0].message.signature[..], b"signature", "its own messages are signed, and not verified");
    router.close().await;
}

#[tokio::test]
async fn no_two_messages_have_the_same_time_at_a_router() {
    let folder = tempfile::tempdir().unwrap();
    let router = SiteRouter::open(RouterSettings::new(folder.path().join("router"))).await.unwrap();
    let subscription = subscribe(&router, "x", "*").await;
    let batch = (0..1_000).map(|_| message("a", "x")).collect();
    assert!(router.publish_all(batch).await.iter().all(Result::is_ok));
    let times: Vec<_> =
        receive(&subscription, 1_000).await.iter().map(|leased| leased.message.timestamps[0]).collect();
    assert!(times.is_sorted_by(|a, b| a < b));
    router.close().await;
}
