//! The face of WAVEMQ: unmodified clients, and routers that lose their link.

mod clients;
mod crash;
mod generated;
mod link;
mod sites;
