//! QueuesUpstream and the unary sends, as the real server answers them.

use tower_outbox::kubemq_wire::{
    QueueMessage, QueueMessagePolicy, QueueMessagesBatchRequest, QueuesUpstreamRequest,
    QueuesUpstreamResponse, ReceiveQueueMessagesRequest,
};

use super::{Client, Server, is_silent, message, next, requests, send};

async fn ask(client: &mut Client, messages: Vec<QueueMessage>) -> QueuesUpstreamResponse {
    let (sender, stream) = requests();
    sender.send(QueuesUpstreamRequest { request_id: "r".to_owned(), messages }).await.unwrap();
    next(&mut client.queues_upstream(stream).await.unwrap().into_inner()).await
}

fn with(policy: QueueMessagePolicy) -> QueueMessage {
    QueueMessage { policy: Some(policy), ..message("q", "x") }
}

#[tokio::test]
async fn each_message_has_a_result_in_its_place() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let bad_name = message("a.*", "x");
    let answer = ask(&mut client, vec![message("q", "0"), bad_name, message("p", "1")]).await;
    assert_eq!((answer.is_error, answer.error.as_str()), (false, ""));
    let is_error: Vec<_> = answer.results.iter().map(|result| result.is_error).collect();
    assert_eq!(is_error, [false, true, false]);
    assert!(answer.results[0].sent_at > 0 && answer.results[1].sent_at == 0);
    assert_eq!(answer.results[0].message_id.len(), 22, "an id was made");
}

#[tokio::test]
async fn an_invalid_message_gets_the_text_of_the_real_server() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let empty = QueueMessage { tags: [("a".to_owned(), "b".to_owned())].into(), ..message("q", "") };
    let name = "Error 120: invalid queue name value, cannot be empty, contains wildcards ,white spaces and end with dot";
    let expiration =
        "Error 133: invalid expiration seconds, exceed max expiration seconds setting in kubemq config";
    let count = "Error 134: invalid max received count, cannot be negative or exceed max receive count setting in kubemq config";
    let delay = "Error 135: invalid delay seconds, exceed max delay seconds setting in kubemq config";
    let policy = QueueMessagePolicy::default();
    let cases = [
        (message("", "x"), name),
        (message("a b", "x"), name),
        (message("a.", "x"), name),
        (message("a.>", "x"), name),
        (empty, "Error 110: invalid message, cannot be empty"),
        (
            QueueMessage { client_id: String::new(), ..message("q", "x") },
            "Error 101: invalid clientID value, cannot be empty",
        ),
        (with(QueueMessagePolicy { expiration_seconds: 43_201, ..policy.clone() }), expiration),
        (with(QueueMessagePolicy { expiration_seconds: -1, ..policy.clone() }), expiration),
        (with(QueueMessagePolicy { max_receive_count: 1_025, ..policy.clone() }), count),
        (with(QueueMessagePolicy { max_receive_count: -1, ..policy.clone() }), count),
        (with(QueueMessagePolicy { delay_seconds: 43_201, ..policy.clone() }), delay),
        (with(QueueMessagePolicy { delay_seconds: i32::MIN, ..policy.clone() }), delay),
        (with(QueueMessagePolicy { max_receive_queue: "a.*".to_owned(), ..policy }), name),
    ];
    let (messages, texts): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    let results = ask(&mut client, messages).await.results;
    let errors: Vec<_> = results.iter().map(|result| result.error.as_str()).collect();
    assert_eq!(errors, texts);
}

#[tokio::test]
async fn a_request_without_messages_is_an_error_of_the_answer() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let answer = ask(&mut client, Vec::new()).await;
    assert_eq!((answer.is_error, answer.error.as_str()), (true, "no messages to send"));
    let status = client.send_queue_messages_batch(QueueMessagesBatchRequest::default()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (tonic::Code::Unknown, "empty messages batch"));
}

#[tokio::test]
async fn many_requests_are_stored_and_answered_in_their_order() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let (sender, stream) = requests();
    let mut answers = client.queues_upstream(stream).await.unwrap().into_inner();
    for number in 0..500 {
        let messages = vec![message("q", &number.to_string())];
        sender.send(QueuesUpstreamRequest { request_id: number.to_string(), messages }).await.unwrap();
    }
    for number in 0..500 {
        assert_eq!(next(&mut answers).await.ref_request_id, number.to_string());
    }
    let request = ReceiveQueueMessagesRequest {
        client_id: "c".to_owned(),
        channel: "q".to_owned(),
        max_number_of_messages: 1_000,
        wait_time_seconds: 1,
        ..Default::default()
    };
    let received = client.receive_queue_messages(request).await.unwrap().into_inner();
    let bodies: Vec<_> = received.messages.iter().map(|message| message.body.clone()).collect();
    assert_eq!(bodies, (0..500).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!(received.messages_received, 500);
}

#[tokio::test]
async fn the_stream_stays_open_when_the_client_ends_its_side() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let (sender, stream) = requests();
    let mut answers = client.queues_upstream(stream).await.unwrap().into_inner();
    sender
        .send(QueuesUpstreamRequest { messages: vec![message("q", "x")], ..Default::default() })
        .await
        .unwrap();
    drop(sender);
    assert_eq!(next(&mut answers).await.ref_request_id, "");
    assert!(is_silent(&mut answers).await);
}

#[tokio::test]
async fn a_message_of_20_mib_arrives() {
    let server = Server::start().await;
    let mut client = server.client().await.max_decoding_message_size(usize::MAX);
    let body = "x".repeat(20 << 20);
    assert!(!send(&mut client, "big", &[&body]).await[0].is_error);
    let request = ReceiveQueueMessagesRequest {
        client_id: "c".to_owned(),
        channel: "big".to_owned(),
        max_number_of_messages: 1,
        ..Default::default()
    };
    let received = client.receive_queue_messages(request).await.unwrap().into_inner();
    assert_eq!(received.messages[0].body.len(), body.len());
}
