//! The history of a set's template, as ControllerRevisions: each holds the patch that brings its template back, which is
//! what `kubectl rollout undo` sends. The newest is the one that the set asks for; going back to an older template gives
//! the older revision a new number. Upstream: controller/history and {statefulset,daemon}/update.go (1.36).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use api::owner::{Claim, claim};
use api::selector::Labels;
use daemon::informer::Lister;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::context::{Context, Key};
use crate::guard::Guard;
use crate::pods::{matches, selects};
use crate::{Error, is_conflict, is_gone};

/// Longest beginning of a revision's name that is the set's.
const PREFIX_MAX: usize = 223;

/// As far as a set's bytes have to be read for its template.
#[derive(Deserialize)]
struct Templated {
    spec: TemplatedSpec,
}

#[derive(Deserialize)]
struct TemplatedSpec {
    template: Value,
}

/// The patch that sets the template as it is now. It is taken from the server's bytes: fields that this program has no
/// type for are part of the history too.
pub(super) fn patch<K>(entry: &daemon::Entry<K>) -> Result<Value, Error> {
    let mut template = entry.view::<Templated>()?.spec.template;
    if let Some(template) = template.as_object_mut() {
        template.insert("$patch".to_owned(), json!("replace"));
    }
    Ok(json!({"spec": {"template": template}}))
}

/// The template that a revision holds.
pub(super) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let data = &revision.data.as_ref()?.0;
    serde_json::from_value(data.pointer("/spec/template")?.clone()).ok()
}

/// Go's spelling of a value: keys sorted, and what HTML might read escaped. Hashes are of these bytes.
pub(super) fn canonical(value: &Value) -> String {
    fn write_value(value: &Value, text: &mut String) {
        match value {
            Value::Object(fields) => {
                let sorted: BTreeMap<_, _> = fields.iter().collect();
                for (at, (key, value)) in sorted.into_iter().enumerate() {
                    text.push(if at == 0 { '{' } else { ',' });
                    write!(text, "{}:", Value::from(key.as_str())).expect("a string takes all that is written");
                    write_value(value, text);
                }
                text.push_str(if fields.is_empty() { "{}" } else { "}" });
            }
            Value::Array(items) => {
                for (at, value) in items.iter().enumerate() {
                    text.push(if at == 0 { '[' } else { ',' });
                    write_value(value, text);
                }
                text.push_str(if items.is_empty() { "[]" } else { "]" });
            }
            other => write!(text, "{other}").expect("a string takes all that is written"),
        }
    }
    let mut text = String::new();
    write_value(value, &mut text);
    for (character, escape) in [
        ('<', "\\u003c"),
        ('>', "\\u003e"),
        ('&', "\\u0026"),
        ('\u{2028}', "\\u2028"),
        ('\u{2029}', "\\u2029"),
    ] {
        // These stand nowhere but inside strings.
        text = text.replace(character, escape);
    }
    text
}

/// The hash of a StatefulSet's revision: FNV-1 of the patch and the number of collisions so far.
pub(super) fn patch_hash(patch: &Value, collisions: i32) -> String {
    let text = canonical(patch) + &collisions.to_string();
    let hash = text.bytes().fold(2_166_136_261_u32, |hash, byte| {
        hash.wrapping_mul(16_777_619) ^ u32::from(byte)
    });
    safe(hash)
}

/// A number as a part of a name: no vowels and no digits that look like them, so that it never reads as a word.
pub(super) fn safe(number: u32) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let digits = number.to_string();
    let letters = digits
        .bytes()
        .map(|digit| char::from(LETTERS[usize::from(digit) % LETTERS.len()]));
    letters.collect()
}

/// Of which set a history is.
#[derive(Debug)]
pub(super) struct History<'a> {
    pub(super) context: &'a Context,
    pub(super) guard: &'a Guard,
    pub(super) key: &'a Key,
    pub(super) owner: OwnerReference,
    pub(super) deleting: bool,
}

/// What the newest revision has to be.
pub(super) struct Wanted<'a> {
    pub(super) patch: Value,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    /// The label that carries the hash.
    pub(super) label: &'static str,
    pub(super) hash: &'a (dyn Fn(i32) -> String + Sync),
}

/// What to do so that the newest revision is the wanted one.
#[derive(Debug, PartialEq)]
pub(super) enum Settle {
    Nothing(usize),
    /// It was there before: it gets a new number.
    Renumber {
        at: usize,
        to: i64,
    },
    Make {
        number: i64,
    },
}

