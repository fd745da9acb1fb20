//! The parts of each message of the interface.

use super::bounded::{Field, Shape, Shaped};
use super::generated as wire;

/// A name and a value, with what the map and the allocator take for them.
const TAG: Shape = Shape { size: 192, fields: &[] };
const MESSAGE: Shape = Shape::of::<wire::QueueMessage>(&[(6, Field::Parts(&TAG))]);
const RESULT: Shape = Shape::of::<wire::SendQueueMessageResult>(&[]);

macro_rules! shaped {
    ($($message:ident: [$($field:literal $kind:ident $(($shape:ident))?),*];)*) => {
        $(impl Shaped for wire::$message {
            const SHAPE: Shape = Shape::of::<Self>(&[$(($field, Field::$kind $((&$shape))?)),*]);
        })*
    };
}

shaped! {
    Empty: [];
    PingResult: [];
    Event: [7 Parts(TAG)];
    EventReceive: [7 Parts(TAG)];
    Result: [];
    Subscribe: [];
    Request: [12 Parts(TAG)];
    Response: [11 Parts(TAG)];
    QueueMessage: [6 Parts(TAG)];
    SendQueueMessageResult: [];
    QueueMessagesBatchRequest: [2 Parts(MESSAGE)];
    QueueMessagesBatchResponse: [2 Parts(RESULT)];
    ReceiveQueueMessagesRequest: [];
    ReceiveQueueMessagesResponse: [2 Parts(MESSAGE)];
    AckAllQueueMessagesRequest: [];
    AckAllQueueMessagesResponse: [];
    StreamQueueMessagesRequest: [8 Parts(MESSAGE)];
    StreamQueueMessagesResponse: [3 Parts(MESSAGE)];
    QueuesUpstreamRequest: [2 Parts(MESSAGE)];
    QueuesUpstreamResponse: [2 Parts(RESULT)];
    QueuesDownstreamRequest: [9 Numbers, 12 Parts(TAG)];
    QueuesDownstreamResponse: [4 Parts(MESSAGE), 5 Numbers, 9 Parts(TAG)];
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::kubemq_wire::bounded::NUMBER;

    fn weight<M: Message + Shaped>(message: &M) -> usize {
        M::SHAPE.weigh(&message.encode_to_vec())
    }

    #[test]
    fn each_part_of_a_message_counts() {
        let tags = |count: usize| (0..count).map(|tag| (tag.to_string(), "x".repeat(200))).collect();
        let message =
            wire::QueueMessage { tags: tags(3), body: vec![0x12; 1_000].into(), ..Default::default() };
        assert_eq!(weight(&message), 3 * TAG.size);
        let batch = wire::QueueMessagesBatchRequest { messages: vec![message; 5], ..Default::default() };
        assert_eq!(weight(&batch), 5 * (MESSAGE.size + 3 * TAG.size));
        let range = wire::QueuesDownstreamRequest {
            sequence_range: vec![1, 300, -1],
            metadata: tags(2),
            wait_timeout: 7,
            ..Default::default()
        };
        assert_eq!(weight(&range), 3 * NUMBER + 2 * TAG.size);
        let one_by_one = [0x48, 1, 0x48, 0x80, 1];
        assert_eq!(wire::QueuesDownstreamRequest::SHAPE.weigh(&one_by_one), 2 * NUMBER);
    }

    #[test]
    fn parts_in_and_behind_unknown_fields_count() {
        let fixed = [0x79, 0, 0, 0, 0, 0, 0, 0, 0, 0x7d, 0, 0, 0, 0];
        let group = [0x7b, 0x12, 0, 0x7c];
        let bytes = [&fixed[..], &group, &[0x12, 0]].concat();
        assert!(wire::QueuesUpstreamRequest::decode(&bytes[..]).is_ok());
        assert_eq!(wire::QueuesUpstreamRequest::SHAPE.weigh(&bytes), 2 * MESSAGE.size);
    }
}
