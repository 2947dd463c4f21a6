//! Create and update: one fixed order of steps and one compare-and-swap loop, for every kind.
//!
//! ```text
//! default ─► gate.mutate ─► metadata ─► strategy.prepare ─► validate ─► gate.validate ─► store ─► gate.finish
//! ```
//! Validation runs before the gate's validators, so that these see what will be stored; both run again on each retry.
//! Upstream: apiserver/pkg/registry/generic/registry/store.go and registry/rest/{create,update}.go (1.36).

use std::sync::Mutex;

use bytes::Bytes;
use futures::future::BoxFuture;
use rand::Rng;
use serde_json::Value;

use super::fields::{self, By};
use super::{Registry, Row, from_store};
use crate::identity::User;
use crate::object::Object;
use crate::schema;
use crate::status::{Errors, Reason, Status};
use crate::store::{self, Expect, Revision};
use crate::strategy;

/// What upstream tells a writer who holds an old revision; clients match on it.
pub const STALE: &str = "the object has been modified; please apply your changes to the latest version and try again";

/// Upstream's letters for generated names: no vowels, so that no words come out, and nothing that looks like another.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const GENERATED_LENGTH: usize = 5;
const NAME_MAX: usize = 63;
const NAME_ATTEMPTS: usize = 8;

/// A write, beside the object.
#[derive(Debug)]
pub struct Context<'a> {
    pub user: &'a User,
    /// The served version that the objects of this request are in.
    pub version: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub dry_run: bool,
    pub now: jiff::Timestamp,
    /// Whose fields the changed ones are from now on.
    pub by: By<'a>,
    /// Sent as Warning headers, each once.
    pub warnings: &'a Mutex<Vec<String>>,
}

impl Context<'_> {
    pub fn warn(&self, warning: String) {
        let mut warnings = self.warnings.lock().expect("nothing panics while holding the warnings");
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
    /// The ownership side of this write; `None` for a kind without a type, whose fields nobody can tell apart.
    pub fn form<'f>(
        &'f self,
        row: &'f Row,
        manager: &'f str,
        versions: &'f fields::RowVersions<'f>,
    ) -> Option<fields::Form<'f>> {
        let gvk = schema::Gvk {
            group: &row.group,
            version: self.version,
            kind: &row.kind,
        };
        Some(fields::Form {
            gvk,
            ty: schema::type_of(gvk.group, gvk.version, gvk.kind)?,
            subresource: self.subresource,
            reset: row.reset(self.subresource),
            manager,
            now: strategy::meta::seconds(self.now),
            versions,
        })
    }
    /// One owner, one reference: the first counts. Upstream: endpoints/handlers/create.go (1.36).
    fn dedup_owners(&self, new: &mut Object) {
        let mut twice: Vec<String> = Vec::new();
        let owners = new
            .0
            .get_mut("metadata")
            .and_then(|metadata| metadata.get_mut("ownerReferences"));
        if let Some(Value::Array(owners)) = owners {
            let mut seen: Vec<String> = Vec::new();
            owners.retain(|owner| {
                let uid = owner.get("uid").and_then(Value::as_str).unwrap_or("");
                if seen.iter().any(|known| known == uid) {
                    twice.push(uid.to_owned());
                    return false;
                }
                seen.push(uid.to_owned());
                true
            });
        }
        if !twice.is_empty() {
            self.warn(format!(
                ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
                twice.join(", ")
            ));
        }
    }
    /// Says in `new` who owns what. Both are in the stored form.
    fn track(&self, row: &Row, live: Option<&Object>, new: &mut Object) {
        let By::Manager(manager) = self.by else { return };
        let versions = fields::RowVersions { row };
        let Some(form) = self.form(row, manager, &versions) else {
            return;
        };
        if !row.converts(self.version) {
            return fields::track(&form, live.map(|live| &live.0), &mut new.0);
        }
        let served = |object: &Object| {
            let mut object = object.clone();
            row.from_stored(&mut object, self.version);
            object.0
        };
        let mut seen = served(new);
        fields::track(&form, live.map(served).as_ref(), &mut seen);
        let list = seen
            .get_mut("metadata")
            .and_then(|metadata| metadata.as_object_mut()?.remove("managedFields"));
        match list {
            Some(list) => new.metadata_mut().insert("managedFields".into(), list),
            None => new.metadata_mut().remove("managedFields"),
        };
    }
    pub(super) fn strategy(&self) -> strategy::Context<'_> {
        strategy::Context {
            user: self.user,
            version: self.version,
            subresource: self.subresource,
            now: self.now,
        }
    }
}

