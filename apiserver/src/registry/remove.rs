//! Delete: grace, finalizers and what happens to dependents.
//! Upstream: Store.Delete in apiserver/pkg/registry/generic/registry/store.go and rest.BeforeDelete (1.36).

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::write::{self, Context, Gate, Stored, Write};
use super::{Registry, Row, from_store};
use crate::cache::{Filter, Item};
use crate::object::Object;
use crate::status::Status;
use crate::store::{self, Entry, Expect, Revision};
use crate::strategy::{Propagation, meta};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// Deletes of one collection that are under way together.
const AT_ONCE: usize = 32;

/// DeleteOptions.
#[derive(Debug, Default, Clone)]
pub struct Delete {
    pub grace_seconds: Option<i64>,
    /// Preconditions.
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    /// `None`: the kind's default.
    pub propagation: Option<Propagation>,
    pub dry_run: bool,
    /// The client knows that a deletion may take time: it is told 202 where it does.
    pub accepted: bool,
}

/// What a delete came to.
#[derive(Debug, Clone)]
pub enum Removed {
    /// The object is gone; this is what it was.
    Gone { last: Stored, uid: String },
    /// The object lives on with a deletionTimestamp.
    Pending(Stored),
}

/// What one look at the object decided.
#[derive(Debug)]
enum Step {
    /// Nothing to do: its deletion is under way.
    Nothing,
    /// Write the marked object and leave the rest to whoever holds it.
    Mark(Object),
    Remove,
}

impl Registry {
    pub async fn delete(
        &self,
        row: &Row,
        context: &Context<'_>,
        name: &str,
        options: &Delete,
        gate: &dyn Gate,
    ) -> Result<Removed, Status> {
        let key = row.cache()?.key(context.namespace, name);
        let mut current = self.store.get(&key).await.map_err(from_store)?;
        loop {
            let Some(entry) = current else {
                return Err(Status::not_found(row.about(), name));
            };
            let old = row.decode(&entry)?;
            preconditions(row, name, options, &old, &entry)?;
            gate.validate(name, None, Some(&old)).await?;
            let outcome = match plan(row, options, &old, context.now) {
                Step::Nothing => {
                    return Ok(Removed::Pending(stored(entry)));
                }
                Step::Mark(marked) => self.mark(row, context, &entry, marked).await?,
                Step::Remove => self.erase(context.dry_run, &entry, old.uid()).await?,
            };
            match outcome {
                Some(removed) => {
                    let is_gone = matches!(removed, Removed::Gone { .. });
                    gate.finish(&old, Some(&old), Write::Delete, is_gone && !context.dry_run)
                        .await;
                    return Ok(removed);
                }
                None => current = self.store.get(&key).await.map_err(from_store)?,
            }
        }
    }

    /// `None`: somebody else wrote in between.
    async fn mark(
        &self,
        row: &Row,
        context: &Context<'_>,
        entry: &Entry,
        mut marked: Object,
    ) -> Result<Option<Removed>, Status> {
        let value = row.encode(&mut marked);
        let pending = |revision| {
            Ok(Some(Removed::Pending(Stored {
                value: value.clone(),
                revision: Some(revision),
                created: false,
            })))
        };
        if context.dry_run || value == entry.value {
            return pending(entry.revision);
        }
        let expect = Expect::At(entry.revision);
        match self
            .store
            .put(
                &entry.key,
                value.clone(),
                expect,
                write::options(row, context.namespace),
            )
            .await
        {
            Ok(revision) => pending(revision),
            Err(store::Error::Conflict { .. }) => Ok(None),
            Err(error) => Err(from_store(error)),
        }
    }

    async fn erase(&self, dry_run: bool, entry: &Entry, uid: &str) -> Result<Option<Removed>, Status> {
        let gone = |revision: Revision| {
            let mut last = stored(entry.clone());
            last.revision = Some(revision);
            Ok(Some(Removed::Gone {
                last,
                uid: uid.to_owned(),
            }))
        };
        if dry_run {
            return gone(entry.revision);
        }
        match self.store.delete(&entry.key, entry.revision).await {
            Ok(revision) => gone(revision),
            Err(store::Error::Conflict { .. }) => Ok(None),
            Err(error) => Err(from_store(error)),
        }
    }

