//! Messages that are on their way to a source when it is paused or closed.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tower_outbox::Messenger;
use tower_outbox::nats::{NatsSettings, NatsSource};
use tower_outbox::source::Source;

use super::raw::Place;
use super::receiving::next;
use crate::kubemq_client::proxy::Proxy;

/// Shorter than `ACK_WAIT`, after which lost messages come again.
const SOON: Duration = Duration::from_secs(15);
const COUNT: usize = 30;
/// The size of a message, of which a client reads no batch at once.
const SIZE: usize = 100 << 10;

impl Place {
    /// Waits until the server has so many messages delivered.
    async fn until_delivered(&self, count: usize) {
        let stream = self.context.get_stream(&self.stream).await.unwrap();
        let delivered = async {
            while stream.consumer_info("all").await.unwrap().num_ack_pending != count {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, delivered).await.expect("the server does not deliver them");
    }
}

/// Delivers messages to a source beyond a way that passes nothing on, stops the source, and lets them arrive.
async fn stopped_meanwhile(stop: impl AsyncFnOnce(&NatsSource)) {
    let place = Place::new().await;
    let proxy = Proxy::start(place.url.trim_start_matches("nats://").parse().unwrap()).await;
    let far = NatsSettings::new([proxy.url().replace("kubemq", "nats")]);
    let far = NatsSource::new(&far, &place.subscription()).unwrap();
    place.send(&["first"]).await;
    next(&far).await.ack().await.unwrap();
    place.until_delivered(0).await;
    proxy.freeze(true);
    let large = "x".repeat(SIZE);
    place.messenger().send((0..COUNT).map(|_| place.message(&large)).collect()).await.unwrap();
    place.until_delivered(COUNT).await;
    let thaw = async {
        sleep(Duration::from_millis(300)).await;
        proxy.freeze(false);
    };
    tokio::join!(stop(&far), thaw);
    let near = place.source(&place.subscription());
    for _ in 0..COUNT {
        let message = timeout(SOON, next(&near)).await.expect("nobody holds a message");
        message.ack().await.unwrap();
    }
    far.close(SOON).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_is_on_its_way_to_a_paused_source_goes_to_others() {
    stopped_meanwhile(async |source| source.pause().await).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_is_on_its_way_to_a_closed_source_goes_to_others() {
    stopped_meanwhile(async |source| source.close(SOON).await).await;
}
