//! Connections that end: nothing hangs, and nothing of an earlier connection counts on a later one.
//!
//! A peer of the test breaks connections where a real broker does so too rarely.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tower_outbox::mqtt::{Mqtt, MqttSettings, MqttSource, MqttSubscription};
use tower_outbox::source::{Source, Unsettled};
use tower_outbox::{Failure, Message, Messenger};

use super::raw::{QUIET, SOON, next, text};
use crate::support::logs::listen;

/// A broker that sends what the test says.
struct Peer {
    listener: TcpListener,
    settings: MqttSettings,
}

const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const SUBSCRIBE: u8 = 8;

impl Peer {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = MqttSettings::new([format!("mqtt://{}", listener.local_addr().unwrap())]);
        Self { listener, settings }
    }

    /// The next connection, which is accepted, with an old session or a new one.
    async fn accept(&self, session_present: bool) -> TcpStream {
        self.accept_connect(session_present).await.0
    }

    /// The same, and its CONNECT packet.
    async fn accept_connect(&self, session_present: bool) -> (TcpStream, Vec<u8>) {
        let (mut stream, _) = timeout(SOON, self.listener.accept()).await.expect("it connects").unwrap();
        let (first, connect) = packet(&mut stream).await.unwrap();
        assert_eq!(first >> 4, CONNECT);
        stream.write_all(&[0x20, 3, u8::from(session_present), 0, 0]).await.unwrap();
        (stream, connect)
    }

    /// The next connection of a source, which is subscribed.
    async fn subscriber(&self, session_present: bool) -> TcpStream {
        let mut stream = self.accept(session_present).await;
        let (first, packet) = packet(&mut stream).await.unwrap();
        assert_eq!(first >> 4, SUBSCRIBE);
        stream.write_all(&[0x90, 4, packet[0], packet[1], 0, 1]).await.unwrap();
        stream
    }

    fn source(&self) -> MqttSource {
        MqttSource::new(&self.settings, &MqttSubscription::new("t").with_client_id("me")).unwrap()
    }
}

/// The first byte and the rest of the next packet; none at the end.
async fn packet_of(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    packet(stream).await
}

async fn packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let first = stream.read_u8().await.ok()?;
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = stream.read_u8().await.ok()?;
        length |= usize::from(byte & 0x7F) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await.ok()?;
    Some((first, rest))
}

/// A PUBLISH packet to the topic `t`.
fn publish(id: u16, body: &str) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    [&[0x32, 6 + body.len() as u8, 0, 1, b't', high, low, 0], body.as_bytes()].concat()
}

/// The identifiers of the PUBACK packets that come.
fn acknowledged(mut stream: TcpStream) -> mpsc::UnboundedReceiver<u16> {
    let (sender, acks) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some((first, packet)) = packet(&mut stream).await {
            if first >> 4 == PUBACK {
                let _ = sender.send(u16::from_be_bytes([packet[0], packet[1]]));
            }
        }
    });
    acks
}

fn message(body: &str) -> Message {
    Message::new("t", body.to_owned()).unwrap()
}

/// Whether the session is there is the one thing that a broker says about messages that came meanwhile.
#[tokio::test]
async fn a_session_that_is_gone_is_warned_about() {
    let logs = listen();
    let peer = Peer::new().await;
    let source = peer.source();
    let url = peer.settings.broker.urls[0].clone();
    let warned = || logs.alarms(&url).iter().filter(|event| event.text.contains("kept no session")).count();
    for (is_kept, body, warnings) in [(false, "1", 0), (true, "2", 0), (false, "3", 1)] {
        let (_stream, received) = tokio::join!(
            async {
                let mut stream = peer.subscriber(is_kept).await;
                stream.write_all(&publish(1, body)).await.unwrap();
                stream
            },
            next(&source)
        );
        assert_eq!((text(&received), warned()), (body.to_owned(), warnings));
        received.ack().await.unwrap();
    }
}

