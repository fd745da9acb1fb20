//! Batches of records as no producer of a client library writes them, and a request of our own that publishes them.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::raw::Place;

/// The bytes of a batch before those that its checksum covers.
const BEFORE_CHECKSUM: usize = 21;

/// One record. Its headers have no value.
pub fn record(delta: i32, value: &[u8], headers: impl ExactSizeIterator<Item = String>) -> Vec<u8> {
    let mut body = vec![0, 0];
    varint(&mut body, delta.into());
    varint(&mut body, -1);
    bytes(&mut body, value);
    varint(&mut body, i64::try_from(headers.len()).unwrap());
    for name in headers {
        bytes(&mut body, name.as_bytes());
        varint(&mut body, -1);
    }
    let mut record = Vec::new();
    bytes(&mut record, &body);
    record
}

/// So many records with these values.
pub fn records(values: impl IntoIterator<Item = u32>) -> Vec<Vec<u8>> {
    let none = std::iter::empty::<String>;
    let values = values.into_iter().zip(0..);
    values.map(|(value, delta)| record(delta, value.to_string().as_bytes(), none())).collect()
}

/// A batch of these records at an offset, whose header says that there are `count`.
pub fn batch(offset: i64, records: &[Vec<u8>], count: i32) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let now = i64::try_from(now).unwrap().to_be_bytes();
    let mut batch = [&offset.to_be_bytes()[..], &[0; 8], &[2], &[0; 4]].concat();
    batch.extend([0, 0]);
    batch.extend((count - 1).to_be_bytes());
    batch.extend([now, now].concat());
    batch.extend([0xff; 14]);
    batch.extend(count.to_be_bytes());
    batch.extend(records.concat());
    let rest = i32::try_from(batch.len() - 12).unwrap();
    batch[8..12].copy_from_slice(&rest.to_be_bytes());
    let sum = crc32c(&batch[BEFORE_CHECKSUM..]);
    batch[17..BEFORE_CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    batch
}

/// The same batch with a wrong checksum.
pub fn damaged(mut batch: Vec<u8>) -> Vec<u8> {
    batch[17] ^= 1;
    batch
}

fn bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    varint(to, i64::try_from(bytes.len()).unwrap());
    to.extend(bytes);
}

fn varint(to: &mut Vec<u8>, number: i64) {
    let mut rest = (number << 1 ^ number >> 63).cast_unsigned();
    while rest > 127 {
        to.push(u8::try_from(rest & 127).unwrap() | 128);
        rest >>= 7;
    }
    to.push(u8::try_from(rest).unwrap());
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |sum: u32| if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 };
    !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| step(sum)))
}

impl Place {
    /// Stores a batch in partition 0 as it is: Tansu checks none. Returns its offset.
    pub async fn store(&self, batch: &[u8]) -> i64 {
        let text = |text: &str| [&i16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat();
        let int = |int: usize| i32::try_from(int).unwrap().to_be_bytes();
        // Produce, version 7.
        let request = [
            &[0, 0, 0, 7, 0, 0, 0, 1][..],
            &text("test"),
            &[0xff, 0xff, 0xff, 0xff],
            &int(5_000),
            &int(1),
            &text(&self.topic),
            &int(1),
            &int(0),
            &int(batch.len()),
            batch,
        ]
        .concat();
        let mut connection = TcpStream::connect(self.server.address()).await.unwrap();
        connection.write_all(&int(request.len())).await.unwrap();
        connection.write_all(&request).await.unwrap();
        let length = connection.read_u32().await.unwrap();
        let mut answer = vec![0; length as usize];
        connection.read_exact(&mut answer).await.unwrap();
        let at = 4 + 4 + 2 + self.topic.len() + 4 + 4;
        assert_eq!(answer[at..at + 2], [0, 0], "{answer:?}");
        i64::from_be_bytes(answer[at + 2..at + 10].try_into().unwrap())
    }
}