    /// Deletes what the filter selects, as it was when this was called, and returns it.
    pub async fn delete_collection(
        &self,
        row: &Row,
        context: &Context<'_>,
        filter: &Filter,
        options: &Delete,
        gate: &dyn Gate,
    ) -> Result<Vec<Stored>, Status> {
        let cache = row.cache()?;
        cache.fresh().await.map_err(super::read::from_cache)?;
        let items = cache.snapshot().list(filter);
        // Many at a time: the store joins their writes.
        stream::iter(items)
            .map(|item| async move { self.delete_listed(row, context, &item, options, gate).await })
            .buffered(AT_ONCE)
            .try_filter_map(|deleted| std::future::ready(Ok(deleted)))
            .try_collect()
            .await
    }

    /// `None`: somebody else was first.
    async fn delete_listed(
        &self,
        row: &Row,
        context: &Context<'_>,
        item: &Item,
        options: &Delete,
        gate: &dyn Gate,
    ) -> Result<Option<Stored>, Status> {
        let name = &*item.facts.name;
        // Not more than what was listed: an object made under the same name since then stays.
        let mut options = options.clone();
        options.uid.get_or_insert_with(|| item.facts.uid.to_string());
        match self.delete(row, context, name, &options, gate).await {
            Ok(Removed::Gone { last, .. } | Removed::Pending(last)) => Ok(Some(last)),
            Err(status) if status.code == 404 => Ok(None),
            Err(status) if status.code == 409 && self.is_gone(&item.key, &item.facts.uid).await? => Ok(None),
            Err(status) => Err(status),
        }
    }

    async fn is_gone(&self, key: &str, uid: &str) -> Result<bool, Status> {
        let entry = self.store.get(key).await.map_err(from_store)?;
        Ok(entry.is_none_or(|e| Object::from_stored(&e.value, e.revision).is_ok_and(|o| o.uid() != uid)))
    }
}

fn stored(entry: Entry) -> Stored {
    Stored {
        value: entry.value,
        revision: Some(entry.revision),
        created: false,
    }
}

fn preconditions(row: &Row, name: &str, options: &Delete, old: &Object, entry: &Entry) -> Result<(), Status> {
    let failed = |what: &str, want: &str, have: &str| {
        let why = format!("Precondition failed: {what} in precondition: {want}, {what} in object meta: {have}");
        Err(Status::conflict(row.about(), name, &why))
    };
    if let Some(uid) = &options.uid
        && uid != old.uid()
    {
        return failed("UID", uid, old.uid());
    }
    let have = entry.revision.to_string();
    match &options.resource_version {
        Some(want) if *want != have => failed("ResourceVersion", want, &have),
        _ => Ok(()),
    }
}

