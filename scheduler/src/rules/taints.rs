use k8s_openapi::api::core::v1::Taint;

use super::{Check, Normalize, Plugin, Rating, Reach, Refusal};
use crate::cluster::Cluster;
use crate::pod::Pod;

/// Taints keep out what does not tolerate them; the preferring ones only cost points.
#[derive(Debug)]
pub struct TaintToleration;

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }
    fn reach(&self) -> Reach {
        Reach::Node
    }
    fn filter<'a>(&'a self, pod: &'a Pod, _: &'a Cluster) -> Option<Check<'a>> {
        Some(Box::new(|node| {
            let keeping_out = ["NoSchedule", "NoExecute"];
            api::node::first_untolerated(&node.facts.taints, &pod.shape.tolerations, &keeping_out)
                // 1.36 names no taint here, so that nodes with different ones are counted together.
                .map(|_| Refusal::for_good("node(s) had untolerated taint(s)"))
        }))
    }
    fn score<'a>(&'a self, pod: &'a Pod, _: &'a Cluster, _: &[usize]) -> Option<Rating<'a>> {
        let preferring = |taint: &&Taint| taint.effect == "PreferNoSchedule";
        Some(Box::new(move |_, node| {
            let taints = node.facts.taints.iter().filter(preferring);
            let intolerable = taints.filter(|taint| !api::node::is_tolerated(&pod.shape.tolerations, taint));
            i64::try_from(intolerable.count()).ok()
        }))
    }
    fn normalize(&self) -> Normalize {
        Normalize::Reverse
    }
}
