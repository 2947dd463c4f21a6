//! The API server in process: requests against the router, no sockets.

mod kit;
mod rows;
mod verbs;
mod watches;
