//! A messenger of your own: implement [`Messenger`] and pass it to the layer. This one appends JSON lines to a file.
//!
//!     cargo run --example custom_messenger [FILE]
//!
//! By default the file is a new one in the folder for temporary files. The example sends two requests through the app and prints
//! the file: it has the event of the first request, which succeeded, and not that of the second.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use axum::{Router, body::Body, extract::Path, http::Request, http::StatusCode, routing::post};
use serde_json::{json, value::RawValue};
use tower::ServiceExt;
use tower_outbox::{BoxError, EnqueueError, Failure, Message, MessageQueue, MessagingLayer, Messenger};
use tower_outbox::{Unsent, async_trait};

struct JsonLines(Mutex<File>);

#[async_trait]
impl Messenger for JsonLines {
    /// Returns `Ok` once all lines are on disk. Otherwise it returns the batch, as transient: a full disk may have room later.
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        let lines: String = batch.iter().map(line).collect();
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(lines.as_bytes())
            .and_then(|()| file.sync_data())
            .map_err(|error| Unsent::new(batch, &Failure::transient(error)))
    }

    /// Rejects a message in the handler that can never be written. This method is optional.
    fn check(&self, message: &Message) -> Result<(), BoxError> {
        serde_json::from_slice::<&RawValue>(message.body())?;
        Ok(())
    }
}

fn line(message: &Message) -> String {
    let body: Option<&RawValue> = serde_json::from_slice(message.body()).ok();
    json!({"id": message.id().to_string(), "topic": message.topic().as_str(), "body": body}).to_string()
        + "\n"
}

async fn create_user(queue: MessageQueue, Path(name): Path<String>) -> Result<StatusCode, EnqueueError> {
    queue.enqueue(Message::json("user.created", &json!({"name": name}))?)?;
    Ok(if name == "root" { StatusCode::FORBIDDEN } else { StatusCode::CREATED })
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let path = std::env::args().nth(1).map_or_else(new_file, PathBuf::from);
    let file = OpenOptions::new().create(true).append(true).open(&path)?;
    let app = Router::new()
        .route("/users/{name}", post(create_user))
        .layer(MessagingLayer::new(JsonLines(Mutex::new(file))));

    for name in ["jo", "root"] {
        let request = Request::post(format!("/users/{name}")).body(Body::empty())?;
        println!("POST /users/{name}: {}", app.clone().oneshot(request).await?.status());
    }
    print!("{}:\n{}", path.display(), std::fs::read_to_string(&path)?);
    Ok(())
}

fn new_file() -> PathBuf {
    std::env::temp_dir().join(format!("events-{}.jsonl", std::process::id()))
}
