//! A codec that refuses a message, before it is decoded, whose parts would take much more memory than their bytes.
//!
//! Two bytes can be an empty message, which takes hundreds of bytes when it is decoded. Texts and bodies take no more than their bytes.

use std::marker::PhantomData;
use std::mem::size_of;

use bytes::Buf;
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// The most memory that the parts of one message may take beside their texts and bodies, in bytes: 64 MiB.
pub(crate) const MOST: usize = 64 << 20;

/// The memory of a number in a list, which may have grown to twice its length.
pub(super) const NUMBER: usize = 2 * size_of::<u64>();

/// The memory of a part, and the fields with parts of their own.
#[derive(Debug)]
pub struct Shape {
    pub(super) size: usize,
    pub(super) fields: &'static [(u64, Field)],
}

#[derive(Debug)]
pub(super) enum Field {
    /// Messages, each of this shape.
    Parts(&'static Shape),
    /// Numbers, one by one or packed.
    Numbers,
}

impl Shape {
    /// The shape of a `T` in a list, which may have grown to twice its length.
    pub(super) const fn of<T>(fields: &'static [(u64, Field)]) -> Self {
        Self { size: 2 * size_of::<T>(), fields }
    }

    /// Returns the memory that the parts of a message would take, in bytes. It stops where the decoder does.
    pub(crate) fn weigh(&self, mut bytes: &[u8]) -> usize {
        let mut weight: usize = 0;
        while let Some(key) = varint(&mut bytes) {
            let field = self.fields.iter().find(|(number, _)| *number == key >> 3).map(|(_, field)| field);
            let added = match key & 7 {
                0 => varint(&mut bytes).map(|_| if let Some(Field::Numbers) = field { NUMBER } else { 0 }),
                1 => take(&mut bytes, 8).map(|_| 0),
                2 => varint(&mut bytes).and_then(|len| take(&mut bytes, len)).map(|content| match field {
                    None => 0,
                    Some(Field::Parts(shape)) => shape.size.saturating_add(shape.weigh(content)),
                    Some(Field::Numbers) => {
                        content.iter().filter(|byte| **byte < 0x80).count().saturating_mul(NUMBER)
                    }
                }),
                5 => take(&mut bytes, 4).map(|_| 0),
                // The fields of a group count as if they were outside.
                3 | 4 => Some(0),
                _ => None,
            };
            let Some(added) = added else { break };
            weight = weight.saturating_add(added);
        }
        weight
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or_default();
        if *byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], len: u64) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(len).ok()?)?;
    *bytes = rest;
    Some(taken)
}

/// A message of the interface.
pub trait Shaped {
    /// Its parts.
    const SHAPE: Shape;
}

/// Encodes `T`, and decodes `U` unless its parts would take more than 64 MiB.
#[derive(Debug)]
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Shaped + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(ProstCodec::<T, U>::default().decoder())
    }
}

/// Decodes `U` unless its parts would take more than 64 MiB.
#[derive(Debug)]
pub struct BoundedDecoder<U>(ProstDecoder<U>);

impl<U: Message + Default + Shaped> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // The buffer is one piece.
        if U::SHAPE.weigh(source.chunk()) > MOST {
            tracing::warn!(bytes = source.remaining(), "refused a message of many small parts");
            return Err(Status::resource_exhausted(format!(
                "the parts of the message would take more than {} MiB; send fewer messages, tags or sequences at once",
                MOST >> 20
            )));
        }
        self.0.decode(source)
    }
}