/// Trap M2 of the client library: packet identifiers are used again.
#[tokio::test]
async fn a_late_acknowledgement_acknowledges_nothing_else() {
    let peer = Peer::new().await;
    let source = peer.source();
    let (mut first, received) = tokio::join!(
        async {
            let mut stream = peer.subscriber(false).await;
            stream.write_all(&publish(1, "old")).await.unwrap();
            stream
        },
        next(&source)
    );
    assert_eq!(text(&received), "old");
    first.shutdown().await.unwrap();
    drop(first);
    let (second, again) = tokio::join!(
        async {
            let mut stream = peer.subscriber(true).await;
            // Another message has the identifier of the first one.
            stream.write_all(&publish(1, "new")).await.unwrap();
            stream
        },
        next(&source)
    );
    assert_eq!(text(&again), "new");
    assert!(received.is_stale());
    received.ack().await.unwrap_err();
    let mut acks = acknowledged(second);
    timeout(QUIET, acks.recv()).await.unwrap_err();
    again.ack().await.unwrap();
    assert_eq!(timeout(SOON, acks.recv()).await.unwrap(), Some(1));
}

#[tokio::test]
async fn late_settlements_of_every_kind_are_errors() {
    let peer = Peer::new().await;
    let source = peer.source();
    let bodies = ["ack", "retry", "reject", "release"];
    let serve = async {
        let mut stream = peer.subscriber(false).await;
        for (id, body) in (1..).zip(bodies) {
            stream.write_all(&publish(id, body)).await.unwrap();
        }
        stream
    };
    let receive = async {
        let mut all: Vec<Unsettled> = Vec::new();
        for _ in bodies {
            all.push(next(&source).await);
        }
        all
    };
    let (stream, received) = tokio::join!(serve, receive);
    drop(stream);
    let mut received = received.into_iter();
    while !received.as_slice()[0].is_stale() {
        tokio::task::yield_now().await;
    }
    received.next().unwrap().ack().await.unwrap_err();
    received.next().unwrap().retry(Duration::ZERO, "x").await.unwrap_err();
    received.next().unwrap().reject("x").await.unwrap_err();
    received.next().unwrap().release().await.unwrap_err();
    let (_stream, again) = tokio::join!(
        async {
            let mut stream = peer.subscriber(true).await;
            stream.write_all(&publish(1, "again")).await.unwrap();
            stream
        },
        next(&source)
    );
    assert_eq!(text(&again), "again", "nothing of the old connection comes from here");
}

#[tokio::test]
async fn failed_attempts_count_across_a_lost_connection() {
    let peer = Peer::new().await;
    let source = peer.source();
    for attempt in 1..=3 {
        let (stream, received) = tokio::join!(
            async {
                let mut stream = peer.subscriber(attempt > 1).await;
                stream.write_all(&publish(attempt as u16, "once more")).await.unwrap();
                stream
            },
            next(&source)
        );
        assert_eq!(received.view().unwrap().attempt(), attempt);
        received.retry(Duration::from_secs(60), "not yet").await.unwrap();
        drop(stream);
    }
}

/// Trap M1 of the client library: what it had not begun to send has no outcome while there is a handle.
#[tokio::test]
async fn no_message_hangs_when_its_connection_is_lost() {
    let peer = Peer::new().await;
    let mut settings = peer.settings.clone();
    settings.broker.window = 8;
    let messenger = Arc::new(Mqtt::new(&settings).unwrap());
    let sends: Vec<_> = (0..100)
        .map(|n| {
            let messenger = Arc::clone(&messenger);
            tokio::spawn(async move { messenger.send(vec![message(&n.to_string())]).await })
        })
        .collect();
    let breaks = tokio::spawn(async move {
        loop {
            let mut stream = peer.accept(false).await;
            // Some are in flight, none is confirmed.
            for _ in 0..3 {
                let Some((first, _)) = packet(&mut stream).await else { break };
                assert_eq!(first >> 4, PUBLISH);
            }
        }
    });
    for send in sends {
        let unsent = timeout(SOON, send).await.expect("it hangs").unwrap().unwrap_err();
        assert!(unsent.iter().all(|(_, failure)| failure.is_transient()), "{unsent}");
    }
    breaks.abort();
}

