use super::{Check, Filter, Normalize, Rating, Score};
use crate::cluster::Cluster;
use crate::pod::Pod;

/// Taints keep out what does not tolerate them; the preferring ones only cost points.
#[derive(Debug)]
pub(super) struct TaintToleration;

impl Filter for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }
    fn prepare<'a>(&self, pod: &'a Pod, _: &'a Cluster) -> Option<Check<'a>> {
        Some(Box::new(|node| {
            let taint = api::node::first_untolerated(&node.taints, &pod.tolerations, &["NoSchedule", "NoExecute"])?;
            let value = taint.value.as_deref().unwrap_or("");
            Some(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key).into())
        }))
    }
}

impl Score for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }
    fn prepare<'a>(&self, pod: &'a Pod, cluster: &'a Cluster) -> Option<Rating<'a>> {
        let preferring = |taint: &&k8s_openapi::api::core::v1::Taint| taint.effect == "PreferNoSchedule";
        cluster
            .nodes()
            .any(|node| node.taints.iter().any(|taint| preferring(&taint)))
            .then(|| {
                Box::new(move |node: &crate::cluster::Node| {
                    let intolerable = node
                        .taints
                        .iter()
                        .filter(preferring)
                        .filter(|t| !api::node::is_tolerated(&pod.tolerations, t));
                    i64::try_from(intolerable.count()).unwrap_or(i64::MAX)
                }) as Rating<'a>
            })
    }
    fn normalize(&self) -> Normalize {
        Normalize::Reverse
    }
}