/// Decides, over revisions from old to new.
pub(super) fn settle(revisions: &[Arc<ControllerRevision>], patch: &Value) -> Settle {
    let next = revisions.last().map_or(0, |newest| newest.revision) + 1;
    match revisions.iter().rposition(|revision| is_of(revision, patch)) {
        Some(at) if at + 1 == revisions.len() => Settle::Nothing(at),
        Some(at) => Settle::Renumber { at, to: next },
        None => Settle::Make { number: next },
    }
}

/// Whether a revision holds this patch.
pub(super) fn is_of(revision: &ControllerRevision, patch: &Value) -> bool {
    revision.data.as_ref().is_some_and(|data| data.0 == *patch)
}

/// Has the revisions without a controller indexed, by namespace.
pub(super) fn index_orphans(revisions: &Lister<ControllerRevision>) {
    revisions.index("orphans", |revision| match revision.owner() {
        None => vec![revision.namespace.to_string()],
        Some(_) => Vec::new(),
    });
}

impl History<'_> {
    fn api(&self) -> Api<ControllerRevision> {
        Api::namespaced(self.context.client.clone(), &self.key.namespace)
    }

    /// All revisions of the set, from old to new, after taking in orphans that match and letting go of what does not.
    pub(super) async fn list(
        &self,
        lister: &Lister<ControllerRevision>,
        selector: &Labels,
    ) -> Result<Vec<Arc<ControllerRevision>>, Error> {
        let owned = lister.by("owner", &self.owner.uid);
        let orphans = lister.by("orphans", &self.key.namespace).into_iter();
        let orphans = orphans.filter(|revision| !revision.deleting && selects(selector, revision));
        let mut ours = Vec::new();
        for entry in owned.into_iter().chain(orphans) {
            let revision = entry.typed()?;
            let fits = matches(selector, &revision.metadata);
            match claim(&revision.metadata, fits, &self.owner.uid, self.deleting) {
                Claim::Keep => ours.push(revision),
                Claim::Adopt => {
                    let mut owners = revision.metadata.owner_references.clone().unwrap_or_default();
                    owners.push(self.owner.clone());
                    ours.extend(self.own(&revision, &owners).await?);
                }
                Claim::Release => {
                    let mut owners = revision.metadata.owner_references.clone().unwrap_or_default();
                    owners.retain(|owner| owner.uid != self.owner.uid);
                    self.own(&revision, &owners).await?;
                }
                Claim::Ignore => {}
            }
        }
        ours.sort_by(|a, b| {
            let made = |revision: &ControllerRevision| revision.metadata.creation_timestamp.as_ref().map(|time| time.0);
            let by_number = a.revision.cmp(&b.revision).then_with(|| made(a).cmp(&made(b)));
            by_number.then_with(|| a.metadata.name.cmp(&b.metadata.name))
        });
        Ok(ours)
    }

    async fn own(
        &self,
        revision: &ControllerRevision,
        owners: &[OwnerReference],
    ) -> Result<Option<Arc<ControllerRevision>>, Error> {
        let change = json!({"metadata": {
            "uid": revision.metadata.uid, "resourceVersion": revision.metadata.resource_version, "ownerReferences": owners,
        }});
        let name = revision.metadata.name.as_deref().unwrap_or_default();
        match self
            .api()
            .patch(name, &PatchParams::default(), &Patch::Merge(change))
            .await
        {
            Ok(revision) => {
                self.guard.wrote(self.key, &revision.metadata);
                Ok(Some(Arc::new(revision)))
            }
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The wanted revision, made or renumbered where it has to be. `collisions` grows where its name is taken.
    pub(super) async fn settle(
        &self,
        revisions: &[Arc<ControllerRevision>],
        wanted: &Wanted<'_>,
        collisions: &mut i32,
    ) -> Result<Arc<ControllerRevision>, Error> {
        match settle(revisions, &wanted.patch) {
            Settle::Nothing(at) => Ok(revisions[at].clone()),
            Settle::Renumber { at, to } => {
                let mut revision = (*revisions[at]).clone();
                revision.revision = to;
                let name = revision.metadata.name.clone().unwrap_or_default();
                let revision = self.api().replace(&name, &PostParams::default(), &revision).await?;
                self.guard.wrote(self.key, &revision.metadata);
                Ok(Arc::new(revision))
            }
            Settle::Make { number } => loop {
                let revision = self.build(wanted, number, *collisions);
                match self.api().create(&PostParams::default(), &revision).await {
                    Ok(revision) => {
                        self.guard.wrote(self.key, &revision.metadata);
                        return Ok(Arc::new(revision));
                    }
                    Err(error) if is_conflict(&error) => {
                        let name = revision.metadata.name.as_deref().unwrap_or_default();
                        let there = self.api().get(name).await?;
                        let ours = api::owner::is_controlled_by(&there.metadata, &self.owner.uid);
                        // Our own, which the lister does not show yet.
                        if ours && is_of(&there, &wanted.patch) {
                            return Ok(Arc::new(there));
                        }
                        *collisions += 1;
                    }
                    Err(error) => return Err(error.into()),
                }
            },
        }
    }

    fn build(&self, wanted: &Wanted<'_>, number: i64, collisions: i32) -> ControllerRevision {
        let hash = (wanted.hash)(collisions);
        let mut prefix = self.key.name.to_string();
        prefix.truncate(PREFIX_MAX);
        let mut labels = wanted.labels.clone();
        labels.insert(wanted.label.to_owned(), hash.clone());
        ControllerRevision {
            metadata: ObjectMeta {
                name: Some(format!("{prefix}-{hash}")),
                namespace: Some(self.key.namespace.to_string()),
                labels: Some(labels),
                annotations: Some(wanted.annotations.clone()).filter(|annotations| !annotations.is_empty()),
                owner_references: Some(vec![self.owner.clone()]),
                ..Default::default()
            },
            data: Some(RawExtension(wanted.patch.clone())),
            revision: number,
        }
    }

    /// Removes revisions.
    pub(super) async fn remove<'r>(
        &self,
        revisions: impl IntoIterator<Item = &'r Arc<ControllerRevision>>,
    ) -> Result<(), Error> {
        for revision in revisions {
            let name = revision.metadata.name.as_deref().unwrap_or_default();
            match self.api().delete(name, &DeleteParams::default()).await {
                Err(error) if is_gone(&error) => {}
                answer => drop(answer?),
            }
        }
        Ok(())
    }
}