#[tokio::test]
async fn a_broker_without_an_answer_is_given_up() {
    let peer = Peer::new().await;
    let mut settings = peer.settings.clone();
    settings.broker.send_timeout = Some(Duration::from_millis(200));
    let messenger = Mqtt::new(&settings).unwrap();
    let silent = tokio::spawn(async move {
        let mut streams = Vec::new();
        loop {
            streams.push(peer.accept(false).await);
        }
    });
    let unsent = timeout(SOON, messenger.send(vec![message("1"), message("2")])).await.expect("it hangs");
    let unsent = unsent.unwrap_err();
    assert_eq!(unsent.len(), 2);
    assert!(unsent.to_string().contains("SEND_TIMEOUT"), "{unsent}");
    silent.abort();
}

/// No other message waits on a connection of which one got no answer.
#[tokio::test]
async fn a_connection_without_an_answer_ends_for_all_its_messages() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let peer = Peer::new().await;
    let mut settings = peer.settings.clone();
    settings.broker.send_timeout = Some(TIMEOUT);
    let messenger = Arc::new(Mqtt::new(&settings).unwrap());
    let send = |body| {
        let messenger = Arc::clone(&messenger);
        tokio::spawn(async move {
            let begun = Instant::now();
            (messenger.send(vec![message(body)]).await, begun.elapsed())
        })
    };
    let first = send("1");
    let mut stream = peer.accept(false).await;
    assert_eq!(packet(&mut stream).await.unwrap().0 >> 4, PUBLISH);
    // Of the same connection, and in the middle of the wait.
    tokio::time::sleep(TIMEOUT / 2).await;
    let second = send("2");
    assert_eq!(packet(&mut stream).await.unwrap().0 >> 4, PUBLISH);
    // The second one may be tried again over another connection, which does not come.
    drop(peer);
    assert!(timeout(SOON, first).await.unwrap().unwrap().0.is_err());
    let (outcome, took) = timeout(SOON, second).await.unwrap().unwrap();
    assert!(outcome.is_err() && took < TIMEOUT * 9 / 10, "{took:?}");
}

#[tokio::test]
async fn a_clean_start_is_for_the_first_connection_only() {
    let peer = Peer::new().await;
    let mut subscription = MqttSubscription::new("t").with_client_id("me");
    subscription.clean_start = true;
    let source = MqttSource::new(&peer.settings, &subscription).unwrap();
    let connections = async {
        let mut starts = Vec::new();
        for _ in 0..3 {
            // After the name and the version come the flags.
            let (_stream, connect) = peer.accept_connect(!starts.is_empty()).await;
            starts.push(connect[7] & 0b10 != 0);
        }
        starts
    };
    tokio::select! {
        starts = connections => assert_eq!(starts, [true, false, false]),
        received = source.receive(1) => panic!("{received:?}"),
    }
}

#[tokio::test]
async fn a_message_that_ends_every_connection_is_rejected_alone() {
    let peer = Peer::new().await;
    let messenger = Mqtt::new(&peer.settings).unwrap();
    let broker = tokio::spawn(async move {
        let mut confirmed = Vec::new();
        loop {
            let mut stream = peer.accept(false).await;
            while let Some((first, packet)) = packet(&mut stream).await {
                if first >> 4 != PUBLISH {
                    break;
                }
                if packet.ends_with(b"bad") {
                    // Malformed packet.
                    stream.write_all(&[0xE0, 2, 0x81, 0]).await.unwrap();
                    // Until the client is gone: bytes that are not read would take the reason with them.
                    while packet_of(&mut stream).await.is_some() {}
                    break;
                }
                confirmed.push(packet.clone());
                stream.write_all(&[0x40, 2, packet[3], packet[4]]).await.unwrap();
            }
        }
        #[allow(unreachable_code, reason = "the type of the task")]
        confirmed
    });
    let batch = vec![message("good"), message("bad"), message("fine")];
    let unsent = timeout(SOON, messenger.send(batch)).await.expect("it hangs").unwrap_err();
    let (rejected, failure) = unsent.iter().next().unwrap();
    assert_eq!(
        (unsent.len(), &rejected.body()[..]),
        (1, &b"bad"[..]),
        "{:?}",
        unsent.iter().collect::<Vec<_>>()
    );
    assert!(
        matches!(failure, Failure::Rejected(_)) && failure.to_string().contains("MalformedPacket"),
        "{failure}"
    );
    broker.abort();
}

