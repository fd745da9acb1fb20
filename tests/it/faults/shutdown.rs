//! A shutdown while the broker is down.

use std::convert::Infallible;
use std::time::Duration;

use http::StatusCode;
use tower_outbox::testing::Recording;
use tower_outbox::{Bus, Failure, Health, Message, Messenger, Settings, Unsent, async_trait};

use super::{StoreFolder, drain};
use crate::support::{app, enqueue_a, get, logs};

struct Down;

#[async_trait]
impl Messenger for Down {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        Err(Unsent::new(batch, &Failure::transient("no broker answers")))
    }

    async fn health(&self) -> Health {
        Health::Down { reason: "no broker answers".to_owned() }
    }
}

async fn bus(folder: &StoreFolder, messenger: impl Messenger) -> Bus {
    let path = folder.path().to_str().unwrap();
    let settings = format!("BACKEND = \"own\"\nDELIVERY = \"durable\"\n[OUTBOX]\nPATH = {path:?}");
    let settings: Settings = toml::from_str(&settings).unwrap();
    let builder = Bus::builder(&settings).with_backend("own", |_| Ok::<_, Infallible>(messenger));
    builder.start().await.unwrap()
}

#[tokio::test]
async fn a_shutdown_with_a_backlog_logs_its_size_and_folder() {
    let log = logs::listen();
    let folder = StoreFolder::new();
    let bus_down = bus(&folder, Down).await;
    for _ in 0..7 {
        assert_eq!(get(app(bus_down.layer(), enqueue_a)).await.status(), StatusCode::OK);
    }
    let left = bus_down.shutdown(Duration::from_secs(5)).await;
    assert_eq!((left.stored, left.left.len(), left.sends), (7, 0, 0));
    assert!(left.is_clean(), "stored messages are safe");
    let said = log.alarms(folder.path().to_str().unwrap());
    assert!(said.iter().any(|event| event.get("messages") == "7"), "{said:?}");
    drop(bus_down);

    // They are sent after the next start, and nothing is logged then.
    let (recording, said) = (Recording::new(), said.len());
    let sent = recording.listen();
    let bus_up = bus(&folder, recording).await;
    let left = bus_up.shutdown(Duration::from_secs(30)).await;
    assert_eq!((left.stored, left.is_clean()), (0, true));
    assert_eq!(sent.messages().len(), 7);
    assert_eq!(log.alarms(folder.path().to_str().unwrap()).len(), said);
    drop(bus_up);
    assert!(drain(&folder.open().await).await.is_empty());
}
