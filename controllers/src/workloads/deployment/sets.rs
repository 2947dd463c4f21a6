//! Words about a Deployment's ReplicaSets: which is the new one, which revision each has, how it is annotated.

use std::collections::BTreeMap;

use api::int_or_string::{Round, rolling, scaled};
use api::names::well_known::{
    DEPLOYMENT_DESIRED_REPLICAS, DEPLOYMENT_MAX_REPLICAS, DEPLOYMENT_REVISION, DEPLOYMENT_REVISION_HISTORY,
    LAST_APPLIED, POD_TEMPLATE_HASH,
};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The longest history of revisions that a set carries, in bytes.
const HISTORY: usize = 2000;

pub(super) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|status| status.available_replicas)
        .unwrap_or(0)
}

/// The pods that the set said it has.
pub(super) fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

pub(super) fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The set's revision; zero where it has none.
pub(super) fn revision(set: &ReplicaSet) -> i64 {
    annotation(&set.metadata, DEPLOYMENT_REVISION)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// Whether the set was made from the Deployment's present template. The hash is left out: it may be another version's.
pub(super) fn same_template(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let Some(spec) = &deployment.spec else { return false };
    let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    template.is_some_and(|template| bare(template) == bare(&spec.template))
}

fn bare(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(metadata) = &mut template.metadata {
        if let Some(labels) = &mut metadata.labels {
            labels.remove(POD_TEMPLATE_HASH);
        }
        // Absent and empty are the same.
        metadata.labels = metadata.labels.take().filter(|labels| !labels.is_empty());
    }
    template.metadata = template.metadata.filter(|metadata| *metadata != ObjectMeta::default());
    template
}

/// Limits of a rolling update, as pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) surge: i32,
    pub(super) unavailable: i32,
}

pub(super) fn is_rolling(spec: &DeploymentSpec) -> bool {
    let kind = spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
    kind != Some("Recreate")
}

pub(super) fn limits(spec: &DeploymentSpec) -> Limits {
    let wanted = spec.replicas.unwrap_or(1);
    if !is_rolling(spec) {
        return Limits {
            surge: 0,
            unavailable: 0,
        };
    }
    let quarter = IntOrString::String("25%".to_owned());
    let update = spec
        .strategy
        .as_ref()
        .and_then(|strategy| strategy.rolling_update.as_ref());
    let surge = update.and_then(|update| update.max_surge.as_ref()).unwrap_or(&quarter);
    let unavailable = update
        .and_then(|update| update.max_unavailable.as_ref())
        .unwrap_or(&quarter);
    // Validation lets nothing in that cannot be read; a pod at a time is right for anything.
    let (_, unavailable) = rolling(surge, unavailable, wanted).unwrap_or((0, 1));
    Limits {
        surge: scaled(surge, wanted, Round::Up).unwrap_or(0),
        unavailable: unavailable.min(wanted).max(0),
    }
}

/// The annotations that a set does not take from its Deployment.
const OWN: [&str; 6] = [
    LAST_APPLIED,
    DEPLOYMENT_REVISION,
    DEPLOYMENT_REVISION_HISTORY,
    DEPLOYMENT_DESIRED_REPLICAS,
    DEPLOYMENT_MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// Gives the new set the annotations of its Deployment, and the revision.
pub(super) fn annotate(deployment: &Deployment, set: &mut ReplicaSet, next: i64) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !OWN.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let old = annotations.get(DEPLOYMENT_REVISION).cloned();
    let number = old.as_deref().and_then(|old| old.parse::<i64>().ok()).unwrap_or(0);
    if number < next {
        annotations.insert(DEPLOYMENT_REVISION.to_owned(), next.to_string());
        if let Some(old) = old {
            let history = annotations.entry(DEPLOYMENT_REVISION_HISTORY.to_owned()).or_default();
            if !history.is_empty() {
                history.push(',');
            }
            history.push_str(&old);
            while history.len() > HISTORY {
                match history.find(',') {
                    Some(comma) => drop(history.drain(..=comma)),
                    None => break,
                }
            }
        }
    }
}

/// Notes what the Deployment wants, so that a later change of its size can be told from a rollout. Says whether it changed.
pub(super) fn note_size(set: &mut ReplicaSet, wanted: i32, most: i32) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(DEPLOYMENT_DESIRED_REPLICAS.to_owned(), wanted.to_string());
    annotations.insert(DEPLOYMENT_MAX_REPLICAS.to_owned(), most.to_string());
}

/// A new set for the present template, with no pods yet.
pub(super) fn new_set(deployment: &Deployment, spec: &DeploymentSpec) -> ReplicaSet {
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(POD_TEMPLATE_HASH.to_owned(), hash.clone());
    let labels: BTreeMap<_, _> = labels.clone();
    let mut selector = spec.selector.clone();
    let pairs = selector.match_labels.get_or_insert_default();
    pairs.insert(POD_TEMPLATE_HASH.to_owned(), hash.clone());
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![api::owner::controller_reference(deployment)]),
            ..Default::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// A short name for a template. Upstream hashes Go's view of it, so the names differ from upstream's; templates are
/// compared, never hashes.
pub(in crate::workloads) fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    struct Fnv(u32);
    impl std::io::Write for Fnv {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            for byte in bytes {
                self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(16_777_619);
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut fnv = Fnv(2_166_136_261);
    serde_json::to_writer(&mut fnv, template).expect("a template that was read can be written");
    if let Some(collisions) = collisions {
        std::io::Write::write_all(&mut fnv, &collisions.to_le_bytes()).expect("hashing does not fail");
    }
    crate::workloads::revisions::safe(fnv.0)
}