/// What this delete does to `old`.
fn plan(row: &Row, options: &Delete, old: &Object, now: Timestamp) -> Step {
    let grace = row.strategy.grace(old, options.grace_seconds);
    let asked = options
        .grace_seconds
        .map(|seconds| if seconds < 0 { 1 } else { seconds });
    let mut marked = old.clone();
    let mut graceful = false;
    if let Some(seconds) = grace {
        if old.is_deleting() {
            // A deletion under way can only be hurried.
            match (
                old.at(&["metadata", "deletionGracePeriodSeconds"])
                    .and_then(Value::as_i64),
                asked,
            ) {
                (None, _) => {}
                (Some(left), Some(asked)) if asked < left => {
                    let due = old
                        .str_at(&["metadata", "deletionTimestamp"])
                        .parse::<Timestamp>()
                        .unwrap_or(now);
                    let due = shifted(due, asked - left);
                    set_deletion(&mut marked, due, asked);
                    graceful = true;
                    if asked > 0 {
                        return Step::Mark(finalizers(row, options, old, marked).0);
                    }
                }
                (Some(_), _) => return Step::Nothing,
            }
        } else {
            let seconds = seconds.max(0);
            set_deletion(&mut marked, shifted(now, seconds), seconds);
            bump_generation(&mut marked);
            graceful = true;
            if seconds > 0 {
                row.strategy.prepare_delete(&mut marked);
                return Step::Mark(finalizers(row, options, old, marked).0);
            }
        }
    }
    let (mut marked, held) = finalizers(row, options, old, marked);
    if !held && row.strategy.removable(&marked) {
        return Step::Remove;
    }
    if !graceful {
        let first = !old.is_deleting();
        // Another delete of what only waits for its finalizers changes nothing but, maybe, those.
        if first {
            if marked.at(&["metadata", "deletionGracePeriodSeconds"]).is_none() {
                bump_generation(&mut marked);
            }
            let metadata = marked.metadata_mut();
            metadata.insert("deletionTimestamp".into(), meta::seconds(now).into());
            if held {
                metadata.insert("deletionGracePeriodSeconds".into(), 0.into());
            }
        }
    }
    if !old.is_deleting() {
        row.strategy.prepare_delete(&mut marked);
    }
    Step::Mark(marked)
}

/// Adds or takes away the finalizers that the garbage collector works by; says whether any finalizer is left.
fn finalizers(row: &Row, options: &Delete, old: &Object, mut marked: Object) -> (Object, bool) {
    let had: Vec<Value> = match old.at(&["metadata", "finalizers"]) {
        Some(Value::Array(list)) => list.clone(),
        _ => Vec::new(),
    };
    let has = |name: &str| had.iter().any(|f| f == name);
    let (orphan, foreground) = match options.propagation {
        Some(Propagation::Orphan) => (true, false),
        Some(Propagation::Foreground) => (false, true),
        Some(Propagation::Background) => (false, false),
        // What an earlier request or a client asked for stands.
        None if has(ORPHAN) => (true, false),
        None if has(FOREGROUND) => (false, true),
        None => match row.strategy.propagation() {
            Propagation::Orphan => (true, false),
            Propagation::Foreground => (false, true),
            Propagation::Background => (false, false),
        },
    };
    let mut list: Vec<Value> = had
        .iter()
        .filter(|f| **f != ORPHAN && **f != FOREGROUND)
        .cloned()
        .collect();
    if orphan {
        list.push(ORPHAN.into());
    }
    if foreground {
        list.push(FOREGROUND.into());
    }
    let held = !list.is_empty();
    if list != had {
        let metadata = marked.metadata_mut();
        if held {
            metadata.insert("finalizers".into(), Value::Array(list));
        } else {
            metadata.remove("finalizers");
        }
    }
    (marked, held)
}

fn set_deletion(object: &mut Object, due: Timestamp, seconds: i64) {
    let metadata = object.metadata_mut();
    metadata.insert("deletionTimestamp".into(), meta::seconds(due).into());
    metadata.insert("deletionGracePeriodSeconds".into(), seconds.into());
}

// Who watches an object whose deletion begins must look at it again.
fn bump_generation(object: &mut Object) {
    if let Some(generation) = object.at(&["metadata", "generation"]).and_then(Value::as_i64)
        && generation > 0
    {
        object
            .metadata_mut()
            .insert("generation".into(), (generation + 1).into());
    }
}

