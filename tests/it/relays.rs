//! Several processes that store in one database and send from it.

mod bus;
mod failover;
mod fencing;
mod idle;
mod late;
mod process;
