//! A decorator of one's own around a built-in backend: it stamps each message with the name of the deployment.
//!
//!     cargo run --example decorator
//!
//! It prints each message that it stamps; the backend `dummy` then logs it and sends it nowhere.

use std::sync::Arc;
use std::time::Duration;

use tower_outbox::messenger::Capabilities;
use tower_outbox::{BoxError, Bus, Health, Message, Messenger, Settings, Unsent, async_trait};

/// Sets the header `deployment` of messages that do not have it.
struct Stamp {
    inner: Arc<dyn Messenger>,
    deployment: &'static str,
}

#[deny(clippy::missing_trait_methods)] // A method that is not forwarded would be lost in silence.
#[async_trait]
impl Messenger for Stamp {
    async fn send(&self, mut batch: Vec<Message>) -> Result<(), Unsent> {
        for message in batch.iter_mut().filter(|message| message.header("deployment").is_none()) {
            message.set_header("deployment", self.deployment);
            println!("{} of {}", message.topic(), self.deployment);
        }
        self.inner.send(batch).await
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        self.inner.check(message)
    }

    async fn health(&self) -> Health {
        self.inner.health().await
    }

    async fn close(&self, deadline: Duration) {
        self.inner.close(deadline).await;
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().init();
    let settings = Settings::default();
    let stamp = |inner| Stamp { inner, deployment: "staging" };
    let bus = Bus::builder(&settings).with_decorator(stamp).start().await?;
    bus.messenger().send(vec![Message::json("user.created", &"Jo")?]).await?;
    let left = bus.shutdown(Duration::from_secs(5)).await;
    assert!(left.is_clean());
    Ok(())
}
