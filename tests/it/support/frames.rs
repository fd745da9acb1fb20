//! A way to a broker of AMQP 0-9-1 that sees every frame of the client, and may change it or cut the connection.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The fate of a frame that the client sends.
pub enum Then {
    Pass,
    /// Another one of the same length goes on.
    Change(Vec<u8>),
    /// The connection is reset.
    Cut,
    /// The client gets these bytes, as if the broker had sent them; the frame goes nowhere.
    Answer(Vec<u8>),
}

/// The kinds of frames.
pub const METHOD: u8 = 1;
pub const HEADER: u8 = 2;

/// The address of a way whose `see` is given each frame whole, from its type to its end.
pub struct Way {
    pub url: String,
    seen: Arc<Mutex<Seen>>,
}

/// How much went over it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub connections: usize,
    /// Channels that were opened.
    pub channels: usize,
    /// Messages that were published.
    pub messages: usize,
}

impl Way {
    /// A way to the broker at `amqp://host:port`.
    pub async fn to(url: &str, see: impl Fn(&[u8]) -> Then + Send + Sync + 'static) -> Self {
        Self::and_back(url, see, |_| None).await
    }

    /// The same, where `back` may change bytes that the broker sends.
    pub async fn and_back(
        url: &str,
        see: impl Fn(&[u8]) -> Then + Send + Sync + 'static,
        back: fn(&[u8]) -> Option<Vec<u8>>,
    ) -> Self {
        let broker = url.trim_start_matches("amqp://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("amqp://{}", listener.local_addr().unwrap());
        let (seen, see) = (Arc::<Mutex<Seen>>::default(), Arc::new(see));
        let counted = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                counted.lock().unwrap().connections += 1;
                let (broker, see, counted) = (broker.clone(), Arc::clone(&see), Arc::clone(&counted));
                tokio::spawn(async move {
                    let _ = carry(client, &broker, &*see, back, &counted).await;
                });
            }
        });
        Self { url, seen }
    }

    pub fn seen(&self) -> Seen {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }
}

async fn carry(
    client: TcpStream,
    broker: &str,
    see: &(dyn Fn(&[u8]) -> Then + Send + Sync),
    back: fn(&[u8]) -> Option<Vec<u8>>,
    seen: &Mutex<Seen>,
) -> std::io::Result<()> {
    let broker = TcpStream::connect(broker).await?;
    client.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    // The peer sees a reset, whatever ends: closed at once, with bytes unsent and unread.
    client.set_zero_linger()?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_broker, mut to_broker) = broker.into_split();
    let (answers, mut answered) = tokio::sync::mpsc::unbounded_channel::<Vec<u8>>();
    let backwards = async {
        let mut buffer = vec![0; 1 << 16];
        loop {
            tokio::select! {
                Some(answer) = answered.recv() => to_client.write_all(&answer).await?,
                read = from_broker.read(&mut buffer) => match read? {
                    0 => return Ok(()),
                    read => {
                        let bytes = &buffer[..read];
                        to_client.write_all(back(bytes).as_deref().unwrap_or(bytes)).await?;
                    }
                },
            }
        }
    };
    let forth = async {
        let mut greeting = [0; 8];
        from_client.read_exact(&mut greeting).await?;
        to_broker.write_all(&greeting).await?;
        let mut head = [0; 7];
        loop {
            from_client.read_exact(&mut head).await?;
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            let mut frame = head.to_vec();
            frame.resize(head.len() + size + 1, 0);
            from_client.read_exact(&mut frame[head.len()..]).await?;
            match (frame[0], &frame[7..]) {
                (METHOD, [0, 20, 0, 10, ..]) => seen.lock().unwrap().channels += 1,
                (HEADER, _) => seen.lock().unwrap().messages += 1,
                _ => {}
            }
            match see(&frame) {
                Then::Pass => to_broker.write_all(&frame).await?,
                Then::Change(other) => to_broker.write_all(&other).await?,
                Then::Cut => return Ok::<(), std::io::Error>(()),
                Then::Answer(bytes) => drop(answers.send(bytes)),
            }
        }
    };
    tokio::select! {
        ended = backwards => ended,
        ended = forth => ended,
    }
}

/// The bytes with the first `from` in them as `to`; `None` when there is none.
pub fn changed(frame: &[u8], from: &[u8], to: &[u8]) -> Option<Vec<u8>> {
    assert_eq!(from.len(), to.len());
    let at = frame.windows(from.len()).position(|part| part == from)?;
    let mut other = frame.to_vec();
    other[at..at + to.len()].copy_from_slice(to);
    Some(other)
}

/// A frame with which a broker closes the connection.
pub fn connection_close(code: u16, text: &str) -> Vec<u8> {
    let mut method = vec![0, 10, 0, 50];
    method.extend(code.to_be_bytes());
    method.push(u8::try_from(text.len()).unwrap());
    method.extend(text.as_bytes());
    method.extend([0; 4]);
    let mut frame = vec![METHOD, 0, 0];
    frame.extend(u32::try_from(method.len()).unwrap().to_be_bytes());
    frame.extend(method);
    frame.push(0xce);
    frame
}
