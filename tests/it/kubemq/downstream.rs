//! QueuesDownstream: the measured tables of the real server, but for the listed differences.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tonic::Streaming;
use tower_outbox::kubemq_wire::{
    QueueMessage, QueueMessagePolicy, QueuesDownstreamRequest, QueuesDownstreamRequestType as Kind,
    QueuesDownstreamResponse, ReceiveQueueMessagesRequest,
};

use super::{Client, Server, is_silent, message, next, requests, send};

/// A downstream, and the number of its last request.
pub struct Downstream {
    sender: mpsc::Sender<QueuesDownstreamRequest>,
    answers: Streaming<QueuesDownstreamResponse>,
    asked: u32,
}

impl Downstream {
    pub async fn open(client: &mut Client) -> Self {
        let (sender, stream) = requests();
        let answers = client.queues_downstream(stream).await.unwrap().into_inner();
        Self { sender, answers, asked: 0 }
    }

    async fn send(&mut self, request: QueuesDownstreamRequest) {
        self.asked += 1;
        let request = QueuesDownstreamRequest { request_id: self.asked.to_string(), ..request };
        self.sender.send(request).await.unwrap();
    }

    async fn ask(&mut self, request: QueuesDownstreamRequest) -> QueuesDownstreamResponse {
        self.send(request).await;
        let answer = next(&mut self.answers).await;
        assert_eq!(answer.ref_request_id, self.asked.to_string());
        answer
    }

    /// Returns the transaction and its messages.
    pub async fn get(&mut self, max_items: i32) -> (String, Vec<QueueMessage>) {
        let answer = self.ask(get("q", max_items)).await;
        assert!(!answer.is_error, "{}", answer.error);
        assert!(answer.active_offsets.is_empty() && !answer.transaction_complete);
        (answer.transaction_id, answer.messages)
    }

    /// Returns the answer to a receive, which may have an error.
    pub async fn get_answer(&mut self, max_items: i32) -> QueuesDownstreamResponse {
        self.ask(get("q", max_items)).await
    }

    pub async fn ack_all(&mut self, transaction: &str) {
        self.send(operation(Kind::AckAll, transaction, &[], "")).await;
    }

    /// An operation that succeeds, which has no answer.
    async fn done(&mut self, kind: Kind, transaction: &str, list: &[i64], to: &str) {
        self.send(operation(kind, transaction, list, to)).await;
        assert!(is_silent(&mut self.answers).await, "{kind:?}");
    }

    /// The text of an operation that fails.
    async fn fault(&mut self, kind: Kind, transaction: &str, list: &[i64], to: &str) -> String {
        let answer = self.ask(operation(kind, transaction, list, to)).await;
        assert!(answer.is_error);
        answer.error
    }

    async fn offsets(&mut self, transaction: &str) -> Vec<i64> {
        self.ask(operation(Kind::ActiveOffsets, transaction, &[], "")).await.active_offsets
    }
}

fn get(channel: &str, max_items: i32) -> QueuesDownstreamRequest {
    QueuesDownstreamRequest {
        client_id: "client".to_owned(),
        request_type_data: Kind::Get as i32,
        channel: channel.to_owned(),
        max_items,
        wait_timeout: 1_000,
        ..Default::default()
    }
}

fn operation(kind: Kind, transaction: &str, list: &[i64], to: &str) -> QueuesDownstreamRequest {
    QueuesDownstreamRequest {
        client_id: "client".to_owned(),
        request_type_data: kind as i32,
        ref_transaction_id: transaction.to_owned(),
        sequence_range: list.to_vec(),
        re_queue_channel: to.to_owned(),
        ..Default::default()
    }
}

fn sequences(messages: &[QueueMessage]) -> Vec<(u64, i32)> {
    let attributes = messages.iter().map(|message| message.attributes.clone().unwrap());
    attributes.map(|attributes| (attributes.sequence, attributes.receive_count)).collect()
}

fn bodies(messages: &[QueueMessage]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8(message.body.to_vec()).unwrap()).collect()
}

async fn received(client: &mut Client, channel: &str) -> Vec<QueueMessage> {
    let request = ReceiveQueueMessagesRequest {
        client_id: "other".to_owned(),
        channel: channel.to_owned(),
        max_number_of_messages: 100,
        wait_time_seconds: 1,
        ..Default::default()
    };
    client.receive_queue_messages(request).await.unwrap().into_inner().messages
}

#[tokio::test]
async fn a_success_has_no_answer_and_closes_the_transaction() {
    let server = Server::start().await;
    let mut client = server.client().await;
    send(&mut client, "q", &["0", "1", "2"]).await;
    let mut stream = Downstream::open(&mut client).await;
    let (transaction, messages) = stream.get(3).await;
    assert_eq!(bodies(&messages), ["0", "1", "2"]);
    assert_eq!(messages[0].policy.as_ref().unwrap().max_receive_count, 1_024);
    stream.done(Kind::AckRange, &transaction, &[1, 3], "").await;
    assert_eq!(stream.offsets(&transaction).await, [2]);
    stream.done(Kind::AckRange, &transaction, &[2], "").await;
    let closed = stream.fault(Kind::ActiveOffsets, &transaction, &[], "").await;
    assert_eq!(closed, "cannot get active offsets with closed response ");
    assert!(received(&mut client, "q").await.is_empty());
}

