//! Connections that have left HTTP: sockets that tell when their peer has gone, bytes joined in both directions, WebSocket frames.
//! It knows nothing of what is carried, and of no protocol above the frames.
//! Whatever the other end does or no longer does, a joined pair ends: with either side, and never keeps a socket open after it.

mod relay;
mod socket;
pub mod websocket;

pub use relay::{LINGER, both, relay};
pub use socket::{Peer, Socket};
