//! Who is it? Comes in: the connection's [`Peer`] and the request's head. Goes out: a [`User`], or 401.

use futures::future::BoxFuture;

use crate::identity::{Peer, User};
use crate::status::Status;

/// One way to know a caller. `Ok(None)`: these are not my credentials, ask the next.
pub trait Authenticator: Send + Sync + std::fmt::Debug {
    fn authenticate<'a>(
        &'a self,
        peer: &'a Peer,
        head: &'a http::request::Parts,
    ) -> BoxFuture<'a, Result<Option<User>, Status>>;
}
