//! Commands, queries and the management of channels through raw gRPC.

use std::time::{Duration, Instant};

use tonic::{Code, Streaming};
use tower_outbox::kubemq_wire::{Request, Response, Subscribe};

use super::{Client, Server, next};

const COMMAND: i32 = 1;
const QUERY: i32 = 2;

fn request(kind: i32, channel: &str) -> Request {
    Request {
        request_id: "id".to_owned(),
        request_type_data: kind,
        client_id: "asker".to_owned(),
        channel: channel.to_owned(),
        body: "ask".into(),
        timeout: 2_000,
        ..Default::default()
    }
}

async fn subscribe(client: &mut Client, kind: i32, channel: &str) -> Streaming<Request> {
    let subscribe = Subscribe {
        subscribe_type_data: kind + 2,
        client_id: "responder".to_owned(),
        channel: channel.to_owned(),
        ..Default::default()
    };
    client.subscribe_to_requests(subscribe).await.unwrap().into_inner()
}

fn response(request: &Request) -> Response {
    Response {
        client_id: "responder".to_owned(),
        request_id: request.request_id.clone(),
        reply_channel: request.reply_channel.clone(),
        metadata: "meta".to_owned(),
        body: "answer".into(),
        cache_hit: true,
        timestamp: 7,
        executed: true,
        error: "none".to_owned(),
        span: "span".into(),
        tags: [("k".to_owned(), "v".to_owned())].into(),
    }
}

#[tokio::test]
async fn a_query_returns_all_that_its_responder_set() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut incoming = subscribe(&mut client, QUERY, "w.*").await;
    let asked = Request {
        cache_key: "key".to_owned(),
        cache_ttl: 9,
        span: "trace".into(),
        tags: [("a".to_owned(), "b".to_owned())].into(),
        ..request(QUERY, "w.a")
    };
    let mut asker = server.client().await;
    let asking = tokio::spawn({
        let asked = asked.clone();
        async move { asker.send_request(asked).await.unwrap().into_inner() }
    });
    let seen = next(&mut incoming).await;
    assert!(seen.reply_channel.starts_with("_INBOX."));
    assert_eq!(seen, Request { reply_channel: seen.reply_channel.clone(), ..asked });
    client.send_response(response(&seen)).await.unwrap();
    let answer = asking.await.unwrap();
    assert_eq!(answer, Response { reply_channel: String::new(), ..response(&seen) });
    // The second answer is late, which is no error.
    client.send_response(response(&seen)).await.unwrap();
}

#[tokio::test]
async fn a_command_returns_neither_metadata_nor_body() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut incoming = subscribe(&mut client, COMMAND, "c").await;
    // A query never reaches a subscriber of commands.
    let mut asker = server.client().await;
    let asking = tokio::spawn(async move {
        let query = Request { timeout: 100, ..request(QUERY, "c") };
        let status = asker.send_request(query).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Internal, "Error 301: timeout for request message")
        );
        asker.send_request(request(COMMAND, "c")).await.unwrap().into_inner()
    });
    let seen = next(&mut incoming).await;
    assert_eq!(seen.request_type_data, COMMAND);
    client.send_response(response(&seen)).await.unwrap();
    let answer = asking.await.unwrap();
    let stripped = Response {
        metadata: String::new(),
        body: "".into(),
        reply_channel: String::new(),
        ..response(&seen)
    };
    assert_eq!(answer, stripped);
}

#[tokio::test]
async fn a_bad_request_gets_the_text_of_the_real_server() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let query = request(QUERY, "q");
    for (bad, text) in [
        (request(0, "q"), "Error 206: invalid request type"),
        (
            Request { client_id: String::new(), ..query.clone() },
            "Error 101: invalid clientID value, cannot be empty",
        ),
        (request(QUERY, ""), "Error 102: invalid channel value, cannot be empty"),
        (request(QUERY, "q.*"), "Error 107: invalid channel value, no wildcards are allowed"),
        (Request { body: "".into(), ..query.clone() }, "Error 115: invalid request, cannot be empty"),
        (
            Request { timeout: 0, ..query.clone() },
            "Error 109: invalid set timeout value, cannot be 0 or negative",
        ),
        (
            Request { cache_key: "k".to_owned(), ..query },
            "Error 116: invalid cache ttl value, cannot be 0 or negative",
        ),
    ] {
        let status = client.send_request(bad).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Internal, text));
    }
    let answer = response(&request(QUERY, "q"));
    for (bad, text) in [
        (
            Response { client_id: String::new(), ..answer.clone() },
            "Error 101: invalid clientID value, cannot be empty",
        ),
        (
            Response { request_id: String::new(), ..answer.clone() },
            "Error 117: invalid request id, cannot be empty",
        ),
        (
            Response { reply_channel: String::new(), ..answer },
            "Error 102: invalid channel value, cannot be empty",
        ),
    ] {
        assert_eq!(client.send_response(bad).await.unwrap_err().message(), text);
    }
}

#[tokio::test]
async fn a_request_without_responder_fails_after_its_timeout() {
    let server = Server::start().await;
    let begun = Instant::now();
    let nobody = Request { timeout: 300, ..request(COMMAND, "nobody") };
    let status = server.client().await.send_request(nobody).await.unwrap_err();
    assert_eq!(status.message(), "Error 301: timeout for request message");
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn an_unknown_kind_of_channel_is_an_answer_with_the_kinds() {
    let server = Server::start().await;
    let list = Request {
        metadata: "list-channels".to_owned(),
        tags: [("channel_type".to_owned(), "topics".to_owned())].into(),
        ..request(QUERY, "kubemq.cluster.internal.requests")
    };
    let answer = server.client().await.send_request(list).await.unwrap().into_inner();
    assert!(!answer.executed && answer.error.contains("queues, events_store, events, commands, queries"));
}
