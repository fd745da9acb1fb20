//! Several processes that store in one database and send from it.

mod failover;
mod fencing;
mod late;
mod process;