#[tokio::test]
async fn a_failed_operation_gets_the_text_of_the_real_server() {
    let server = Server::start().await;
    let mut client = server.client().await;
    send(&mut client, "q", &["0", "1"]).await;
    let mut stream = Downstream::open(&mut client).await;
    let (open, _) = stream.get(2).await;
    let bad_queue = "re-queue message with seq 1 failed, Error 120: invalid queue name value, cannot be empty, contains \
                     wildcards ,white spaces and end with dot";
    let cases = [
        (Kind::AckRange, &[][..], "", "cannot ack empty list of of offsets"),
        (Kind::AckRange, &[999], "", "invalid ack sequence id 999"),
        (Kind::AckRange, &[-5], "", "invalid ack sequence id -5"),
        (Kind::NAckRange, &[], "", "cannot nack empty list of of offsets"),
        (Kind::NAckRange, &[999], "", "invalid nack sequence id 999"),
        (Kind::ReQueueRange, &[], "p", "cannot requeue empty list of of offsets"),
        (Kind::ReQueueRange, &[999], "p", "invalid ack sequence id 999"),
        (Kind::ReQueueAll, &[], "", "cannot requeue messages with empty channel destination "),
        (Kind::ReQueueAll, &[], "a.*", bad_queue),
        (Kind::TransactionStatus, &[], "", "request unknown"),
        (Kind::CloseByServer, &[], "", "request unknown"),
    ];
    for (kind, list, to, text) in cases {
        assert_eq!(stream.fault(kind, &open, list, to).await, text, "{kind:?} {list:?}");
    }
    assert_eq!(stream.offsets(&open).await, [1, 2], "nothing was settled");
    for id in ["", "nobody"] {
        let text = stream.fault(Kind::AckAll, id, &[], "").await;
        assert_eq!(text, "transaction is completed or transaction id not found");
    }
    stream.done(Kind::AckAll, &open, &[], "").await;
    for (kind, list, text) in [
        (Kind::AckAll, &[][..], "cannot ack messages with closed response "),
        (Kind::AckRange, &[1], "cannot ack messages with closed response "),
        (Kind::NAckAll, &[], "cannot nack messages with closed response "),
        (Kind::NAckRange, &[1], "cannot nack messages with closed response "),
        (Kind::ReQueueAll, &[], "cannot ack messages with closed response "),
        (Kind::ReQueueRange, &[1], "cannot requeue messages with closed response "),
    ] {
        assert_eq!(stream.fault(kind, &open, list, "p").await, text, "{kind:?}");
    }
    // Closing twice is silent.
    stream.done(Kind::CloseByClient, &open, &[], "").await;
}

#[tokio::test]
async fn a_partly_wrong_list_is_settled_up_to_the_fault() {
    let server = Server::start().await;
    let mut client = server.client().await;
    send(&mut client, "q", &["0", "1", "2"]).await;
    let mut stream = Downstream::open(&mut client).await;
    let (open, _) = stream.get(3).await;
    assert_eq!(stream.fault(Kind::AckRange, &open, &[2, 999, 3], "").await, "invalid ack sequence id 999");
    assert_eq!(stream.offsets(&open).await, [1, 3]);
    assert_eq!(stream.fault(Kind::AckRange, &open, &[3, 3], "").await, "invalid ack sequence id 3");
    assert_eq!(stream.offsets(&open).await, [1]);
}

#[tokio::test]
async fn a_nack_sends_a_copy_to_the_tail() {
    let server = Server::start().await;
    let mut client = server.client().await;
    send(&mut client, "q", &["0", "1", "2"]).await;
    let mut stream = Downstream::open(&mut client).await;
    let (open, _) = stream.get(2).await;
    stream.done(Kind::NAckRange, &open, &[2, 1], "").await;
    let (_, messages) = stream.get(3).await;
    assert_eq!(bodies(&messages), ["2", "1", "0"]);
    assert_eq!(sequences(&messages), [(3, 1), (4, 2), (5, 2)]);
}

#[tokio::test]
async fn a_message_dies_at_its_last_nack() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let policy = QueueMessagePolicy {
        max_receive_count: 2,
        max_receive_queue: "dead".to_owned(),
        ..Default::default()
    };
    let dying = QueueMessage { message_id: "id".to_owned(), policy: Some(policy), ..message("q", "d") };
    client.send_queue_message(dying).await.unwrap();
    let mut stream = Downstream::open(&mut client).await;
    for count in 1..=2 {
        let (open, messages) = stream.get(1).await;
        assert_eq!(sequences(&messages)[0].1, count);
        stream.done(Kind::NAckAll, &open, &[], "").await;
    }
    assert!(stream.get(1).await.1.is_empty());
    let dead = received(&mut client, "dead").await;
    let attributes = dead[0].attributes.clone().unwrap();
    assert_eq!((dead[0].message_id.as_str(), attributes.receive_count), ("id", 1));
    assert!(attributes.re_routed);
    assert_eq!(attributes.re_routed_from_queue, "q");
    assert_eq!(dead[0].policy, Some(QueueMessagePolicy::default()));
}

