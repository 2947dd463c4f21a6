//! Claims of pods come in, with the volumes and classes that are there; whether a node will do goes out, and what has to
//! be written before a pod may be bound to it.
//! It knows neither resources nor affinities of pods, and makes no volume: it chooses among those that are there, or
//! says for which node a new one is wanted.
//! A volume is promised to one claim at most: what was promised and is not written yet is remembered in [`Promises`].

mod listed;
mod rules;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::Arc;

use api::volume::{
    NO_PROVISIONER, SELECTED_NODE, Seeker, annotation, best_match, class_of_claim, is_fully_bound, is_owned_by,
    is_reachable, volume_name, waits_for_consumer,
};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, TopologySelectorTerm};
use k8s_openapi::api::storage::v1::StorageClass;

pub use listed::Listed;
pub(crate) use rules::{VolumeBinding, VolumeRestrictions};
pub use write::{Error, Writer};

use crate::pod::Pod;

/// What there is of claims, volumes and classes.
pub trait Source: Send + Sync + Debug {
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>>;
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>>;
    fn volumes(&self) -> Vec<Arc<PersistentVolume>>;
    fn class(&self, name: &str) -> Option<Arc<StorageClass>>;
}

/// Volumes by name that decisions gave to the claims of a pod, until the API shows it.
#[derive(Debug, Default)]
pub struct Promises(HashMap<String, Promise>);

#[derive(Debug)]
struct Promise {
    pod: Arc<str>,
    claim: String,
}

impl Promises {
    /// The pod's choices are written, or were not to be.
    pub fn forget(&mut self, pod: &str) {
        self.0.retain(|_, promise| &*promise.pod != pod);
    }

    fn is_free(&self, volume: &PersistentVolume, claim: &str) -> bool {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        self.0.get(name).is_none_or(|promise| promise.claim == claim)
    }
}

/// A claim of a pod, as the pod's spec names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    pub claim: String,
    /// It is made for the pod and goes with it.
    pub own: bool,
}

/// What is to be written for one claim.
#[derive(Debug, Clone)]
pub enum Choice {
    /// This volume is kept for the claim.
    Take(Arc<PersistentVolumeClaim>, Arc<PersistentVolume>),
    /// A volume is made for it on the pod's node.
    Make(Arc<PersistentVolumeClaim>),
}

/// The claims of one pod, sorted by what is to be done.
#[derive(Debug, Default)]
struct Sorted {
    bound: Vec<Arc<PersistentVolumeClaim>>,
    /// They wait for a node.
    waiting: Vec<Arc<PersistentVolumeClaim>>,
}

/// Sorts a pod's claims, or says why it fits nowhere as long as they are as they are.
// The texts are those of pkg/scheduler/framework/plugins/volumebinding (1.36).
fn sort(pod: &Pod, source: &dyn Source) -> Result<Sorted, String> {
    let mut sorted = Sorted::default();
    let mut unbound = false;
    for Use { claim: name, own } in &pod.claims {
        let Some(claim) = source.claim(&pod.namespace, name) else {
            return Err(if *own {
                format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
            } else {
                format!("persistentvolumeclaim {name:?} not found")
            });
        };
        let status = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        if status == Some("Lost") {
            let volume = volume_name(&claim).unwrap_or_default();
            return Err(format!(
                "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
            ));
        }
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
        }
        let owner = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            uid: Some(pod.uid.to_string()),
            ..Default::default()
        };
        if *own && !is_owned_by(&claim, &owner) {
            return Err(format!(
                "PVC {}/{name} was not created for pod {} (pod is not owner)",
                pod.namespace,
                pod.key()
            ));
        }
        if is_fully_bound(&claim) {
            sorted.bound.push(claim);
        } else if volume_name(&claim).is_none() && waits_for_consumer(source.class(class_of_claim(&claim)).as_deref()) {
            sorted.waiting.push(claim);
        } else {
            unbound = true;
        }
    }
    if unbound {
        return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
    }
    // The largest wishes are the hardest: the small ones must not take what these need.
    sorted.waiting.sort_by_key(|claim| api::volume::requested(claim));
    Ok(sorted)
}

