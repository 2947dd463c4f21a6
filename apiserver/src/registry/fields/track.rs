//! Updates of every sort (create, replace, the patches): who changed a field owns it from then on.
//! Semantics: structured-merge-diff/merge/update.go (v6) and managedfields/internal/fieldmanager.go (1.36).

use serde_json::{Map, Value};

use super::managed::{Entry, Managed, Operation};
use super::{Form, compare::Comparison};
use crate::schema;

const FIELD: &str = "managedFields";

pub(super) fn list(object: &Map<String, Value>) -> Option<&Value> {
    object.get("metadata")?.get(FIELD)
}

pub(super) fn set_list(object: &mut Map<String, Value>, managed: Managed) {
    let list = managed.encode();
    let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(metadata) = metadata {
        if list.is_empty() {
            metadata.remove(FIELD);
        } else {
            metadata.insert(FIELD.into(), Value::Array(list));
        }
    }
}

/// Gives `new` its managedFields. `live` is absent at a create. Never refuses: what cannot be tracked is not.
pub fn track(form: &Form<'_>, live: Option<&Map<String, Value>>, new: &mut Map<String, Value>) {
    let owned = live.and_then(list);
    let sent = list(new);
    let says_nothing = sent.is_none() || sent == owned || !form.subresource.is_empty();
    let change = live.and_then(|live| form.compare(live, new, &form.api_version()));
    if says_nothing && change.as_ref().is_some_and(Comparison::is_empty) {
        // Most writes of a settled cluster change nothing: their list is not even read.
        return put_back(new, owned.cloned());
    }
    let live_managed = || Managed::decode(owned).unwrap_or_default();
    // What a client sends counts only where it changes something and can be read; through a subresource it never does.
    let managed = if says_nothing {
        live_managed()
    } else if sent.is_some_and(is_reset) {
        Managed::default()
    } else {
        match Managed::decode(sent) {
            Ok(managed) if !managed.is_empty() => managed,
            _ => live_managed(),
        }
    };
    // An object that is not tracked, or whose owner said so, is not from some update on.
    if managed.is_empty() && live.is_some() {
        set_list(new, managed);
        return;
    }
    let empty;
    let live = match live {
        Some(live) => live,
        None => {
            empty = schema::zero(form.ty);
            &empty
        }
    };
    let change = change.or_else(|| form.compare(live, new, &form.api_version()));
    let managed = match change {
        Some(change) => changed(form, live, new, managed, form.manager, change),
        None => managed,
    };
    set_list(new, managed);
}

fn put_back(new: &mut Map<String, Value>, owned: Option<Value>) {
    if let Some(Value::Object(metadata)) = new.get_mut("metadata") {
        match owned {
            Some(list) => drop(metadata.insert(FIELD.into(), list)),
            None => drop(metadata.remove(FIELD)),
        }
    }
}

/// `[{}]`: the way to say that nobody owns anything.
fn is_reset(list: &Value) -> bool {
    matches!(list.as_array().map(Vec::as_slice), Some([Value::Object(entry)]) if entry.values().all(Value::is_null))
}

/// The entries after `manager` made `new` of `live`.
pub(super) fn update(
    form: &Form<'_>,
    live: &Map<String, Value>,
    new: &Map<String, Value>,
    managed: Managed,
    manager: &str,
) -> Managed {
    match form.compare(live, new, &form.api_version()) {
        Some(change) => changed(form, live, new, managed, manager, change),
        None => managed,
    }
}

fn changed(
    form: &Form<'_>,
    live: &Map<String, Value>,
    new: &Map<String, Value>,
    mut managed: Managed,
    manager: &str,
    change: Comparison,
) -> Managed {
    take_from_others(form, live, new, &mut managed, &change);
    let mut own = change.modified;
    own.add(change.added);
    form.strip(&mut own);
    if !own.is_empty() {
        let owner = form.owner(manager, Operation::Update);
        let mut entry = managed.take(&owner).unwrap_or_else(|| Entry {
            owner,
            time: None,
            set: Default::default(),
        });
        entry.set.add(own);
        entry.time = Some(form.now.clone());
        managed.0.push(entry);
    }
    managed.drop_empty();
    managed.cap();
    managed
}

/// What changed is no longer the others', each in the version of its entry.
fn take_from_others(
    form: &Form<'_>,
    live: &Map<String, Value>,
    new: &Map<String, Value>,
    managed: &mut Managed,
    change: &Comparison,
) {
    let version = form.api_version();
    let mut other: Vec<(String, Option<Comparison>)> = Vec::new();
    managed.0.retain_mut(|entry| {
        let entry_version = &entry.owner.api_version;
        let change = if *entry_version == version {
            Some(change)
        } else {
            let at = match other.iter().position(|(known, _)| known == entry_version) {
                Some(at) => at,
                None => {
                    other.push((entry_version.clone(), form.compare(live, new, entry_version)));
                    other.len() - 1
                }
            };
            other[at].1.as_ref()
        };
        let Some(change) = change else { return false };
        entry.set.subtract(&change.modified);
        entry.set.subtract(&change.added);
        entry.set.subtract(&change.removed);
        !entry.set.is_empty()
    });
}

/// Gives `new` the times of `old` where nothing but times differs between them: such a write is none.
pub fn same_but_times(old: &Map<String, Value>, new: &mut Map<String, Value>) {
    let (Some(Value::Object(was)), Some(Value::Object(is))) = (old.get("metadata"), new.get("metadata")) else {
        return;
    };
    let (Some(Value::Array(before)), Some(Value::Array(after))) = (was.get(FIELD), is.get(FIELD)) else {
        return;
    };
    let same_entry = |a: &Value, b: &Value| match (a, b) {
        (Value::Object(a), Value::Object(b)) => same_but(a, b, &["time"]),
        _ => a == b,
    };
    let same = before.len() == after.len()
        && before.iter().zip(after).all(|(a, b)| same_entry(a, b))
        && same_but(was, is, &[FIELD, "resourceVersion"])
        && same_but(old, new, &["metadata"]);
    if same {
        let before = before.clone();
        if let Some(Value::Object(metadata)) = new.get_mut("metadata") {
            metadata.insert(FIELD.into(), Value::Array(before));
        }
    }
}

/// Whether two maps are equal beside some keys.
fn same_but(a: &Map<String, Value>, b: &Map<String, Value>, but: &[&str]) -> bool {
    let counted = |map: &Map<String, Value>| map.keys().filter(|key| !but.contains(&key.as_str())).count();
    counted(a) == counted(b)
        && a.iter()
            .filter(|(key, _)| !but.contains(&key.as_str()))
            .all(|(key, value)| b.get(key) == Some(value))
}
