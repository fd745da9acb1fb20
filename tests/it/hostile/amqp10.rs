//! What a peer of AMQP 1.0 sends that cannot be read, or that is not what it seems.
