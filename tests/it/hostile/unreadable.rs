//! What a publisher of AMQP 0-9-1 sends that cannot be read.
