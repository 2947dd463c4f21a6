//! The API server in process: requests against the router, no sockets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod apply;
mod discovery;
mod kit;
mod laws;
mod rows;
mod streams;
mod verbs;
mod watches;
