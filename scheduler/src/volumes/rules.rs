//! The rules about volumes, in the shape of the others.

use super::{choose, sort};
use crate::cluster::Cluster;
use crate::pod::Pod;
use crate::rules::{Check, Event, Plugin, Reach, Refusal};

const ALONE: &str = "ReadWriteOncePod";

/// A claim that one pod alone may use is used by no other.
#[derive(Debug)]
pub(crate) struct VolumeRestrictions;

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }
    fn reach(&self) -> Reach {
        Reach::Cluster
    }
    fn helps(&self, pod: &Pod, event: Event<'_>, _: &Cluster) -> bool {
        match event {
            Event::Freed(_, gone) => gone.namespace == pod.namespace && !gone.claims.is_empty(),
            Event::Other(_) => !pod.claims.is_empty(),
            Event::Node(_) | Event::Placed(_) | Event::Namespace => false,
        }
    }
    fn filter<'a>(&'a self, pod: &'a Pod, cluster: &'a Cluster) -> Option<Check<'a>> {
        let source = cluster.storage()?;
        let alone = |name: &str| {
            let claim = source.claim(&pod.namespace, name);
            let modes = claim.and_then(|claim| claim.spec.as_ref()?.access_modes.clone());
            modes.is_some_and(|modes| modes.iter().any(|mode| mode == ALONE))
        };
        let names: Vec<&str> = pod
            .claims
            .iter()
            .map(|used| used.claim.as_str())
            .filter(|name| alone(name))
            .collect();
        if names.is_empty() {
            return None;
        }
        let used = cluster.pods().any(|other| {
            other.uid != pod.uid
                && other.namespace == pod.namespace
                && other.claims.iter().any(|used| names.contains(&used.claim.as_str()))
        });
        used.then(|| -> Check<'a> {
            Box::new(|_| {
                Some(Refusal::now(
                    "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode",
                ))
            })
        })
    }
}

/// The pod's claims have volumes on the node, or can have them.
#[derive(Debug)]
pub(crate) struct VolumeBinding;

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }
    fn reach(&self) -> Reach {
        Reach::Cluster
    }
    fn admit(&self, pod: &Pod, cluster: &Cluster) -> Result<(), Refusal> {
        match cluster.storage() {
            Some(source) if !pod.claims.is_empty() => sort(pod, source).map(drop).map_err(Refusal::for_good),
            _ => Ok(()),
        }
    }
    fn helps(&self, pod: &Pod, event: Event<'_>, _: &Cluster) -> bool {
        !pod.claims.is_empty() && matches!(event, Event::Node(_) | Event::Other(_))
    }
    fn filter<'a>(&'a self, pod: &'a Pod, cluster: &'a Cluster) -> Option<Check<'a>> {
        if pod.claims.is_empty() {
            return None;
        }
        let source = cluster.storage()?;
        let sorted = match sort(pod, source) {
            Ok(sorted) => sorted,
            Err(why) => return Some(Box::new(move |_| Some(Refusal::for_good(why.clone())))),
        };
        // Looked through for every node, and read once.
        let volumes = if sorted.waiting.is_empty() {
            Vec::new()
        } else {
            source.volumes()
        };
        Some(Box::new(move |node| {
            choose(
                &sorted,
                source,
                &volumes,
                &cluster.promises,
                (&node.name, &node.facts.labels),
            )
            .err()
            .map(Refusal::for_good)
        }))
    }
}
