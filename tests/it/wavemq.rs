//! The face of WAVEMQ: unmodified clients, and routers that lose their link.

mod app;
mod clients;
mod crash;
mod generated;
mod link;
mod signatures;
mod sites;
