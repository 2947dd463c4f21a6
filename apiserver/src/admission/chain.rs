//! Which rules there are, in which order, and which of them run.

use std::sync::Arc;

use super::addresses::Addresses;
use super::certificates;
use super::escalation::Escalation;
use super::limits::LimitRanger;
use super::namespace::NamespaceLifecycle;
use super::node::NodeRestriction;
use super::owners::OwnerReferences;
use super::pod_security::PodSecurity;
use super::pods::{DefaultTolerationSeconds, PodTopologyLabels, RuntimeClass, TaintNodesByCondition};
use super::priority::Priority;
use super::quota::ResourceQuota;
use super::service_account::ServiceAccount;
use super::sources::Source;
use super::volumes::{DefaultStorageClass, PersistentVolumeClaimResize, StorageObjectInUseProtection};
use super::{Admit, Chain};
use crate::authz;
use crate::authz::rbac::Rbac;
use crate::registry::Registry;

const QUOTA: &str = "ResourceQuota";

/// A name that is no rule's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("admission rule {0:?} is unknown")]
pub struct Unknown(String);

/// The chain: upstream's default rules in upstream's order, those in `enable` too, those in `disable` not. The rules
/// that keep the server's own books, addresses among them, cannot be turned off.
pub fn chain(
    registry: &Arc<Registry>,
    rbac: Rbac,
    authz: Arc<authz::Chain>,
    addresses: Arc<Addresses>,
    enable: &[String],
    disable: &[String],
) -> Result<Chain, Unknown> {
    let source = |group: &str, plural: &str| Source::new(registry, group, plural);
    let on = true;
    let all: Vec<(&str, bool, Box<dyn Admit>)> = vec![
        (
            "NamespaceLifecycle",
            on,
            Box::new(NamespaceLifecycle {
                namespaces: source("", "namespaces"),
            }),
        ),
        (
            "LimitRanger",
            on,
            Box::new(LimitRanger {
                ranges: source("", "limitranges"),
            }),
        ),
        (
            "ServiceAccount",
            on,
            Box::new(ServiceAccount {
                accounts: source("", "serviceaccounts"),
            }),
        ),
        (
            "NodeRestriction",
            on,
            Box::new(NodeRestriction {
                pods: source("", "pods"),
                nodes: source("", "nodes"),
            }),
        ),
        ("TaintNodesByCondition", on, Box::new(TaintNodesByCondition)),
        (
            "PodSecurity",
            on,
            Box::new(PodSecurity {
                namespaces: source("", "namespaces"),
            }),
        ),
        (
            "Priority",
            on,
            Box::new(Priority {
                classes: source("scheduling.k8s.io", "priorityclasses"),
            }),
        ),
        ("DefaultTolerationSeconds", on, Box::new(DefaultTolerationSeconds)),
        (
            "DefaultStorageClass",
            on,
            Box::new(DefaultStorageClass {
                classes: source("storage.k8s.io", "storageclasses"),
            }),
        ),
        (
            "StorageObjectInUseProtection",
            on,
            Box::new(StorageObjectInUseProtection),
        ),
        (
            "PersistentVolumeClaimResize",
            on,
            Box::new(PersistentVolumeClaimResize {
                classes: source("storage.k8s.io", "storageclasses"),
            }),
        ),
        (
            "RuntimeClass",
            on,
            Box::new(RuntimeClass {
                classes: source("node.k8s.io", "runtimeclasses"),
            }),
        ),
        (
            "CertificateApproval",
            on,
            Box::new(certificates::Speaks {
                authz: authz.clone(),
                verb: "approve",
            }),
        ),
        (
            "CertificateSigning",
            on,
            Box::new(certificates::Speaks {
                authz: authz.clone(),
                verb: "sign",
            }),
        ),
        ("CertificateSubjectRestriction", on, Box::new(certificates::Subjects)),
        (
            "PodTopologyLabels",
            on,
            Box::new(PodTopologyLabels {
                nodes: source("", "nodes"),
            }),
        ),
        (
            "OwnerReferencesPermissionEnforcement",
            false,
            Box::new(OwnerReferences {
                registry: registry.clone(),
                authz: authz.clone(),
            }),
        ),
    ];
    let quota = !disable.iter().any(|name| name == QUOTA);
    let is_known = |name: &str| name == QUOTA || all.iter().any(|(known, ..)| *known == name);
    if let Some(name) = enable.iter().chain(disable).find(|name| !is_known(name)) {
        return Err(Unknown(name.clone()));
    }
    let named = |list: &[String], name: &str| list.iter().any(|n| n == name);
    let mut rules: Vec<Box<dyn Admit>> = all
        .into_iter()
        .filter(|(name, on, _)| !named(disable, name) && (*on || named(enable, name)))
        .map(|(_, _, rule)| rule)
        .collect();
    rules.push(Box::new(Escalation { rbac, authz }));
    // Reservations come last, when nothing else can refuse: addresses of the mutators, quota of the validators.
    rules.push(Box::new(addresses));
    if quota {
        rules.push(Box::new(ResourceQuota::new(registry.clone())));
    }
    Ok(Chain { rules })
}