/// The oldest revisions of which no pod is, beyond the number to keep.
pub(super) fn surplus(
    revisions: &[Arc<ControllerRevision>],
    is_live: impl Fn(&ControllerRevision) -> bool,
    keep: i32,
) -> Vec<Arc<ControllerRevision>> {
    let idle: Vec<_> = revisions.iter().filter(|revision| !is_live(revision)).collect();
    let surplus = idle.len().saturating_sub(usize::try_from(keep).unwrap_or(0));
    idle.into_iter().take(surplus).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(name: &str, number: i64, data: Value) -> Arc<ControllerRevision> {
        Arc::new(ControllerRevision {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..Default::default()
            },
            data: Some(RawExtension(data)),
            revision: number,
        })
    }

    #[test]
    fn values_are_spelled_as_go_spells_them() {
        let value = json!({"b": [1, "a<b>&c", {}], "a": {"z": null, "y": []}});
        assert_eq!(
            canonical(&value),
            r#"{"a":{"y":[],"z":null},"b":[1,"a\u003cb\u003e\u0026c",{}]}"#
        );
    }

    #[test]
    fn a_number_never_reads_as_a_word() {
        assert_eq!(safe(1_234_567_890), "56789bcdf4");
    }

    #[test]
    fn hashes_differ_by_content_and_by_collisions() {
        let patch = json!({"spec": {"template": {"$patch": "replace"}}});
        assert_ne!(patch_hash(&patch, 0), patch_hash(&patch, 1));
        assert_ne!(patch_hash(&patch, 0), patch_hash(&json!({}), 0));
    }

    #[test]
    fn going_back_renumbers_and_a_new_template_makes() {
        let revisions = [revision("a", 1, json!(1)), revision("b", 2, json!(2))];
        assert_eq!(settle(&revisions, &json!(2)), Settle::Nothing(1));
        assert_eq!(settle(&revisions, &json!(1)), Settle::Renumber { at: 0, to: 3 });
        assert_eq!(settle(&revisions, &json!(3)), Settle::Make { number: 3 });
        assert_eq!(settle(&[], &json!(3)), Settle::Make { number: 1 });
    }

    #[test]
    fn the_oldest_idle_revisions_go_first() {
        let revisions: Vec<_> = (1..=5)
            .map(|number| revision(&format!("r{number}"), number, json!(number)))
            .collect();
        let live = |revision: &ControllerRevision| [1, 5].contains(&revision.revision);
        let names: Vec<_> = surplus(&revisions, live, 1)
            .iter()
            .map(|revision| revision.revision)
            .collect();
        assert_eq!(names, [2, 3]);
    }
}
