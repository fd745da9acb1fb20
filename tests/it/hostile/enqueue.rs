//! What the protocol can never carry is refused at enqueue.
