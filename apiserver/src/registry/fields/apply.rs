//! Server-side apply: the applier's whole opinion over what is there. What it said last time and no longer says goes,
//! unless somebody else has it too; what another owns differently is a conflict.
//! Semantics: structured-merge-diff/merge/update.go (v6) and managedfields/internal/{structuredmerge,lastapplied*}.go.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::compare;
use super::managed::{Entry, Managed, Operation, Owner};
use super::merge::{merge, remove, set_of};
use super::set::Set;
use super::track::{self, list, set_list};
use super::{Form, validate::validate};
use crate::schema::{self, Patched};
use crate::status::{Cause, Details, Reason, Status};

/// Who owns what was there before anybody applied.
const BEFORE: &str = "before-first-apply";
/// The one manager that takes over from its own client-side apply.
const KUBECTL: &str = "kubectl";
pub(super) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// What the applier makes of `live` (absent where there is no object yet), with its managedFields.
pub fn apply(
    form: &Form<'_>,
    live: Option<&Map<String, Value>>,
    config: &Map<String, Value>,
    force: bool,
) -> Result<Map<String, Value>, Status> {
    let said = |name: &str| config.get(name).and_then(Value::as_str).unwrap_or("");
    let (group, version) = said("apiVersion").split_once('/').unwrap_or(("", said("apiVersion")));
    if (group, version, said("kind")) != (form.gvk.group, form.gvk.version, form.gvk.kind) {
        return Err(Status::bad_request(format!(
            "invalid object type: {group}/{version}, Kind={}",
            said("kind")
        )));
    }
    let managed = Managed::decode(live.and_then(list))
        .map_err(|why| without_reason(format!("failed to decode managed fields: {why}")))?;
    let live_object = match live {
        Some(live) => without_list(live),
        None => schema::zero(form.ty),
    };
    let live_object = &live_object;
    let managed = if managed.is_empty() && live.is_some() {
        track::update(form, &schema::zero(form.ty), live_object, managed, BEFORE)
    } else {
        managed
    };
    let outcome = match attempt(form, live_object, config, managed.clone(), force) {
        Err(Refused::Conflicts(conflicts)) if form.manager == KUBECTL => {
            match after_client_side(form, live_object, &conflicts) {
                Some(left) if left.is_empty() => attempt(form, live_object, config, managed, true),
                Some(left) => Err(Refused::Conflicts(left)),
                None => Err(Refused::Conflicts(conflicts)),
            }
        }
        outcome => outcome,
    };
    let (merged, managed) = outcome.map_err(Refused::status)?;
    let is_same = merged == *live_object && live.is_some();
    let mut new = if is_same {
        live_object.clone()
    } else {
        typed(form, merged)?
    };
    if form.manager == KUBECTL {
        sync_last_applied(&mut new, config);
    }
    set_list(&mut new, managed);
    Ok(new)
}

/// managedFields are not merged: they are what merging is decided by.
fn without_list(live: &Map<String, Value>) -> Map<String, Value> {
    let mut live = live.clone();
    if let Some(Value::Object(metadata)) = live.get_mut("metadata") {
        metadata.remove("managedFields");
    }
    live
}

/// From a merged tree to what a client could have sent.
fn typed(form: &Form<'_>, merged: Map<String, Value>) -> Result<Map<String, Value>, Status> {
    let (mut object, _) = schema::check(form.ty, form.gvk, Patched::Text, &Value::Object(merged)).map_err(|why| {
        without_reason(format!(
            "failed to convert merged object at version {}: {why}",
            form.api_version()
        ))
    })?;
    schema::default(form.ty, &mut object.0);
    Ok(object.0)
}

/// Upstream's own word for these: nobody there gives them a code or a reason.
fn without_reason(message: String) -> Status {
    Status {
        code: 500,
        reason: Reason::Unknown,
        message,
        details: None,
        continue_token: None,
    }
}

#[derive(Debug)]
enum Refused {
    Conflicts(Vec<(Owner, Set)>),
    Status(Status),
}

impl Refused {
    fn status(self) -> Status {
        match self {
            Refused::Status(status) => status,
            Refused::Conflicts(conflicts) => conflict(&conflicts),
        }
    }
}

/// As `kind.NN` in upstream's refusals: `default/web; apps/v1, Kind=Deployment`.
fn about(form: &Form<'_>, object: &Map<String, Value>) -> String {
    let text = |name: &str| {
        object
            .get("metadata")
            .and_then(|m| m.get(name))
            .and_then(Value::as_str)
            .unwrap_or("")
    };
    let gvk = form.gvk;
    format!(
        "{}/{}; {}/{}, Kind={}",
        text("namespace"),
        text("name"),
        gvk.group,
        gvk.version,
        gvk.kind
    )
}

