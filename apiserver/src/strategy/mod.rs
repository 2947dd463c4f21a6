//! Behaviour that a kind has alone. No I/O here: a strategy sees the object, the old object and the [`Context`].
//! A kind with nothing of its own takes every default of [`Strategy`].

use crate::identity::User;
use crate::object::Object;
use crate::status::Errors;

/// What a strategy may know of the request.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    pub user: &'a User,
    /// The served version of the request, e.g. `v1`.
    pub version: &'a str,
    /// `status`, `scale` …; empty for the object itself.
    pub subresource: &'a str,
    pub now: jiff::Timestamp,
}

/// What a kind does that no other kind does. The registry calls these in this order: `default` (after decoding, before
/// admission), `prepare_*`, `validate*`, `warnings`.
pub trait Strategy: Send + Sync + std::fmt::Debug {
    /// Defaults that the schema table cannot say (they depend on other fields). Runs on everything read from a client.
    fn default(&self, _new: &mut Object) {}
    /// Drops what a client may not set at creation (status, mostly); sets generation.
    fn prepare_create(&self, _context: &Context<'_>, _new: &mut Object) {}
    /// Keeps what a client may not change through this (sub)resource; bumps generation where the spec changed.
    fn prepare_update(&self, _context: &Context<'_>, _new: &mut Object, _old: &Object) {}
    fn validate(&self, _context: &Context<'_>, _new: &Object, _errors: &mut Errors) {}
    fn validate_update(&self, context: &Context<'_>, new: &Object, _old: &Object, errors: &mut Errors) {
        self.validate(context, new, errors)
    }
    /// Sent as Warning headers.
    fn warnings(&self, _context: &Context<'_>, _new: &Object, _old: Option<&Object>) -> Vec<String> {
        Vec::new()
    }
    /// The grace period of a delete in seconds: what the request asked, adjusted. `None`: this kind is deleted at once.
    fn grace(&self, _object: &Object, _asked: Option<i64>) -> Option<i64> {
        None
    }
    /// What the first delete changes in an object that lives on for a while (a Namespace becomes Terminating).
    fn prepare_delete(&self, _object: &mut Object) {}
    /// Whether only metadata.finalizers can keep a deleted object (a Namespace has finalizers in its spec too).
    fn removable(&self, _object: &Object) -> bool {
        true
    }
    /// What happens to dependents when the request does not say.
    fn propagation(&self) -> Propagation {
        Propagation::Background
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}
