//! The API server in process: requests against the router, no sockets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod discovery;
mod kit;
mod rows;
mod streams;
mod verbs;
mod watches;