fn attempt(
    form: &Form<'_>,
    live: &Map<String, Value>,
    config: &Map<String, Value>,
    mut managed: Managed,
    force: bool,
) -> Result<(Map<String, Value>, Managed), Refused> {
    if config
        .get("metadata")
        .and_then(|m| m.get("managedFields"))
        .is_some_and(|m| !m.is_null())
    {
        return Err(Refused::Status(Status::bad_request(
            "metadata.managedFields must be nil",
        )));
    }
    let shape = form.shape();
    validate(shape, config, false).map_err(|why| {
        Refused::Status(without_reason(format!(
            "failed to create typed patch object ({}): {why}",
            about(form, config)
        )))
    })?;
    validate(shape, live, true).map_err(|why| {
        Refused::Status(without_reason(format!(
            "failed to create typed live object ({}): {why}",
            about(form, live)
        )))
    })?;
    let merged = merge(shape, live, config);
    let mut own = set_of(shape, config);
    super::cut(form.reset, &mut own);
    let owner = form.owner(form.manager, Operation::Apply);
    let last = managed.take(&owner);
    managed.0.push(Entry {
        owner: owner.clone(),
        time: last.as_ref().and_then(|last| last.time.clone()),
        set: own,
    });
    let new = match &last {
        Some(last) if !last.set.is_empty() => prune(form, merged, &managed, last),
        _ => merged,
    };
    let conflicts = settle(form, live, &new, &mut managed, &owner);
    if !force && !conflicts.is_empty() {
        return Err(Refused::Conflicts(conflicts));
    }
    if let Some(mut entry) = managed.take(&owner) {
        form.strip(&mut entry.set);
        let says_the_same = last.as_ref().is_some_and(|last| {
            last.set == entry.set && last.owner.api_version == entry.owner.api_version && last.time.is_some()
        });
        if !says_the_same || new != *live {
            entry.time = Some(form.now.clone());
        }
        managed.0.push(entry);
    }
    managed.drop_empty();
    Ok((new, managed))
}

/// Takes what changes from the others, who are told.
fn settle(
    form: &Form<'_>,
    live: &Map<String, Value>,
    new: &Map<String, Value>,
    managed: &mut Managed,
    owner: &Owner,
) -> Vec<(Owner, Set)> {
    let mut changes: BTreeMap<String, Option<compare::Comparison>> = BTreeMap::new();
    let mut conflicts = Vec::new();
    managed.0.retain_mut(|entry| {
        if entry.owner.is(owner) {
            return true;
        }
        let version = entry.owner.api_version.clone();
        let change = changes
            .entry(version)
            .or_insert_with_key(|version| form.compare(live, new, version));
        let Some(change) = change else { return false };
        let mut theirs = entry.set.intersection(&change.modified);
        theirs.add(entry.set.intersection(&change.added));
        if !theirs.is_empty() {
            entry.set.subtract(&theirs);
            conflicts.push((entry.owner.clone(), theirs));
        }
        entry.set.subtract(&change.removed);
        true
    });
    conflicts.sort_by(|(a, _), (b, _)| {
        (&a.manager, a.operation, &a.api_version, &a.subresource).cmp(&(
            &b.manager,
            b.operation,
            &b.api_version,
            &b.subresource,
        ))
    });
    conflicts
}

