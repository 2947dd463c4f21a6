//! The Kubernetes API over a store.
//!
//! ```text
//!   write   client ─► http ─► authn ─► authz ─► admission ─► registry(strategy) ─► store
//!   read    client ◄─ http/watch, http/list ◄─────────────── cache ◄───────────── store.watch
//! ```
//!
//! Each folder is a room; a room uses only the rooms to its right in
//! `server · http · authn · admission · authz · registry · strategy · schema · cache · store · object · identity · status`
//! (`tests/tidy.rs` enforces it). No writer touches the cache; only the store's watch does.

pub mod admission;
pub mod authn;
pub mod authz;
pub mod cache;
pub mod http;
pub mod identity;
pub mod object;
pub mod registry;
pub mod schema;
pub mod server;
pub mod status;
pub mod store;
pub mod strategy;
