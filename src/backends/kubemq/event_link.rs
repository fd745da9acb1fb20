//! Sending events: a stream SendEventsStream for each batch.

use std::collections::HashMap;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::Status;

use super::connection::Connection;
use super::failure;
use super::sender_link::Results;
use crate::kubemq_wire::Event;
use crate::messenger::Failure;

/// Sends events in order. A server replies to each stored event; to others only if it rejects them, and by the end of the
/// stream, which shows that it has read them all.
pub(super) async fn send(connection: &Connection, events: Vec<Result<Event, Failure>>) -> Results {
    let mut results: Vec<Option<Result<(), Failure>>> = Vec::with_capacity(events.len());
    let (mut sent, mut places) = (Vec::new(), HashMap::<String, Vec<usize>>::new());
    for event in events {
        match event {
            Ok(event) => {
                places.entry(event.event_id.clone()).or_default().push(results.len());
                results.push(None);
                sent.push(event);
            }
            Err(failure) => results.push(Some(Err(failure))),
        }
    }
    if !sent.is_empty() {
        let exchanged = exchange(connection, sent, &mut places, &mut results);
        let rest = match timeout(connection.send_timeout, exchanged).await {
            Ok(Ok(rest)) => rest,
            Ok(Err(status)) => {
                connection.lost.cancel();
                Err(failure::of_status(&status))
            }
            Err(_) => {
                connection.give_up();
                Err(Failure::transient("the broker gave no result within SEND_TIMEOUT"))
            }
        };
        results.iter_mut().filter(|result| result.is_none()).for_each(|result| *result = Some(rest.clone()));
    }
    results.into_iter().flatten().collect()
}

/// Fills in the results that the broker replies; returns that of the other events.
async fn exchange(
    connection: &Connection,
    events: Vec<Event>,
    places: &mut HashMap<String, Vec<usize>>,
    results: &mut [Option<Result<(), Failure>>],
) -> Result<Result<(), Failure>, Status> {
    let is_stored = events.iter().any(|event| event.store);
    let mut left = events.len();
    let (done, replied) = oneshot::channel::<()>();
    // Stored events: the stream is kept open until all replies are here.
    let open = stream::once(async move {
        if is_stored {
            drop(replied.await)
        }
    })
    .filter_map(async |()| None);
    let requests = stream::iter(events).chain(Box::pin(open));
    let mut client = connection.client.clone();
    let mut replies = client.send_events_stream(connection.request(requests)).await?.into_inner();
    while let Some(reply) = replies.message().await? {
        let place = places.get_mut(&reply.event_id).and_then(|places| match places.is_empty() {
            true => None,
            false => Some(places.remove(0)),
        });
        let Some(place) = place else { continue };
        results[place] = Some(match reply.sent && reply.error.is_empty() {
            true => Ok(()),
            false => Err(failure::of_result(&reply.error)),
        });
        left -= 1;
        if is_stored && left == 0 {
            break;
        }
    }
    drop(done);
    match is_stored {
        true => Ok(Err(Failure::transient("the broker gave no result for it"))),
        false => Ok(Ok(())),
    }
}