/// What the cluster says about a write: admission, handed in by the caller. `old` is absent at a create, `new` at a
/// delete.
pub trait Gate: Send + Sync {
    fn mutate<'a>(
        &'a self,
        name: &'a str,
        new: &'a mut Object,
        old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>>;
    fn validate<'a>(
        &'a self,
        name: &'a str,
        new: Option<&'a Object>,
        old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>>;
    /// Every mutated object, and every deleted one, is told of once: whether that was stored.
    fn finish<'a>(
        &'a self,
        object: &'a Object,
        old: Option<&'a Object>,
        write: Write,
        stored: bool,
    ) -> BoxFuture<'a, ()>;
}

/// What was done to the object that a gate is told the end of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    Create,
    Update,
    Delete,
}

/// How an update makes the new object from the old one, both in the stored form. It runs again on every retry.
pub type Change<'a> = dyn FnMut(Option<&Object>) -> Result<Object, Status> + Send + 'a;

/// What a write left in the store.
#[derive(Debug, Clone)]
pub struct Stored {
    /// In the storage version, without resourceVersion.
    pub value: Bytes,
    /// Absent where a dry run would have created the object.
    pub revision: Option<Revision>,
    pub created: bool,
}

impl Registry {
    /// Stores a new object.
    pub async fn create(
        &self,
        row: &Row,
        context: &Context<'_>,
        new: Object,
        gate: &dyn Gate,
    ) -> Result<Stored, Status> {
        let mut new = new;
        match_namespace(row, context.namespace, &mut new)?;
        let generates = new.name().is_empty() && !new.generate_name().is_empty();
        if !generates {
            return self.create_named(row, context, new, gate).await;
        }
        let mut attempt = 1;
        loop {
            let mut named = new.clone();
            let name = generated(new.generate_name());
            named.metadata_mut().insert("name".into(), name.clone().into());
            match self.create_named(row, context, named, gate).await {
                Err(refusal) if refusal.reason == Reason::AlreadyExists => {
                    if attempt == NAME_ATTEMPTS {
                        let mut status = refusal;
                        status.message = format!(
                            "{} {name:?} already exists, the server was not able to generate a unique name for the object",
                            row.about()
                        );
                        return Err(status);
                    }
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn create_named(
        &self,
        row: &Row,
        context: &Context<'_>,
        mut new: Object,
        gate: &dyn Gate,
    ) -> Result<Stored, Status> {
        if !new.resource_version().is_empty() && new.resource_version() != "0" {
            // Upstream's storage layer says it, and nobody above gives it a reason.
            return Err(Status {
                code: 500,
                reason: Reason::Unknown,
                message: "resourceVersion should not be set on objects to be created".into(),
                details: None,
                continue_token: None,
            });
        }
        row.strategy.default(&mut new);
        context.dedup_owners(&mut new);
        context.track(row, None, &mut new);
        let name = new.name().to_owned();
        gate.mutate(&name, &mut new, None).await?;
        let outcome = self.insert(row, context, &mut new, gate).await;
        let stored = outcome.is_ok() && !context.dry_run;
        gate.finish(&new, None, Write::Create, stored).await;
        outcome
    }

    async fn insert(
        &self,
        row: &Row,
        context: &Context<'_>,
        new: &mut Object,
        gate: &dyn Gate,
    ) -> Result<Stored, Status> {
        let uid = uuid::Uuid::new_v4().hyphenated().to_string();
        row.prepare_create(&context.strategy(), new, &uid);
        // Upstream defaults again whatever it reads back from the store, so what preparing added takes part in defaults
        // (a Job's labels are those of its template).
        row.default(new);
        let errors = row.validate_create(&context.strategy(), new);
        if !errors.is_empty() {
            return Err(Status::invalid(&row.group, &row.kind, new.name(), errors));
        }
        for warning in row.strategy.warnings(&context.strategy(), new, None) {
            context.warn(warning);
        }
        gate.validate(new.name(), Some(new), None).await?;
        let key = row.cache()?.key(context.namespace, new.name());
        let value = row.encode(new);
        let exists = |deleting: bool| {
            let mut status = Status::already_exists(row.about(), new.name());
            if deleting {
                status.message = format!("object is being deleted: {}", status.message);
            }
            status
        };
        let is_deleting =
            |value: &[u8]| Object::from_stored(value, Revision::default()).is_ok_and(|object| object.is_deleting());
        if context.dry_run {
            return match self.store.get(&key).await.map_err(from_store)? {
                Some(entry) => Err(exists(is_deleting(&entry.value))),
                None => Ok(Stored {
                    value,
                    revision: None,
                    created: true,
                }),
            };
        }
        match self
            .store
            .put(&key, value.clone(), Expect::Absent, options(row, context.namespace))
            .await
        {
            Ok(revision) => Ok(Stored {
                value,
                revision: Some(revision),
                created: true,
            }),
            Err(store::Error::Conflict { current }) => Err(exists(current.is_some_and(|e| is_deleting(&e.value)))),
            Err(error) => Err(from_store(error)),
        }
    }

    /// Replaces what `name` holds by what `change` makes of it, until nobody else wrote in between.
    pub async fn update(
        &self,
        row: &Row,
        context: &Context<'_>,
        name: &str,
        change: &mut Change<'_>,
        gate: &dyn Gate,
    ) -> Result<Stored, Status> {
        self.put(row, context, name, change, gate, false).await
    }

    /// An update that also makes the object where there is none, whatever the kind: `change` is asked without one.
    pub async fn apply(
        &self,
        row: &Row,
        context: &Context<'_>,
        name: &str,
        change: &mut Change<'_>,
        gate: &dyn Gate,
    ) -> Result<Stored, Status> {
        self.put(row, context, name, change, gate, true).await
    }

    async fn put(
        &self,
        row: &Row,
        context: &Context<'_>,
        name: &str,
        change: &mut Change<'_>,
        gate: &dyn Gate,
        allow_create: bool,
    ) -> Result<Stored, Status> {
        let key = row.cache()?.key(context.namespace, name);
        let mut current = self.store.get(&key).await.map_err(from_store)?;
        loop {
            let Some(entry) = current else {
                let creates = (row.create_on_update || allow_create) && context.subresource.is_empty();
                if !creates {
                    return Err(Status::not_found(row.about(), name));
                }
                let mut new = change(None)?;
                // The revision that a writer remembers of an object which is gone does not stop a new one.
                new.metadata_mut().remove("resourceVersion");
                new.metadata_mut().remove("uid");
                match self.create(row, context, new, gate).await {
                    // Somebody else was first: then this is an update.
                    Err(refusal) if refusal.reason == Reason::AlreadyExists && !context.dry_run => {
                        current = self.store.get(&key).await.map_err(from_store)?;
                        continue;
                    }
                    outcome => return outcome,
                }
            };
            let old = row.decode(&entry)?;
            let mut new = change(Some(&old))?;
            check_revision(row, name, &mut new, &entry)?;
            if !new.uid().is_empty() && new.uid() != old.uid() {
                let why = format!(
                    "Precondition failed: UID in precondition: {}, UID in object meta: {}",
                    new.uid(),
                    old.uid()
                );
                return Err(Status::conflict(row.about(), name, &why));
            }
            row.strategy.default(&mut new);
            context.dedup_owners(&mut new);
            context.track(row, Some(&old), &mut new);
            gate.mutate(name, &mut new, Some(&old)).await?;
            let outcome = self.replace(row, context, &entry, &mut new, &old, gate).await;
            let (write, stored) = match &outcome {
                Ok(Swap::Done(_)) => (Write::Update, !context.dry_run),
                Ok(Swap::Removed(_)) => (Write::Delete, !context.dry_run),
                Ok(Swap::Lost(_)) | Err(_) => (Write::Update, false),
            };
            gate.finish(&new, Some(&old), write, stored).await;
            match outcome? {
                Swap::Done(stored) | Swap::Removed(stored) => return Ok(stored),
                Swap::Lost(newer) => {
                    current = match newer {
                        Some(entry) => Some(*entry),
                        None => self.store.get(&key).await.map_err(from_store)?,
                    }
                }
            }
        }
    }

    async fn replace(
        &self,
        row: &Row,
        context: &Context<'_>,
        entry: &store::Entry,
        new: &mut Object,
        old: &Object,
        gate: &dyn Gate,
    ) -> Result<Swap, Status> {
        row.prepare_update(&context.strategy(), new, old);
        row.default(new);
        let errors = row.validate_update(&context.strategy(), new, old);
        if !errors.is_empty() {
            return Err(Status::invalid(&row.group, &row.kind, new.name(), errors));
        }
        for warning in row.strategy.warnings(&context.strategy(), new, Some(old)) {
            context.warn(warning);
        }
        gate.validate(new.name(), Some(new), Some(old)).await?;
        row.normalise(new);
        fields::same_but_times(&old.0, &mut new.0);
        let value = new.to_stored();
        let left = |value, revision| Stored {
            value,
            revision: Some(revision),
            created: false,
        };
        let key = &entry.key;
        if is_over(row, new, old) {
            if context.dry_run {
                return Ok(Swap::Removed(left(value, entry.revision)));
            }
            return match self.store.delete(key, entry.revision).await {
                Ok(revision) => Ok(Swap::Removed(left(value, revision))),
                Err(store::Error::Conflict { current }) => Ok(Swap::Lost(current)),
                Err(error) => Err(from_store(error)),
            };
        }
        // A write that changes nothing is none: no revision, no event.
        if value == entry.value || context.dry_run {
            return Ok(Swap::Done(left(value, entry.revision)));
        }
        match self
            .store
            .put(
                key,
                value.clone(),
                Expect::At(entry.revision),
                options(row, context.namespace),
            )
            .await
        {
            Ok(revision) => Ok(Swap::Done(left(value, revision))),
            Err(store::Error::Conflict { current }) => Ok(Swap::Lost(current)),
            Err(error) => Err(from_store(error)),
        }
    }
}

/// How one attempt of the compare-and-swap loop ended.
enum Swap {
    Done(Stored),
    /// It was the end of the object.
    Removed(Stored),
    /// Somebody else wrote; what is there now, where the store said it.
    Lost(Option<Box<store::Entry>>),
}

/// The last finalizer of a deleted object went, and no grace is left.
fn is_over(row: &Row, new: &Object, old: &Object) -> bool {
    let grace = old
        .at(&["metadata", "deletionGracePeriodSeconds"])
        .and_then(Value::as_i64)
        .unwrap_or(0);
    old.is_deleting() && grace == 0 && !has_finalizers(new) && row.strategy.removable(new)
}

pub(super) fn has_finalizers(object: &Object) -> bool {
    object
        .at(&["metadata", "finalizers"])
        .and_then(Value::as_array)
        .is_some_and(|list| !list.is_empty())
}

/// Holds the new object to the revision it was made from, where the kind or the writer wants that.
fn check_revision(row: &Row, name: &str, new: &mut Object, entry: &store::Entry) -> Result<(), Status> {
    match new.resource_version() {
        "" | "0" if row.unconditional_update => {
            new.set_revision(entry.revision);
            Ok(())
        }
        "" | "0" => {
            let mut errors = Errors::default();
            errors.invalid(
                "metadata.resourceVersion",
                &Value::from(0),
                "must be specified for an update",
            );
            // Upstream names the resource here where it means the kind.
            Err(Status::invalid(&row.group, &row.plural, name, errors))
        }
        text => match text.parse::<u64>() {
            Ok(revision) if revision == entry.revision.0 => Ok(()),
            Ok(_) => Err(Status::conflict(row.about(), name, STALE)),
            Err(_) => {
                let mut errors = Errors::default();
                let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
                errors.invalid("metadata.resourceVersion", &Value::from(text), &why);
                Err(Status::invalid(&row.group, &row.kind, name, errors))
            }
        },
    }
}

/// The object's namespace is the request's, or becomes it.
pub fn match_namespace(row: &Row, namespace: &str, new: &mut Object) -> Result<(), Status> {
    if !row.namespaced() {
        new.metadata_mut().remove("namespace");
        return Ok(());
    }
    if new.namespace().is_empty() {
        new.metadata_mut().insert("namespace".into(), namespace.into());
    }
    if new.namespace() == namespace {
        return Ok(());
    }
    Err(Status::bad_request(
        "the namespace of the provided object does not match the namespace sent on the request",
    ))
}

pub(super) fn options(row: &Row, namespace: &str) -> store::Options {
    store::Options {
        durability: row.durability_in(namespace),
        time_to_live: row.time_to_live,
    }
}

/// The prefix, cut so that the whole fits a label, and five letters.
fn generated(prefix: &str) -> String {
    let mut end = prefix.len().min(NAME_MAX - GENERATED_LENGTH);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let mut rng = rand::rng();
    let mut name = prefix[..end].to_owned();
    name.extend((0..GENERATED_LENGTH).map(|_| ALPHABET[rng.random_range(0..ALPHABET.len())] as char));
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_name_is_the_prefix_and_five_letters() {
        let name = generated("web-");
        assert_eq!(name.len(), 9);
        assert!(
            name.starts_with("web-") && name[4..].bytes().all(|b| ALPHABET.contains(&b)),
            "{name}"
        );
        assert_eq!(generated(&"x".repeat(80)).len(), NAME_MAX);
    }
}