const OTHER_NODE: &str = "node(s) didn't match PersistentVolume's node affinity";
const NO_VOLUME: &str = "node(s) didn't find available persistent volumes to bind";
const GONE: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";

/// What is to be written so that the pod's claims are served on a node, or why they cannot be.
fn choose(
    sorted: &Sorted,
    source: &dyn Source,
    volumes: &[Arc<PersistentVolume>],
    promises: &Promises,
    node: (&str, &BTreeMap<String, String>),
) -> Result<Vec<Choice>, &'static str> {
    let (node_name, labels) = node;
    for claim in &sorted.bound {
        let volume = volume_name(claim).and_then(|name| source.volume(name)).ok_or(GONE)?;
        if !is_reachable(&volume, labels) {
            return Err(OTHER_NODE);
        }
    }
    let mut choices: Vec<Choice> = Vec::new();
    for claim in &sorted.waiting {
        if let Some(selected) = annotation(&claim.metadata, SELECTED_NODE) {
            // It is being made there.
            if selected != node_name {
                return Err(NO_VOLUME);
            }
            choices.push(Choice::Make(claim.clone()));
            continue;
        }
        let key = key(claim);
        let taken = |volume: &PersistentVolume| {
            choices
                .iter()
                .any(|choice| matches!(choice, Choice::Take(_, have) if have.metadata.name == volume.metadata.name))
        };
        let free = volumes
            .iter()
            .filter(|volume| promises.is_free(volume, &key) && !taken(volume))
            .map(|volume| &**volume);
        let found = best_match(claim, free, Seeker::Node(labels)).and_then(|found| found.metadata.name.clone());
        let found = volumes
            .iter()
            .find(|volume| found.is_some() && volume.metadata.name == found);
        if let Some(volume) = found {
            choices.push(Choice::Take(claim.clone(), volume.clone()));
            continue;
        }
        let class = source.class(class_of_claim(claim)).ok_or(NO_VOLUME)?;
        let makes = class.provisioner != NO_PROVISIONER && is_allowed(class.allowed_topologies.as_deref(), labels);
        if !makes {
            return Err(NO_VOLUME);
        }
        choices.push(Choice::Make(claim.clone()));
    }
    Ok(choices)
}

fn is_allowed(terms: Option<&[TopologySelectorTerm]>, labels: &BTreeMap<String, String>) -> bool {
    let terms = terms.unwrap_or_default();
    let holds = |term: &TopologySelectorTerm| {
        let mut wanted = term.match_label_expressions.iter().flatten();
        wanted.all(|wanted| labels.get(&wanted.key).is_some_and(|have| wanted.values.contains(have)))
    };
    terms.is_empty() || terms.iter().any(holds)
}

fn key(claim: &PersistentVolumeClaim) -> String {
    let of = |value: &Option<String>| value.clone().unwrap_or_default();
    format!("{}/{}", of(&claim.metadata.namespace), of(&claim.metadata.name))
}

/// The choices for a pod that was decided to go to a node, promised from now on.
pub fn reserve(
    pod: &Pod,
    node: (&str, &BTreeMap<String, String>),
    source: &dyn Source,
    promises: &mut Promises,
) -> Vec<Choice> {
    if pod.claims.is_empty() {
        return Vec::new();
    }
    // What the rules found a moment ago under the same lock is found again.
    let Ok(sorted) = sort(pod, source) else {
        return Vec::new();
    };
    let choices = choose(&sorted, source, &source.volumes(), promises, node).unwrap_or_default();
    for choice in &choices {
        if let Choice::Take(claim, volume) = choice {
            let promise = Promise {
                pod: pod.uid.clone(),
                claim: key(claim),
            };
            promises
                .0
                .insert(volume.metadata.name.clone().unwrap_or_default(), promise);
        }
    }
    choices
}
