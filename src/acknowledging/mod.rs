//! Acknowledgement from end to end: a message leaves the outbox when its *consumer* has confirmed it.
//!
//! ```text
//! Outbox -> Acknowledging -> broker -> Confirming source -> Consumer -> handler answers 2xx
//!               ^                            |
//!               '---- confirmation <- broker <'
//! ```
//!
//! Settings switch it on: `ACKNOWLEDGED = true` with `DELIVERY = "durable"` or `"transactional"`. A [`Bus`](crate::bus::Bus) then
//! wires the parts of this module; an app without one does it by hand:
//!
//! | part | is | does |
//! |---|---|---|
//! | [`Acknowledging`] | a messenger around another | gives each message the header [`ACK`](crate::message::headers::ACK) with the address of this instance, sends it, and ends when the consumer has confirmed it |
//! | [`Confirmations`] | the worker beside it | receives confirmations from the broker |
//! | [`Taking`] | a source around another | takes confirmations out of the messages of a consumer, for a queue that holds both |
//! | [`Confirming`] | a source around another, on the other side | confirms a message when it is acknowledged, so after the handler's 2xx |
//!
//! # The confirmation
//! It is a message to the topic in the header `ack`, with the body `{}` and the id of the confirmed message in the header
//! [`CONFIRM`](crate::message::headers::CONFIRM). With `ENVELOPE = "mqfactory"` headers are tags, so this is mqfactory's
//! own acknowledgement.
//!
//! The consumer's side sends it after the handler's 2xx, waits until the broker has confirmed it, and acknowledges the message to
//! the broker last. After a crash between the two the broker delivers the message again: a handler with
//! [`Tx`](crate::tx::Tx) does not run again, and the message is confirmed once more.
//!
//! # The sender's side
//! | what happens | the message |
//! |---|---|
//! | the confirmation comes | leaves the outbox |
//! | the broker does not confirm the message | comes back as the inner messenger says |
//! | the consumer makes a dead letter of the message | a rejected failure with its reason: a dead letter in the outbox too |
//! | no confirmation within [`timeout`](AcknowledgingSettings::timeout) after the broker's confirm | a transient failure, [`Unacknowledged`](crate::messenger::Unacknowledged): the relay sends it again, with the same id |
//! | the confirmation comes later | is remembered: the next `send` returns `Ok` and sends nothing |
//! | a second confirmation, or one with an unknown id | is counted and ignored |
//! | the process ends | is sent again after the next start, with the same id |
//!
//! **Delivery is at least once.** A message whose consumer was killed between its handler and the confirmation is handled twice.
//! The id of a message that was never sent is never remembered, so that nobody can confirm a message in advance.
//!
//! # The address
//! Each instance that sends needs an address of its own, since the instance that waits for a confirmation must receive it. When
//! another instance takes over a message, it sends it again under its own address.
//!
//! The worker of [`Confirmations`] first sends a confirmation to itself. Until that comes back, messages wait and
//! [`health`](crate::messenger::Messenger::health) is down: without a way back each message would be sent again and again. It does so
//! again after a confirmation was missed.
//!
//! # Trust
//! A stranger who may write to the address and knows the id of a message can confirm it. Ids are UUIDs with 74 random bits. With
//! signatures, an unsigned confirmation is refused before it gets here.
//!
//! On the consumer's side the header `ack` is foreign input: it is obeyed only if it matches `ACK_ALLOWED`, by default `*/ack`. So
//! a stranger can make a consumer publish `{}` to such an address, and to no other. A confirmation is never confirmed.

mod address;
mod awaited;
mod confirmation;
mod confirmations;
mod confirming;
mod messenger;
mod return_path;
mod settings;
mod taking;

pub use self::address::{AckAddress, AllowedAddresses};
pub use self::confirmations::Confirmations;
pub use self::confirming::Confirming;
pub use self::messenger::Acknowledging;
pub use self::settings::AcknowledgingSettings;
pub use self::taking::Taking;