/// `time` moved by `seconds`; where that is no time any more, the far end of time.
fn shifted(time: Timestamp, seconds: i64) -> Timestamp {
    time.checked_add(SignedDuration::from_secs(seconds))
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::rows;
    use serde_json::json;

    fn row(plural: &str) -> Row {
        let resource = rows::rows().into_iter().find(|row| *row.plural == *plural).unwrap();
        Row::new(resource, None)
    }

    fn object(value: Value) -> Object {
        let Value::Object(fields) = value else {
            panic!("an object")
        };
        Object(fields)
    }

    /// What a delete does, in a word, and the metadata that matters.
    fn check(plural: &str, old: Value, options: Delete, want: &str) {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let said = match plan(&row(plural), &options, &object(old.clone()), now) {
            Step::Nothing => "nothing".to_owned(),
            Step::Remove => "remove".to_owned(),
            Step::Mark(marked) => {
                let at = |name: &str| marked.at(&["metadata", name]).cloned().unwrap_or_default();
                format!(
                    "mark {} {} {} {}",
                    at("deletionTimestamp"),
                    at("deletionGracePeriodSeconds"),
                    at("generation"),
                    at("finalizers")
                )
            }
        };
        assert_eq!(said, want, "{plural} {old} {options:?}");
    }

    fn after(seconds: i64) -> Delete {
        Delete {
            grace_seconds: Some(seconds),
            ..Delete::default()
        }
    }
    fn with(propagation: Propagation) -> Delete {
        Delete {
            propagation: Some(propagation),
            ..Delete::default()
        }
    }

    #[test]
    fn what_nothing_holds_goes_at_once() {
        check("configmaps", json!({"metadata": {}}), Delete::default(), "remove");
        check("configmaps", json!({"metadata": {}}), after(10), "remove");
        check(
            "deployments",
            json!({"metadata": {"generation": 2}}),
            with(Propagation::Background),
            "remove",
        );
    }

    #[test]
    fn finalizers_hold_and_the_generation_counts_the_mark() {
        check(
            "deployments",
            json!({"metadata": {"generation": 2, "finalizers": ["a/b"]}}),
            Delete::default(),
            r#"mark "2026-01-01T00:00:00Z" 0 3 ["a/b"]"#,
        );
        check(
            "deployments",
            json!({"metadata": {"generation": 2}}),
            with(Propagation::Foreground),
            r#"mark "2026-01-01T00:00:00Z" 0 3 ["foregroundDeletion"]"#,
        );
        check(
            "deployments",
            json!({"metadata": {"finalizers": ["foregroundDeletion"]}}),
            with(Propagation::Orphan),
            r#"mark "2026-01-01T00:00:00Z" 0 null ["orphan"]"#,
        );
        // Without a word of its own a delete keeps what an earlier one asked for.
        let waiting = json!({"metadata": {"deletionTimestamp": "2025-12-31T00:00:00Z", "deletionGracePeriodSeconds": 0, "finalizers": ["foregroundDeletion"]}});
        check(
            "deployments",
            waiting.clone(),
            Delete::default(),
            r#"mark "2025-12-31T00:00:00Z" 0 null ["foregroundDeletion"]"#,
        );
        check("deployments", waiting, with(Propagation::Background), "remove");
    }

    #[test]
    fn a_running_pod_is_given_its_time_and_can_only_be_hurried() {
        let running = json!({"metadata": {}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}, "status": {"phase": "Running"}});
        check(
            "pods",
            running.clone(),
            Delete::default(),
            r#"mark "2026-01-01T00:00:30Z" 30 null null"#,
        );
        check(
            "pods",
            running.clone(),
            after(5),
            r#"mark "2026-01-01T00:00:05Z" 5 null null"#,
        );
        check("pods", running, after(0), "remove");
        let ending = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30},
            "spec": {"nodeName": "n"}, "status": {"phase": "Running"}});
        check("pods", ending.clone(), Delete::default(), "nothing");
        check("pods", ending.clone(), after(60), "nothing");
        check(
            "pods",
            ending.clone(),
            after(10),
            r#"mark "2026-01-01T00:00:10Z" 10 null null"#,
        );
        check("pods", ending, after(0), "remove");
        let waiting = json!({"metadata": {}, "spec": {"terminationGracePeriodSeconds": 30}});
        check("pods", waiting, Delete::default(), "remove");
    }

    #[test]
    fn a_namespace_waits_for_its_own_finalizers() {
        check(
            "namespaces",
            json!({"metadata": {}, "spec": {"finalizers": ["kubernetes"]}}),
            Delete::default(),
            r#"mark "2026-01-01T00:00:00Z" null null null"#,
        );
        check(
            "namespaces",
            json!({"metadata": {}, "spec": {}}),
            Delete::default(),
            "remove",
        );
    }
}
