//! Events and stored events: sending, and subscribing.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::unconstrained;
use tonic::{Status, Streaming};

use super::access::{Caller, Right};
use super::face::Face;
use super::fault::{self, Refusal};
use super::{check, convert, limits};
use crate::channels::{
    ChannelKind, ChannelName, EventSubscription, StreamSubscription, Subscribe as SubscribeStream,
};
use crate::kubemq_wire::subscribe::SubscribeType;
use crate::kubemq_wire::{Event, EventReceive, Result as Sent, Subscribe};

/// How many events a subscription takes from the engine at once.
const BATCH: usize = 64;

/// Publishes an event, or stores it and waits until it is stored.
pub(super) async fn send(face: &Face, caller: &Caller, event: Event) -> Result<Sent, Refusal> {
    let store = event.store;
    let (channel, content) = check::event(event)?;
    let kind = if store { ChannelKind::Stream } else { ChannelKind::Events };
    caller.may(Right::Write, kind, channel.as_str())?;
    let event_id = content.id.clone();
    if store {
        let appended = face.engine.append(vec![(channel, content)]).await.pop();
        appended.unwrap_or(Err(crate::channels::EngineError::Closed))?;
    } else {
        face.engine.publish(&channel, content).await?;
    }
    Ok(Sent { event_id, sent: true, error: String::new() })
}

/// Serves SendEventsStream: each stored event has an answer, in their order; others have one if they were refused.
pub(super) async fn serve(
    face: Arc<Face>,
    caller: Caller,
    mut events: Streaming<Event>,
    answers: mpsc::Sender<Sent>,
) -> Result<(), Status> {
    let mut sending = FuturesOrdered::new();
    let (mut bytes, mut ended) = (0, false);
    loop {
        let has_room = sending.len() < limits::PIPELINE && bytes < limits::PIPELINE_BYTES;
        tokio::select! {
            biased;
            Some((answer, size)) = sending.next(), if !sending.is_empty() => {
                bytes -= size;
                if let Some(answer) = answer {
                    let _ = answers.send(answer).await;
                }
            }
            event = events.message(), if has_room && !ended => match event? {
                Some(event) => {
                    let size = event.encoded_len();
                    bytes += size;
                    let (face, caller) = (&face, &caller);
                    // An event whose budget of polls is used up would be polled again behind later ones, and stored behind them.
                    sending.push_back(unconstrained(async move { (answer(face, caller, event).await, size) }));
                }
                None => ended = true,
            },
            else => return Ok(()),
        }
    }
}

async fn answer(face: &Face, caller: &Caller, event: Event) -> Option<Sent> {
    let (event_id, store) = (event.event_id.clone(), event.store);
    match send(face, caller, event).await {
        Ok(sent) => store.then_some(sent),
        Err(refusal) => Some(Sent { event_id, sent: false, error: refusal.to_string() }),
    }
}

/// A subscription, which is there before the client gets the head of the answer.
pub(super) enum Subscribed {
    Events(EventSubscription),
    Store(ChannelName, Box<dyn StreamSubscription>),
}

pub(super) async fn subscribe(
    face: &Face,
    caller: &Caller,
    subscribe: Subscribe,
) -> Result<Subscribed, Refusal> {
    let kind = subscribe.subscribe_type_data();
    if !matches!(kind, SubscribeType::Events | SubscribeType::EventsStore) {
        return Err(fault::SUBSCRIBE_TYPE.into());
    }
    check::client(&subscribe.client_id)?;
    check::text("group", &subscribe.group)?;
    let group = Some(subscribe.group.as_str()).filter(|group| !group.is_empty());
    if kind == SubscribeType::Events {
        let pattern = check::pattern(&subscribe.channel)?;
        if subscribe.events_store_type_data != 0 {
            return Err(fault::NOT_A_STORE.into());
        }
        caller.may(Right::Read, ChannelKind::Events, pattern.as_str())?;
        return Ok(Subscribed::Events(face.engine.subscribe_events(&pattern, group, 0).await?));
    }
    let channel = check::channel(&subscribe.channel)?;
    let start = check::start(&subscribe)?;
    caller.may(Right::Read, ChannelKind::Stream, channel.as_str())?;
    let stream =
        SubscribeStream { start, group: group.map(str::to_owned), durable: Some(subscribe.client_id) };
    let subscription = face.engine.subscribe_stream(&channel, stream).await?;
    Ok(Subscribed::Store(channel, subscription))
}

pub(super) async fn deliver(
    subscribed: Subscribed,
    events: mpsc::Sender<EventReceive>,
) -> Result<(), Status> {
    match subscribed {
        Subscribed::Events(subscription) => deliver_events(subscription, events).await,
        Subscribed::Store(channel, subscription) => deliver_stored(&channel, &*subscription, events).await,
    }
}

async fn deliver_events(
    mut subscription: EventSubscription,
    events: mpsc::Sender<EventReceive>,
) -> Result<(), Status> {
    let mut batch = Vec::new();
    while subscription.next_many(&mut batch, BATCH).await > 0 {
        for event in batch.drain(..) {
            let _ = events.send(convert::event(event)).await;
        }
    }
    Err(closing())
}

/// Acknowledges each event once it was taken for the connection of the client: the protocol has no acknowledgement.
async fn deliver_stored(
    channel: &ChannelName,
    subscription: &dyn StreamSubscription,
    events: mpsc::Sender<EventReceive>,
) -> Result<(), Status> {
    let mut last = None;
    loop {
        let batch = tokio::select! {
            batch = subscription.receive(BATCH) => batch.map_err(|error| Status::from(Refusal::from(error)))?,
            // The place is free again once the last event was taken.
            Ok(_place) = events.reserve(), if last.is_some() => {
                acknowledge(subscription, &mut last);
                continue;
            }
        };
        for message in batch {
            let Ok(place) = events.reserve().await else { return Ok(()) };
            acknowledge(subscription, &mut last);
            last = Some(message.sequence);
            place.send(convert::stored_event(channel, message));
        }
    }
}

fn acknowledge(subscription: &dyn StreamSubscription, last: &mut Option<u64>) {
    if let Some(sequence) = last.take() {
        subscription.ack_soon(sequence);
    }
}

pub(super) fn closing() -> Status {
    Status::unavailable(fault::CLOSING.to_string())
}
