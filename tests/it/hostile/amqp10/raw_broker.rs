//! A broker over AMQP 1.0 that gives out whatever bytes it is told.

use fe2o3_amqp_types::definitions::Role;
use fe2o3_amqp_types::performatives::{Attach, Begin, Disposition, Open, Performative};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tower_outbox::amqp10::Amqp10Settings;

const SASL: &[u8] = b"AMQP\x03\x01\x00\x00";
const AMQP: &[u8] = b"AMQP\x00\x01\x00\x00";
const MECHANISMS: &[u8] = b"\0\0\0\x1c\x02\x01\0\0\0\x53\x40\xc0\x0f\x01\xe0\x0c\x01\xa3\x09ANONYMOUS";
const OUTCOME: &[u8] = b"\0\0\0\x10\x02\x01\0\0\0\x53\x44\xc0\x03\x01\x50\0";

pub struct RawBroker {
    pub settings: Amqp10Settings,
    dispositions: mpsc::UnboundedReceiver<Disposition>,
}

impl RawBroker {
    /// Gives out what is in the first element over the first connection, so many parts as there is credit, and so on.
    pub async fn start(connections: Vec<Vec<Vec<u8>>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = Amqp10Settings::new([format!("amqp://{}", listener.local_addr().unwrap())]);
        let (seen, dispositions) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            for parts in connections {
                let (stream, _) = listener.accept().await.unwrap();
                // A client that goes away is none of its business.
                let _ = serve(stream, parts, &seen).await;
            }
        });
        Self { settings, dispositions }
    }

    pub async fn disposition(&mut self) -> Disposition {
        self.dispositions.recv().await.expect("an answer")
    }
}

async fn serve(
    mut stream: TcpStream,
    parts: Vec<Vec<u8>>,
    seen: &mpsc::UnboundedSender<Disposition>,
) -> std::io::Result<()> {
    let mut parts = parts.into_iter();
    let mut header = [0; 8];
    stream.read_exact(&mut header).await?;
    stream.write_all(&[SASL, MECHANISMS].concat()).await?;
    read(&mut stream).await?;
    stream.write_all(OUTCOME).await?;
    stream.read_exact(&mut header).await?;
    stream.write_all(AMQP).await?;
    loop {
        let body = read(&mut stream).await?;
        if body.is_empty() {
            continue;
        }
        let performative = match serde_amqp::from_slice(&body).unwrap() {
            Performative::Open(open) => Performative::Open(Open { container_id: "raw".to_owned(), ..open }),
            Performative::Begin(begin) => {
                Performative::Begin(Begin { remote_channel: Some(0), next_outgoing_id: 0, ..begin })
            }
            Performative::Attach(attach) => Performative::Attach(Attach {
                role: if attach.role == Role::Receiver { Role::Sender } else { Role::Receiver },
                initial_delivery_count: Some(0),
                ..attach
            }),
            Performative::Flow(flow) => {
                for part in parts.by_ref().take(flow.link_credit.unwrap_or_default() as usize) {
                    stream.write_all(&part).await?;
                }
                continue;
            }
            Performative::Disposition(disposition) => {
                let _ = seen.send(disposition);
                continue;
            }
            Performative::Detach(detach) => Performative::Detach(detach),
            Performative::End(end) => Performative::End(end),
            Performative::Close(close) => Performative::Close(close),
            _ => continue,
        };
        stream.write_all(&frame(&serde_amqp::to_vec(&performative).unwrap())).await?;
    }
}

async fn read(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let size = stream.read_u32().await?;
    let mut rest = vec![0; size as usize - 4];
    stream.read_exact(&mut rest).await?;
    Ok(rest.split_off(4))
}

pub fn frame(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 8).to_be_bytes()[..], &[2, 0, 0, 0], body].concat()
}

/// The transfers of one message, of at most so many bytes each.
pub fn transfers(id: u8, message: &[u8], most: usize) -> Vec<u8> {
    let mut parts: Vec<_> = message.chunks(most).collect();
    if parts.is_empty() {
        parts.push(&[]);
    }
    let count = parts.len();
    let transfer = |(n, part): (usize, &[u8])| {
        let more = if n + 1 < count { 0x41 } else { 0x42 };
        let performative = [0, 0x53, 0x14, 0xc0, 10, 6, 0x43, 0x52, id, 0xa0, 1, id, 0x43, 0x42, more];
        frame(&[&performative[..], part].concat())
    };
    parts.into_iter().enumerate().flat_map(transfer).collect()
}
