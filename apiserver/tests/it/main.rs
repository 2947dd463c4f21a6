//! The API server in process: requests against the router, no sockets.

mod kit;
mod verbs;
mod watches;