#[tokio::test]
async fn reason_codes_decide_whether_a_message_is_sent_again() {
    for (code, is_rejected) in
        [(0x80, false), (0x83, false), (0x87, true), (0x90, true), (0x97, false), (0x99, true)]
    {
        let peer = Peer::new().await;
        let messenger = Mqtt::new(&peer.settings).unwrap();
        let broker = tokio::spawn(async move {
            let mut stream = peer.accept(false).await;
            while let Some((_, packet)) = packet(&mut stream).await {
                stream.write_all(&[0x40, 4, packet[3], packet[4], code, 0]).await.unwrap();
            }
        });
        let unsent = timeout(SOON, messenger.send(vec![message("x")])).await.expect("it hangs").unwrap_err();
        let (_, failure) = unsent.iter().next().unwrap();
        assert_eq!(!failure.is_transient(), is_rejected, "{code:#x}: {failure}");
        broker.abort();
    }
}

#[tokio::test]
async fn pings_keep_the_connection_of_a_busy_consumer() {
    let peer = Peer::new().await;
    let mut settings = peer.settings.clone();
    settings.broker.idle_timeout = Duration::from_secs(2);
    let subscription = MqttSubscription::new("t").with_client_id("me").with_prefetch(1);
    let source = MqttSource::new(&settings, &subscription).unwrap();
    let serve = async {
        let mut stream = peer.subscriber(false).await;
        stream.write_all(&[publish(1, "1"), publish(2, "2")].concat()).await.unwrap();
        stream
    };
    let (mut stream, first) = tokio::join!(serve, next(&source));
    // The answers to these pings come behind the second message, for which there is no room.
    for _ in 0..4 {
        let ping = timeout(Duration::from_secs(3), packet(&mut stream)).await.expect("a ping");
        assert_eq!(ping.expect("the connection lives").0, 0xC0);
        stream.write_all(&[0xD0, 0]).await.unwrap();
    }
    assert!(!first.is_stale());
    first.ack().await.unwrap();
    assert_eq!(text(&next(&source).await), "2");
}

#[tokio::test]
async fn a_peer_that_speaks_no_mqtt_is_an_error_with_a_cure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = MqttSettings::new([format!("mqtt://{}", listener.local_addr().unwrap())]);
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(b"\0\x02hi").await;
            let _ = stream.read_u8().await;
        }
    });
    let source = MqttSource::new(&settings, &MqttSubscription::new("t")).unwrap();
    let error = timeout(SOON, source.receive(1)).await.expect("it waits").unwrap_err();
    assert!(format!("{error:?}").contains("URLS names an MQTT 5 broker"), "{error:?}");
    server.abort();
}

#[tokio::test]
async fn a_subscription_that_the_broker_refuses_is_an_error() {
    let peer = Peer::new().await;
    let source = peer.source();
    let serve = async {
        let mut stream = peer.accept(false).await;
        let (_, packet) = packet(&mut stream).await.unwrap();
        // Not authorized.
        stream.write_all(&[0x90, 4, packet[0], packet[1], 0, 0x87]).await.unwrap();
        stream
    };
    let receive = async { timeout(SOON, source.receive(1)).await.expect("it waits").unwrap_err() };
    let (_stream, error) = tokio::join!(serve, receive);
    assert!(
        format!("{error:?}").contains("NotAuthorized") && format!("{error:?}").contains("TOPICS"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_client_id_in_use_is_an_error_with_a_cure() {
    let peer = Peer::new().await;
    let source = peer.source();
    let serve = async {
        let mut stream = peer.subscriber(false).await;
        // Session taken over, without properties, as mosquitto sends it: the client library drops such a packet.
        stream.write_all(&[0xE0, 1, 0x8E]).await.unwrap();
        stream
    };
    let receive = async { timeout(SOON, source.receive(1)).await.expect("it waits").unwrap_err() };
    let (_stream, error) = tokio::join!(serve, receive);
    assert!(format!("{error:?}").contains("CLIENT_ID"), "{error:?}");
}
