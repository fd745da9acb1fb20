//! Hostile and odd input harms only itself: one file for each kind of input, each row on the real peer where it can show it.

mod amqp10;
mod blame;
mod bounds;
mod broken_off;
mod consumers;
mod databases;
mod enqueue;
mod hooks;
mod log;
mod panics;
mod reasons;
mod retries;
mod sent_on;
mod settings;
mod strangers;
mod unreadable;
