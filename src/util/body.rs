//! Whole bodies, up to a limit.

use std::future::poll_fn;
use std::pin::pin;

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body;

/// Why a body could not be collected.
pub(crate) enum BodyFault<E> {
    TooLarge,
    Failed(E),
}

/// Collects the data of a body, at most `limit` bytes. One frame of bytes is not copied.
pub(crate) async fn collect<B: Body>(body: B, limit: usize) -> Result<Bytes, BodyFault<B::Error>> {
    if body.size_hint().lower() > limit as u64 {
        return Err(BodyFault::TooLarge);
    }
    let mut body = pin!(body);
    let mut first: Option<B::Data> = None;
    let mut all = BytesMut::new();
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        // Trailers are left out.
        let Ok(data) = frame.map_err(BodyFault::Failed)?.into_data() else { continue };
        let held = first.as_ref().map_or(all.len(), Buf::remaining);
        if data.remaining() > limit - held {
            return Err(BodyFault::TooLarge);
        }
        if held == 0 {
            first = Some(data);
            continue;
        }
        if let Some(first) = first.take() {
            bytes::BufMut::put(&mut all, first);
        }
        bytes::BufMut::put(&mut all, data);
    }
    Ok(match first {
        Some(mut data) => data.copy_to_bytes(data.remaining()),
        None => all.freeze(),
    })
}

#[cfg(test)]
mod tests {
    use axum_core::body::Body;

    use super::*;

    #[tokio::test]
    async fn a_body_is_collected_up_to_the_limit() {
        let body = Bytes::from_static(b"seven b");
        let collected = |limit| collect(Body::from(body.clone()), limit);
        let whole = collected(7).await.ok().unwrap();
        assert_eq!((whole.as_ptr(), whole.len()), (body.as_ptr(), 7));
        assert!(matches!(collected(6).await, Err(BodyFault::TooLarge)));
        assert!(collect(Body::empty(), 0).await.is_ok_and(|body| body.is_empty()));
    }
}
