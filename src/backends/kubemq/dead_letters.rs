//! Sending dead letters.

use tokio::time::timeout;

use super::connection::Connection;
use super::failure;
use crate::kubemq_wire::QueueMessage;
use crate::messenger::Failure;

/// Sends a dead letter to its queue, and waits for the result.
pub(super) async fn send(connection: &Connection, letter: QueueMessage) -> Result<(), Failure> {
    let mut client = connection.client.clone();
    let sent = connection.lost.run_until_cancelled(timeout(
        connection.send_timeout,
        client.send_queue_message(connection.request(letter)),
    ));
    match sent.await {
        Some(Ok(Ok(result))) => {
            let result = result.into_inner();
            if result.is_error { Err(failure::of_result(&result.error)) } else { Ok(()) }
        }
        Some(Ok(Err(status))) if failure::is_over_size(&status) => {
            Err(Failure::rejected(failure::describe(&status)))
        }
        Some(Ok(Err(status))) => Err(Failure::transient(failure::describe(&status))),
        Some(Err(_)) => Err(Failure::transient("the broker gave no result within SEND_TIMEOUT")),
        None => Err(Failure::transient("the connection to the broker was lost")),
    }
}
