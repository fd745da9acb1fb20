//! The function that the fuzz target `kubemq` calls.

use prost::Message;
use tonic::Status;

use super::check;
use super::extras::{self, RequestExtras};
use super::limits;
use crate::kubemq_wire as wire;

/// A message of a client, whose kind the first byte chooses: it is refused, or within the limits.
pub fn kubemq(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 5 {
        0 => {
            let Ok(message) = wire::QueueMessage::decode(bytes) else { return };
            match check::queue_message(message) {
                Ok((queue, message)) => {
                    assert!(!queue.as_str().contains(['*', '>', ' ']));
                    assert!(message.content.tags.len() <= limits::TAGS && !message.content.id.is_empty());
                    assert!(
                        message.policy.expiry.as_secs() <= 43_200 && message.policy.delay.as_secs() <= 43_200
                    );
                    assert!((1..=1_024).contains(&message.policy.max_receives));
                }
                Err(refusal) => drop(Status::from(refusal)),
            }
        }
        1 => {
            let Ok(event) = wire::Event::decode(bytes) else { return };
            if let Err(refusal) = check::event(event) {
                drop(Status::from(refusal));
            }
        }
        2 => {
            let Ok(request) = wire::Request::decode(bytes) else { return };
            let Ok((_, timeout)) = check::request(&request) else { return };
            assert!(!timeout.is_zero());
            let mut tags = request.tags.clone().into_iter().collect();
            RequestExtras::of(&request).add_to(&mut tags);
            let extras = RequestExtras::take_from(&mut tags);
            assert_eq!(
                (extras.cache_key, extras.cache_ttl, extras.span),
                (request.cache_key, request.cache_ttl, request.span)
            );
        }
        3 => {
            let Ok(response) = wire::Response::decode(bytes) else { return };
            let Ok(reply) = extras::reply(response) else { return };
            assert!(reply.tags.len() <= limits::TAGS + 1);
        }
        _ => {
            let Ok(subscribe) = wire::Subscribe::decode(bytes) else { return };
            let _ = check::start(&subscribe);
            let _ = check::pattern(&subscribe.channel);
        }
    }
}
