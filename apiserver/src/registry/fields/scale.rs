//! Between a workload and its Scale: who owns `spec.replicas` here owns it there.
//! Semantics: apimachinery/pkg/util/managedfields/scalehandler.go (1.36).

use serde_json::{Map, Value};

use super::element::Element;
use super::managed::{Entry, Managed};
use super::set::Set;
use super::track::{list, set_list};

const SCALE: &str = "autoscaling/v1";

/// Where the replicas are, in a Scale and in every workload of ours.
fn replicas() -> [Element; 2] {
    [Element::field("spec"), Element::field("replicas")]
}

/// The managedFields of a workload's Scale: the owners of its replicas.
pub fn scale_entries(workload: &Map<String, Value>, scale: &mut Map<String, Value>) {
    let path = replicas();
    let managed = Managed::decode(list(workload)).unwrap_or_default();
    let entries = managed
        .0
        .into_iter()
        .filter(|entry| entry.set.has(&path))
        .map(|mut entry| {
            entry.owner.api_version = SCALE.into();
            entry.set = Set::of(&path);
            entry
        });
    set_list(scale, Managed(entries.collect()));
}

/// Gives the workload, which is of `api_version`, the owners that its Scale has now.
pub fn workload_entries(api_version: &str, scale: &Map<String, Value>, workload: &mut Map<String, Value>) {
    let path = replicas();
    let managed = Managed::decode(list(workload)).unwrap_or_default();
    let mut scaled = Managed::decode(list(scale)).unwrap_or_default();
    let mut left = Managed::default();
    for mut entry in managed.0 {
        if entry.set.has(&path) {
            // In a Scale every entry is of the Scale's version.
            let known = scaled.0.iter().position(|other| {
                let mut owner = other.owner.clone();
                owner.api_version = entry.owner.api_version.clone();
                entry.owner.is(&owner)
            });
            match known {
                Some(at) => {
                    let other = scaled.0.remove(at);
                    if other.time.is_some() {
                        entry.time = other.time;
                    }
                }
                None => entry.set.subtract(&Set::of(&path)),
            }
        }
        left.0.push(entry);
    }
    for other in scaled.0 {
        if other.set.has(&path) {
            let mut owner = other.owner;
            owner.api_version = api_version.to_owned();
            left.0.push(Entry {
                owner,
                time: other.time,
                set: Set::of(&path),
            });
        }
    }
    left.drop_empty();
    set_list(workload, left);
}
