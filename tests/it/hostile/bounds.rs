//! Memory and work stay bounded, whatever clients do.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use tokio::time::Instant;
use tower_outbox::{Consumer, Memory, Messenger};

use crate::support::{MINUTE, message, soon};

#[tokio::test(start_paused = true)]
async fn a_key_with_many_slow_messages_does_not_hold_up_others() {
    let bus = Memory::new();
    let slow = (0..60).map(|_| message("slow").with_key("standing"));
    bus.send(slow.collect()).await.unwrap();
    bus.send((0..10).map(|n| message("fast").with_key(format!("other-{n}"))).collect()).await.unwrap();
    let begun = Instant::now();
    let last = Arc::new(std::sync::Mutex::new(None));
    let fast = {
        let last = Arc::clone(&last);
        move || async move { *last.lock().unwrap() = Some(begun.elapsed()) }
    };
    let slow = || async { tokio::time::sleep(Duration::from_millis(500)).await };
    let router = Router::new().route("/slow", post(slow)).route("/fast", post(fast));
    let idle = bus.clone();
    soon(Consumer::new(bus, router).run(async move { idle.idle().await }, MINUTE)).await;
    let last = last.lock().unwrap().unwrap();
    assert!(last < Duration::from_secs(1), "{last:?}");
    assert_eq!(begun.elapsed().as_secs(), 30, "those of one key follow each other");
}
