//! Behaviour that a kind has alone: what it defaults, prepares, refuses and warns of.
//! Comes in: an object, the old object and the [`Context`]. Goes out: the object changed, or [`Errors`]; no I/O, no HTTP, no store.
//! A kind with nothing of its own takes every default of [`Strategy`]; rules read values only through [`field::Field`].

pub mod autoscaling;
pub mod certificates;
pub mod config;
pub mod event;
pub mod field;
pub mod flowcontrol;
pub mod format;
pub mod int_or_percent;
pub mod job;
pub mod meta;
pub mod namespace;
pub mod networking;
pub mod node;
pub mod pod;
pub mod policy;
pub mod quota;
pub mod rbac;
pub mod resources;
pub mod service;
pub mod template;
pub mod volume;
pub mod workload;

#[cfg(test)]
mod tests;

use serde_json::{Value, json};

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

/// Which of the two halves a kind has beside its metadata.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shape {
    /// `status` belongs to the status subresource; a client's create and update cannot touch it.
    pub status: bool,
    /// `metadata.generation` counts the changes of everything but metadata and status.
    pub generation: bool,
}

impl Shape {
    pub const PLAIN: Shape = Shape {
        status: false,
        generation: false,
    };
    pub const STATUS: Shape = Shape {
        status: true,
        generation: false,
    };
    pub const COUNTED: Shape = Shape {
        status: false,
        generation: true,
    };
    pub const FULL: Shape = Shape {
        status: true,
        generation: true,
    };

    pub fn prepare_create(self, new: &mut Object) {
        if self.status {
            new.0.insert("status".into(), json!({}));
        }
        if self.generation {
            new.metadata_mut().insert("generation".into(), 1.into());
        }
    }
    pub fn prepare_update(self, context: &Context<'_>, new: &mut Object, old: &Object) {
        if context.subresource == "status" {
            // Only the status is the client's here, and metadata, as upstream has it.
            let mut kept = old.0.clone();
            for name in ["metadata", "status"] {
                match new.0.remove(name) {
                    Some(value) => kept.insert(name.into(), value),
                    None => kept.remove(name),
                };
            }
            new.0 = kept;
            return;
        }
        if self.status {
            match old.0.get("status") {
                Some(status) => new.0.insert("status".into(), status.clone()),
                None => new.0.remove("status"),
            };
        }
        if self.generation && differs(new, old) {
            bump_generation(new, old);
        }
    }
}

/// Whether anything but metadata, status and the type differs.
pub fn differs(new: &Object, old: &Object) -> bool {
    let counted = |name: &str| !matches!(name, "metadata" | "status" | "apiVersion" | "kind");
    let mut names: Vec<&String> = new.0.keys().chain(old.0.keys()).filter(|name| counted(name)).collect();
    names.dedup();
    names
        .into_iter()
        .any(|name| !field::same(new.0.get(name), old.0.get(name)))
}

/// One more than the old generation.
pub fn bump_generation(new: &mut Object, old: &Object) {
    let generation = old.at(&["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0);
    new.metadata_mut().insert("generation".into(), (generation + 1).into());
}

/// What a write through a (sub)resource cannot change, whatever it says: nobody becomes the owner of it by that write.
/// Upstream: each strategy's GetResetFields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    Paths(&'static [&'static [&'static str]]),
    /// Everything but these.
    AllBut(&'static [&'static [&'static str]]),
}

impl Reset {
    pub const NOTHING: Reset = Reset::Paths(&[]);
}

/// What a kind does that no other kind does. The registry calls these in this order: `default` (after decoding, before
/// admission), `prepare_*`, `validate*`, `warnings`.
pub trait Strategy: Send + Sync + std::fmt::Debug {
    fn shape(&self) -> Shape {
        Shape::PLAIN
    }
    /// Defaults that the schema table cannot say (they depend on other fields). Runs on everything read from a client.
    fn default(&self, _new: &mut Object) {}
    /// Drops what a client may not set at creation (status, mostly); sets generation.
    fn prepare_create(&self, _context: &Context<'_>, new: &mut Object) {
        self.shape().prepare_create(new);
    }
    /// Keeps what a client may not change through this (sub)resource; bumps generation where the spec changed.
    fn prepare_update(&self, context: &Context<'_>, new: &mut Object, old: &Object) {
        self.shape().prepare_update(context, new, old);
    }
    /// What the preparations of a write through `subresource` take back.
    fn reset(&self, subresource: &str) -> Reset {
        match subresource {
            "" | "finalize" => Reset::Paths(&[&["status"]]),
            "status" => Reset::Paths(&[&["spec"]]),
            _ => Reset::NOTHING,
        }
    }
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

/// A kind without behaviour of its own but its shape.
#[derive(Debug, Clone, Copy)]
pub struct Plain(pub Shape);

impl Strategy for Plain {
    fn shape(&self) -> Shape {
        self.0
    }
}