#[tokio::test]
async fn a_requeued_message_keeps_its_id_and_policy() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let policy = QueueMessagePolicy { max_receive_count: 5, expiration_seconds: 60, ..Default::default() };
    let moved =
        QueueMessage { message_id: "id".to_owned(), policy: Some(policy.clone()), ..message("q", "m") };
    client.send_queue_message(moved).await.unwrap();
    let mut stream = Downstream::open(&mut client).await;
    let (open, _) = stream.get(1).await;
    stream.done(Kind::ReQueueAll, &open, &[], "p").await;
    let messages = received(&mut client, "p").await;
    let attributes = messages[0].attributes.clone().unwrap();
    assert_eq!((messages[0].message_id.as_str(), messages[0].policy.clone()), ("id", Some(policy)));
    assert_eq!((attributes.receive_count, attributes.re_routed, attributes.sequence), (1, false, 1));
}

#[tokio::test]
async fn what_a_gone_client_held_is_back_at_its_place() {
    let server = Server::start().await;
    let mut client = server.client().await;
    send(&mut client, "q", &["0", "1", "2"]).await;
    let mut stream = Downstream::open(&mut client).await;
    let (closed, messages) = stream.get(2).await;
    assert_eq!(bodies(&messages), ["0", "1"]);
    stream.done(Kind::CloseByClient, &closed, &[], "").await;
    let (_, messages) = stream.get(2).await;
    assert_eq!(sequences(&messages), [(1, 1), (2, 1)]);
    drop(stream);
    let mut other = Downstream::open(&mut client).await;
    let mut messages = Vec::new();
    while messages.len() < 3 {
        messages.extend(other.get(3).await.1);
    }
    messages.sort_by_key(|message| message.attributes.clone().unwrap().sequence);
    assert_eq!(sequences(&messages), [(1, 1), (2, 1), (3, 1)]);
}

#[tokio::test]
async fn an_open_transaction_takes_no_new_messages() {
    let server = Server::start().await;
    let mut client = server.client().await;
    send(&mut client, "q", &["0"]).await;
    let mut stream = Downstream::open(&mut client).await;
    let (open, messages) = stream.get(10).await;
    assert_eq!(bodies(&messages), ["0"]);
    send(&mut client, "q", &["1"]).await;
    assert_eq!(bodies(&received(&mut client, "q").await), ["1"]);
    assert_eq!(stream.offsets(&open).await, [1]);
}

#[tokio::test]
async fn held_messages_are_back_after_a_restart() {
    let server = Server::start().await;
    let mut client = server.client().await;
    send(&mut client, "q", &["0", "1", "2", "3"]).await;
    let mut stream = Downstream::open(&mut client).await;
    assert_eq!(stream.get(2).await.1.len(), 2);
    let server = server.restart().await;
    let messages = received(&mut server.client().await, "q").await;
    assert_eq!(bodies(&messages), ["0", "1", "2", "3"]);
    assert_eq!(sequences(&messages), [(1, 1), (2, 1), (3, 1), (4, 1)]);
}

#[tokio::test]
async fn an_empty_get_waits_a_second_and_a_filled_one_returns() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut stream = Downstream::open(&mut client).await;
    let begun = Instant::now();
    let answer = stream.ask(QueuesDownstreamRequest { wait_timeout: -5, ..get("q", 5) }).await;
    assert!(answer.messages.is_empty() && !answer.is_error);
    assert!(begun.elapsed() >= Duration::from_millis(990));
    stream.send(QueuesDownstreamRequest { wait_timeout: 60_000, ..get("q", 5) }).await;
    send(&mut client, "q", &["0"]).await;
    assert_eq!(bodies(&next(&mut stream.answers).await.messages), ["0"]);
}

#[tokio::test]
async fn an_auto_acknowledged_transaction_is_closed() {
    let server = Server::start().await;
    let mut client = server.client().await;
    send(&mut client, "q", &["0"]).await;
    let mut stream = Downstream::open(&mut client).await;
    let answer = stream.ask(QueuesDownstreamRequest { auto_ack: true, ..get("q", 1) }).await;
    let text = stream.fault(Kind::AckAll, &answer.transaction_id, &[], "").await;
    assert_eq!(text, "cannot ack messages with closed response ");
    drop(stream);
    assert!(received(&mut client, "q").await.is_empty());
}

#[tokio::test]
async fn a_get_with_a_bad_field_gets_the_text_of_the_real_server() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut stream = Downstream::open(&mut client).await;
    let no_client = QueuesDownstreamRequest { client_id: String::new(), ..get("q", 1) };
    let answer = stream.ask(no_client).await;
    assert_eq!(answer.error, "Error 101: invalid clientID value, cannot be empty");
    assert_eq!(answer.request_type_data, Kind::Get as i32);
    assert!(stream.ask(get("a.*", 1)).await.error.starts_with("Error 120: "));
}
