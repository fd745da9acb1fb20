//! The KubeMQ face: unmodified clients of KubeMQ against our server.

mod generated;
