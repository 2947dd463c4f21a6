//! Who owns which field: managedFields, and server-side apply, which merges by ownership.
//! Comes in: an object as it is and as a writer wants it, both in the version of the request. Goes out: the object with
//! its managedFields, or a refusal that names the conflicts. It knows no HTTP, no store and no kind, only types.
//! Holds: who changes a field owns it; who applies takes nothing from others unless told to; applying twice changes nothing.

mod apply;
mod compare;
mod element;
mod managed;
mod merge;
#[cfg(test)]
mod properties;
mod scale;
mod set;
mod shape;
#[cfg(test)]
mod tests;
mod track;
mod validate;

use std::borrow::Cow;
use std::sync::LazyLock;

use serde_json::{Map, Value};

pub use apply::apply;
pub use scale::{scale_entries, workload_entries};
pub use track::{same_but_times, track};

use crate::object::Object;
use crate::registry::Row;
use crate::schema::{self, Gvk, TypeRef};
use crate::strategy::{Reset, meta};
use compare::Comparison;
use managed::{Operation, Owner};
use set::Set;
use shape::Shape;

/// The ways in which a write is accounted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By<'a> {
    /// An update of any sort by this manager.
    Manager(&'a str),
    /// The change itself says who owns what.
    Change,
}

/// What a version of an object is called, and how to get there from the one of the request.
pub trait Versions: Sync + std::fmt::Debug {
    /// `None` for a version that cannot be had: what was owned in it is nobody's.
    fn convert(&self, object: &Map<String, Value>, api_version: &str) -> Option<Map<String, Value>>;
}

/// A write, as far as ownership goes.
#[derive(Debug)]
pub struct Form<'a> {
    /// The kind and version that the objects are in.
    pub gvk: Gvk<'a>,
    pub ty: TypeRef,
    pub subresource: &'a str,
    pub reset: Reset,
    pub manager: &'a str,
    /// In the API's letters.
    pub now: String,
    pub versions: &'a dyn Versions,
}

/// What a write cannot change gives no ownership either.
fn cut(reset: Reset, set: &mut Set) {
    match reset {
        _ if set.is_empty() => {}
        Reset::Paths([]) => {}
        Reset::Paths(paths) => set.subtract_trees(&Set::of_fields(paths)),
        Reset::AllBut(paths) => set.keep_trees(&Set::of_fields(paths)),
    }
}

/// What the system writes, and what only names the object: nobody owns it.
static SYSTEM: LazyLock<Set> = LazyLock::new(|| Set::of_fields(SYSTEM_PATHS));
const SYSTEM_PATHS: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "clusterName"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

impl Form<'_> {
    fn shape(&self) -> Shape {
        Shape::object(self.ty)
    }
    fn api_version(&self) -> String {
        self.gvk.api_version()
    }
    fn owner(&self, manager: &str, operation: Operation) -> Owner {
        Owner {
            manager: if manager.is_empty() { "unknown" } else { manager }.to_owned(),
            operation,
            subresource: self.subresource.to_owned(),
            api_version: self.api_version(),
        }
    }
    fn strip(&self, set: &mut Set) {
        set.subtract(&SYSTEM);
    }
    /// The object in another version, with what that version's type is.
    fn in_version<'o>(
        &self,
        object: &'o Map<String, Value>,
        api_version: &str,
    ) -> Option<(Shape, Cow<'o, Map<String, Value>>)> {
        if api_version == self.api_version() {
            return Some((self.shape(), Cow::Borrowed(object)));
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let ty = schema::type_of(group, version, self.gvk.kind)?;
        Some((
            Shape::object(ty),
            Cow::Owned(self.versions.convert(object, api_version)?),
        ))
    }
    fn compare(&self, old: &Map<String, Value>, new: &Map<String, Value>, api_version: &str) -> Option<Comparison> {
        let (shape, was) = self.in_version(old, api_version)?;
        let (_, is) = self.in_version(new, api_version)?;
        let mut comparison = compare::compare(shape, &was, &is);
        comparison.each(|set| cut(self.reset, set));
        Some(comparison)
    }
}

/// The versions of a row.
#[derive(Debug)]
pub struct RowVersions<'a> {
    pub row: &'a Row,
}

impl Versions for RowVersions<'_> {
    fn convert(&self, object: &Map<String, Value>, api_version: &str) -> Option<Map<String, Value>> {
        let row = self.row;
        let mut object = Object(object.clone());
        if api_version == &*row.stored_as {
            row.to_stored(&mut object);
            return Some(object.0);
        }
        row.to_stored(&mut object);
        match row
            .versions
            .iter()
            .find(|version| row.api_version(version) == api_version)
        {
            Some(version) => row.from_stored(&mut object, version),
            // Known and not served: whatever it calls by the same name is still its owner's.
            None => drop(object.0.insert("apiVersion".into(), api_version.into())),
        }
        Some(object.0)
    }
}

/// The managedFields of an object that the server makes itself, in its stored form.
pub fn born(row: &Row, manager: &str, now: jiff::Timestamp, new: &mut Object) {
    let (group, version) = row.stored_as.split_once('/').unwrap_or(("", &row.stored_as));
    let gvk = Gvk {
        group,
        version,
        kind: &row.kind,
    };
    let Some(ty) = schema::type_of(gvk.group, gvk.version, gvk.kind) else {
        return;
    };
    let form = Form {
        gvk,
        ty,
        subresource: "",
        reset: row.reset(""),
        manager,
        now: meta::seconds(now),
        versions: &RowVersions { row },
    };
    track(&form, None, &mut new.0);
}

/// A kind that is served in one version.
#[derive(Debug, Clone, Copy)]
pub struct OneVersion;

impl Versions for OneVersion {
    fn convert(&self, _object: &Map<String, Value>, _api_version: &str) -> Option<Map<String, Value>> {
        None
    }
}
