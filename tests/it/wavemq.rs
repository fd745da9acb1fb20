//! The face of WAVEMQ: unmodified clients, and routers that lose their link.

mod answers;
mod app;
mod clients;
mod crash;
mod generated;
mod guards;
mod link;
mod power;
mod signatures;
mod sites;
