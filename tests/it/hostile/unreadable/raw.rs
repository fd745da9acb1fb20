//! A publisher of AMQP 0-9-1 that sends any bytes.

use lapin::uri::AMQPUri;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// It waits for the confirm of each message.
pub struct RawPublisher {
    stream: TcpStream,
}

impl RawPublisher {
    pub async fn connect(url: &str) -> Self {
        let uri: AMQPUri = url.parse().unwrap();
        let stream = TcpStream::connect((uri.authority.host.as_str(), uri.authority.port)).await.unwrap();
        let mut publisher = Self { stream };
        publisher.stream.write_all(b"AMQP\0\0\x09\x01").await.unwrap();
        publisher.expect(0, 10, 10).await;
        let user = uri.authority.userinfo;
        let secret = ["", user.username.as_str(), user.password.as_str()].join("\0");
        let start_ok = [&[0; 4][..], &short(b"PLAIN"), &long(secret.as_bytes()), &short(b"en_US")];
        publisher.method(0, 10, 11, &start_ok.concat()).await;
        publisher.expect(0, 10, 30).await;
        publisher.method(0, 10, 31, &[0, 9, 0, 2, 0, 0, 0, 0]).await;
        publisher.method(0, 10, 40, &[&short(uri.vhost.as_bytes())[..], b"\0\0"].concat()).await;
        publisher.expect(0, 10, 41).await;
        publisher.method(1, 20, 10, b"\0").await;
        publisher.expect(1, 20, 11).await;
        publisher.method(1, 85, 10, b"\0").await;
        publisher.expect(1, 85, 11).await;
        publisher
    }

    /// Publishes with these property flags, and the properties as bytes.
    pub async fn publish(
        &mut self,
        exchange: &str,
        routing_key: &[u8],
        flags: u16,
        properties: &[u8],
        body: &[u8],
    ) {
        let arguments = [&[0, 0][..], &short(exchange.as_bytes()), &short(routing_key), &[0]].concat();
        self.method(1, 60, 40, &arguments).await;
        let size = (body.len() as u64).to_be_bytes();
        self.frame(2, 1, &[&[0, 60, 0, 0][..], &size, &flags.to_be_bytes(), properties].concat()).await;
        for part in body.chunks(100_000) {
            self.frame(3, 1, part).await;
        }
        self.expect(1, 60, 80).await;
    }

    async fn method(&mut self, channel: u16, class: u16, id: u16, arguments: &[u8]) {
        self.frame(1, channel, &[&class.to_be_bytes(), &id.to_be_bytes(), arguments].concat()).await;
    }

    async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let size = u32::try_from(payload.len()).unwrap();
        let frame = [&[kind][..], &channel.to_be_bytes(), &size.to_be_bytes(), payload, &[0xCE]].concat();
        self.stream.write_all(&frame).await.unwrap();
    }

    /// Waits for this method; any other is a failure.
    async fn expect(&mut self, channel: u16, class: u16, id: u16) {
        loop {
            let mut head = [0; 7];
            self.stream.read_exact(&mut head).await.unwrap();
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            let mut payload = vec![0; size + 1];
            self.stream.read_exact(&mut payload).await.unwrap();
            if head[0] != 1 {
                continue;
            }
            let expected = [&class.to_be_bytes()[..], &id.to_be_bytes()].concat();
            let found = (u16::from_be_bytes([head[1], head[2]]), &payload[..4]);
            assert_eq!(found, (channel, &expected[..]), "{}", String::from_utf8_lossy(&payload));
            return;
        }
    }
}

pub fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()][..], text].concat()
}

pub fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}