/// Without what the applier said last time, says no more, and nobody else owns.
fn prune(form: &Form<'_>, merged: Map<String, Value>, managed: &Managed, last: &Entry) -> Map<String, Value> {
    let version = last.owner.api_version.clone();
    let Some((shape, in_last)) = form.in_version(&merged, &version) else {
        return merged;
    };
    let in_last = in_last.into_owned();
    let last_set = last.set.with_named_fields(shape);
    let mut pruned = remove(shape, &in_last, &last_set);
    // Who owns what, by version; that of the last apply first, so that the others can be converted to.
    let mut owned: Vec<(String, Set)> = vec![(version.clone(), Set::default())];
    for entry in &managed.0 {
        let version = &entry.owner.api_version;
        match owned.iter_mut().find(|(known, _)| known == version) {
            Some((_, set)) => set.add(entry.set.clone()),
            None => owned.push((version.clone(), entry.set.clone())),
        }
    }
    let convert = |object: &Map<String, Value>, from: &str, to: &str| match from == to {
        true => Some(object.clone()),
        false => form.versions.convert(object, to),
    };
    let mut at = version.clone();
    let mut whole = in_last.clone();
    for (version, set) in owned {
        let Some(ty) = kind_at(form, &version) else { continue };
        let (Some(whole_there), Some(pruned_there)) = (convert(&whole, &at, &version), convert(&pruned, &at, &version))
        else {
            continue;
        };
        let mut gone = set_of(ty, &whole_there).with_named_fields(ty);
        let kept = set_of(ty, &pruned_there)
            .with_named_fields(ty)
            .union(&set.with_named_fields(ty));
        gone.subtract(&kept);
        pruned = remove(ty, &whole_there, &gone);
        whole = whole_there;
        at = version;
    }
    // Only what the applier had can go by this.
    let Some(pruned) = convert(&pruned, &at, &version) else {
        return merged;
    };
    let mut gone = set_of(shape, &in_last).with_named_fields(shape);
    gone.subtract(&set_of(shape, &pruned).with_named_fields(shape));
    let pruned = remove(shape, &in_last, &gone.intersection(&last_set));
    convert(&pruned, &version, &form.api_version()).unwrap_or(merged)
}

fn kind_at(form: &Form<'_>, api_version: &str) -> Option<super::Shape> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if (group, version) == (form.gvk.group, form.gvk.version) {
        return Some(form.shape());
    }
    schema::type_of(group, version, form.gvk.kind).map(super::Shape::object)
}

fn conflict(conflicts: &[(Owner, Set)]) -> Status {
    let mut causes = Vec::new();
    let mut lines: Vec<String> = Vec::new();
    let mut single = String::new();
    for (owner, set) in conflicts {
        let who = owner.shown();
        lines.push(format!("conflicts with {who}:"));
        for path in set.paths() {
            lines.push(format!("- {path}"));
            single = format!("conflict with {who}: {path}");
            causes.push(Cause {
                reason: "FieldManagerConflict",
                message: format!("conflict with {who}"),
                field: path,
            });
        }
    }
    let message = match causes.len() {
        1 => format!("Apply failed with 1 conflict: {single}"),
        many => format!("Apply failed with {many} conflicts: {}", lines.join("\n")),
    };
    Status {
        code: 409,
        reason: Reason::Conflict,
        message,
        details: Some(Box::new(Details {
            causes,
            ..Details::default()
        })),
        continue_token: None,
    }
}

fn last_applied(object: &Map<String, Value>) -> Option<&str> {
    let text = object
        .get("metadata")?
        .get("annotations")?
        .get(LAST_APPLIED)?
        .as_str()?;
    (!text.is_empty()).then_some(text)
}

/// The conflicts that are left when kubectl gets what its client-side apply wrote and nobody changed since. `None`
/// where there was none, or nothing that can be read.
fn after_client_side(
    form: &Form<'_>,
    live: &Map<String, Value>,
    conflicts: &[(Owner, Set)],
) -> Option<Vec<(Owner, Set)>> {
    let Ok(Value::Object(config)) = serde_json::from_str(last_applied(live)?) else {
        return None;
    };
    if config.get("apiVersion").and_then(Value::as_str) != Some(&form.api_version()) {
        return None;
    }
    let shape = form.shape();
    validate(shape, &config, false).ok()?;
    let change = compare::compare(shape, &config, live);
    let mut allowed = set_of(shape, &config);
    allowed.subtract(&change.modified);
    allowed.subtract(&change.added);
    allowed.subtract(&change.removed);
    let left = conflicts.iter().filter_map(|(owner, set)| {
        let mut set = set.clone();
        set.subtract(&allowed);
        (!set.is_empty()).then(|| (owner.clone(), set))
    });
    Some(left.collect())
}

/// Keeps kubectl's annotation, where there is one, at what was applied: a client-side apply may follow.
fn sync_last_applied(new: &mut Map<String, Value>, config: &Map<String, Value>) {
    if last_applied(new).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(Value::Object(annotations)) = config.get_mut("metadata").and_then(|m| m.get_mut("annotations")) {
        annotations.remove(LAST_APPLIED);
    }
    let text = format!("{}\n", Value::Object(config));
    if let Some(Value::Object(annotations)) = new.get_mut("metadata").and_then(|m| m.get_mut("annotations")) {
        annotations.insert(LAST_APPLIED.into(), text.into());
        let size: usize = annotations
            .iter()
            .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
            .sum();
        if size > ANNOTATIONS_MAX {
            annotations.remove(LAST_APPLIED);
        }
    }
}
