//! The limits of one client.

use tower_outbox::kubemq_wire::{QueueMessage, QueuesUpstreamRequest};

use super::{Server, message, next, requests};

#[tokio::test]
async fn a_batch_of_too_many_messages_is_refused() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let (sender, stream) = requests();
    let messages = vec![message("q", "x"); 16_385];
    sender.send(QueuesUpstreamRequest { messages, ..Default::default() }).await.unwrap();
    let answer = next(&mut client.queues_upstream(stream).await.unwrap().into_inner()).await;
    assert_eq!(answer.error, "a batch has 16385 messages, and may have 16384");
}

#[tokio::test]
async fn too_long_texts_are_refused_by_name() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let long = "x".repeat(1_025);
    let tags = (0..1_025).map(|number| (number.to_string(), String::new())).collect();
    for (bad, field) in [
        (QueueMessage { client_id: long.clone(), ..message("q", "x") }, "clientID"),
        (QueueMessage { message_id: long.clone(), ..message("q", "x") }, "message id"),
        (QueueMessage { metadata: "x".repeat((1 << 20) + 1), ..message("q", "x") }, "metadata"),
        (QueueMessage { tags, ..message("q", "x") }, "number of tags"),
        (message(&long, "x"), "queue name"),
    ] {
        let result = client.send_queue_message(bad).await.unwrap().into_inner();
        assert!(result.is_error && result.error.contains(field), "{}", result.error);
    }
}
