//! Every controller: its name and the name of its service account, as upstream has them.

use std::future::Future;
use std::pin::Pin;

use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::{Error, certificates, cleanup, identity, network, nodes, policy, volumes, workloads};

type Start = fn(Context, CancellationToken) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// One controller.
pub struct Row {
    /// As --controllers names it.
    pub name: &'static str,
    /// Its service account in kube-system, whose role is all that it may.
    pub account: &'static str,
    /// Who its events are from.
    pub component: &'static str,
    pub on: bool,
    pub start: Start,
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! rows {
    ($($name:literal $account:literal $component:literal => $($start:ident)::+;)*) => {
        &[$(Row {
            name: $name,
            account: $account,
            component: $component,
            on: true,
            start: |context, stop| Box::pin($($start)::+(context, stop)),
        }),*]
    };
}

pub const TABLE: &[Row] = rows! {
    "deployment-controller" "deployment-controller" "deployment-controller" => workloads::deployment::start;
    "replicaset-controller" "replicaset-controller" "replicaset-controller" => workloads::replicaset::start_replica_sets;
    "replicationcontroller-controller" "replication-controller" "replication-controller" => workloads::replicaset::start_replication_controllers;
    "statefulset-controller" "statefulset-controller" "statefulset-controller" => workloads::statefulset::start;
    "daemonset-controller" "daemon-set-controller" "daemonset-controller" => workloads::daemonset::start;
    "job-controller" "job-controller" "job-controller" => workloads::job::start;
    "cronjob-controller" "cronjob-controller" "cronjob-controller" => workloads::cronjob::start;
    "endpointslice-controller" "endpointslice-controller" "endpointslice-controller" => network::slices::start;
    "endpoints-controller" "endpoint-controller" "endpoint-controller" => network::endpoints::start;
    "namespace-controller" "namespace-controller" "namespace-controller" => cleanup::namespace::start;
    "garbage-collector-controller" "generic-garbage-collector" "garbage-collector" => cleanup::garbage::start;
    "pod-garbage-collector-controller" "pod-garbage-collector" "pod-garbage-collector" => cleanup::pod_gc::start;
    "ttl-after-finished-controller" "ttl-after-finished-controller" "ttl-after-finished-controller" => cleanup::ttl::start;
    "serviceaccount-controller" "service-account-controller" "service-account-controller" => identity::accounts::start;
    "certificatesigningrequest-approving-controller" "certificate-controller" "csrapproving" => certificates::approve::start;
    "certificatesigningrequest-signing-controller" "certificate-controller" "csrsigning" => certificates::sign::start;
    "certificatesigningrequest-cleaner-controller" "certificate-controller" "csrcleaner" => certificates::clean::start;
    "root-ca-certificate-publisher-controller" "root-ca-cert-publisher" "root-ca-cert-publisher" => identity::roots::start;
    "clusterrole-aggregation-controller" "clusterrole-aggregation-controller" "clusterrole-aggregation-controller" => identity::roles::start;
    "node-lifecycle-controller" "node-controller" "node-controller" => nodes::lifecycle::start;
    "taint-eviction-controller" "node-controller" "taint-eviction-controller" => nodes::eviction::start;
    "node-ipam-controller" "node-controller" "cidrAllocator" => nodes::ipam::start;
    "ttl-controller" "ttl-controller" "ttl-controller" => nodes::ttl::start;
    "persistentvolume-binder-controller" "persistent-volume-binder" "persistentvolume-controller" => volumes::binder::start;
    "persistentvolumeclaim-protection-controller" "pvc-protection-controller" "pvc-protection-controller" => volumes::protection::start_claims;
    "persistentvolume-protection-controller" "pv-protection-controller" "pv-protection-controller" => volumes::protection::start_volumes;
    "horizontal-pod-autoscaler-controller" "horizontal-pod-autoscaler" "horizontal-pod-autoscaler" => policy::autoscaler::start;
    "resourcequota-controller" "resourcequota-controller" "resourcequota-controller" => policy::quota::start;
    "disruption-controller" "disruption-controller" "controllermanager" => policy::disruption::start;
    "ephemeral-volume-controller" "ephemeral-volume-controller" "ephemeral_volume" => volumes::ephemeral::start;
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = TABLE.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }
}
