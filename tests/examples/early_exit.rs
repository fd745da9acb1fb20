//! An app that returns from `main` soon after it has started, as one does whose settings turn out to be wrong. `early_exit URL MILLISECONDS
//! [--to EXCHANGE]`: with an exchange it sends a message to it every 20 ms.
#![allow(missing_docs, reason = "an example")]

use std::time::Duration;

use tower_outbox::{BoxError, Bus, Message, Settings};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let (url, wait) = (arguments.next().ok_or("a URL")?, arguments.next().ok_or("milliseconds")?);
    tracing_subscriber::fmt().init();
    let exchange = arguments.nth(1);
    let to = exchange.iter().map(|exchange| format!("EXCHANGE = {exchange:?}\n")).collect::<String>();
    let text =
        format!("BACKEND = \"amqp091\"\nURLS = {url:?}\n{to}[CONSUMERS.early]\nQUEUE = \"early-exit\"");
    let settings: Settings = toml::from_str(&text)?;
    let bus = Bus::start(&settings).await?;
    tokio::spawn(bus.consumer("early", axum::Router::new())?.into_future());
    if exchange.is_some() {
        let (messenger, message) = (bus.messenger(), Message::json("early.exit", &1)?);
        tokio::spawn(async move {
            loop {
                let _ = messenger.send(vec![message.clone()]).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    tokio::time::sleep(Duration::from_millis(wait.parse()?)).await;
    Err("the app gives up".into())
}
