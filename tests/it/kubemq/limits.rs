//! The limits of one client.

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes};
use http::uri::PathAndQuery;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tower_outbox::kubemq::Settings;
use tower_outbox::kubemq_wire::{
    AckAllQueueMessagesRequest, QueueMessage, QueuesUpstreamRequest, ReceiveQueueMessagesRequest,
};

use super::downstream::Downstream;
use super::{Server, message, next, requests, send};
use crate::faults::{again, part};
use crate::support::memory::{MIB, memory, reset};

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

/// Sends bytes as they are, and reads none.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, _: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        Ok(Some(()))
    }
}

#[tokio::test]
async fn a_request_of_many_tiny_parts_is_refused_undecoded() {
    const TEST: &str = "kubemq::limits::a_request_of_many_tiny_parts_is_refused_undecoded";
    const SIZE: u64 = 24 * MIB;
    if part().is_none() {
        let output = again(TEST, "alone").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let server = Server::start().await;
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let mut client = tonic::client::Grpc::new(endpoint.connect().await.unwrap());
    let before = reset();
    // Messages without a field; tags with a name of three bytes; sequences.
    for (method, part) in [
        ("SendQueueMessagesBatch", &[0x12, 0][..]),
        ("SendQueueMessage", &[0x32, 5, 0x0a, 3, b'a', b'b', b'c'][..]),
        ("QueuesUpstream", &[0x12, 0][..]),
        ("QueuesDownstream", &[0x4a, 4, 1, 2, 3, 4][..]),
    ] {
        let bytes = Bytes::from(part.repeat(SIZE as usize / part.len()));
        client.ready().await.unwrap();
        let path = PathAndQuery::try_from(format!("/kubemq.kubemq/{method}")).unwrap();
        let status = client.unary(tonic::Request::new(bytes), path, Raw).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{method}: {status}");
    }
    let most = memory("VmHWM:").saturating_sub(before);
    assert!(most < 8 * SIZE, "{} MiB for one of {}", most / MIB, SIZE / MIB);
    assert!(!send(&mut server.client().await, "q", &["x"]).await[0].is_error);
}

#[tokio::test]
async fn a_stream_has_a_bounded_number_of_transactions() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for _ in 0..5 {
        send(&mut client, "q", &["x"; 205]).await;
    }
    let mut stream = Downstream::open(&mut client).await;
    let mut first = String::new();
    for n in 0..1_024 {
        let (transaction, messages) = stream.get(1).await;
        assert_eq!(messages.len(), 1, "{n}");
        first = if n == 0 { transaction } else { first };
    }
    let refused = stream.get_answer(1).await;
    assert!(refused.is_error && refused.error.contains("may have 1024"), "{}", refused.error);
    stream.ack_all(&first).await;
    assert_eq!(stream.get(1).await.1.len(), 1);
}

#[tokio::test]
async fn whole_waits_are_those_of_the_real_server() {
    let mut settings = Settings::default();
    for whole_waits in [false, true] {
        settings.whole_waits = whole_waits;
        let server = Server::with(&settings).await;
        let mut client = server.client().await;
        send(&mut client, "q", &["a", "b", "c"]).await;
        let took = |begun: Instant| begun.elapsed() >= Duration::from_secs(1);
        for is_peak in [true, false] {
            let request = ReceiveQueueMessagesRequest {
                client_id: "client".to_owned(),
                channel: "q".to_owned(),
                max_number_of_messages: 4,
                wait_time_seconds: 1,
                is_peak,
                ..Default::default()
            };
            let begun = Instant::now();
            let received = client.receive_queue_messages(request).await.unwrap().into_inner();
            assert_eq!((received.messages.len(), took(begun)), (3, whole_waits), "peek: {is_peak}");
        }
        send(&mut client, "q", &["d"]).await;
        let begun = Instant::now();
        let (_, messages) = Downstream::open(&mut client).await.get(2).await;
        assert_eq!((messages.len(), took(begun)), (1, whole_waits));
        let request = AckAllQueueMessagesRequest {
            client_id: "client".to_owned(),
            channel: "q".to_owned(),
            wait_time_seconds: 1,
            ..Default::default()
        };
        let begun = Instant::now();
        client.ack_all_queue_messages(request).await.unwrap();
        assert_eq!(took(begun), whole_waits);
    }
}
