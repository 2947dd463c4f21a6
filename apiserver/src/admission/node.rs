//! NodeRestriction: a kubelet writes its own node, the status of its own pods, and mirrors of its static pods.
//! The authorizer lets it write such objects at all; here the content is looked at. After
//! plugin/pkg/admission/noderestriction (1.36).

use std::collections::BTreeSet;

use futures::future::BoxFuture;
use serde_json::{Map, Value};

use super::sources::Source;
use super::{Admit, Attributes, Operation, items};
use crate::authz::node::{Kind, references};
use crate::object::Object;
use crate::status::Status;

const MIRROR: &str = "kubernetes.io/config.mirror";
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// Labels of Kubernetes' own domains that a kubelet may set (kubelet/pkg/apis/well_known_labels.go, 1.36).
const OWN_LABELS: [&str; 15] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "node.kubernetes.io/windows-build",
    "kubernetes.io/instance-type",
];
const OWN_LABEL_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

#[derive(Debug)]
pub(super) struct NodeRestriction {
    pub(super) pods: Source,
    pub(super) nodes: Source,
}

impl Admit for NodeRestriction {
    fn validate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: Option<&'a Object>,
        old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let Some(node) = attributes.user.as_node() else {
                return Ok(());
            };
            let about = (&*attributes.resource.group, &*attributes.resource.plural);
            let judged = match (about, attributes.subresource) {
                (("", "pods"), "") => match attributes.operation {
                    Operation::Create => self.mirror(node, new).await?,
                    Operation::Delete => on_node(node, old, "delete pods"),
                    operation => Err(format!(
                        "unexpected operation {operation:?}, node {node:?} can only create and delete mirror pods"
                    )),
                },
                (("", "pods"), "status") => pod_status(node, new, old),
                (("", "pods"), "eviction") => {
                    let pod = self.pods.get(attributes.namespace, attributes.name).await?;
                    on_node(node, pod.as_ref(), "evict pods")
                }
                (("", "pods"), other) => Err(format!(
                    "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
                )),
                (("", "nodes"), _) => own_node(node, attributes, new, old),
                (("", "persistentvolumeclaims"), "status") => claim_status(new, old),
                (("", "persistentvolumeclaims"), other) => Err(format!(
                    "unexpected PVC subresource {other:?}, only 'status' is allowed"
                )),
                (("", "serviceaccounts"), "token") => self.token(node, attributes, new).await?,
                (("coordination.k8s.io", "leases"), _) => {
                    if attributes.namespace != "kube-node-lease" {
                        Err("can only access leases in the \"kube-node-lease\" system namespace".into())
                    } else if new.or(old).is_some_and(|lease| lease.name() != node) {
                        Err("can only access node lease with the same name as the requesting node".into())
                    } else {
                        Ok(())
                    }
                }
                (("storage.k8s.io", "csinodes"), _) => {
                    if new.or(old).is_some_and(|object| object.name() != node) {
                        Err("can only access CSINode with the same name as the requesting node".into())
                    } else {
                        Ok(())
                    }
                }
                _ => Ok(()),
            };
            judged.map_err(|why| attributes.forbidden(new.or(old), &why))
        })
    }
}

fn on_node(node: &str, pod: Option<&Object>, what: &str) -> Result<(), String> {
    // What is not there is told by whoever looks for it.
    if pod.is_none_or(|pod| pod.str_at(&["spec", "nodeName"]) == node) {
        return Ok(());
    }
    Err(format!(
        "node {node:?} can only {what} with spec.nodeName set to itself"
    ))
}

fn pod_status(node: &str, new: Option<&Object>, old: Option<&Object>) -> Result<(), String> {
    on_node(node, old, "update pod status for pods")?;
    let labels = |pod: Option<&Object>| pod.and_then(|pod| pod.at(&["metadata", "labels"]).cloned());
    if labels(new) != labels(old) {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    let claims = |pod: Option<&Object>| pod.and_then(|pod| pod.at(&["status", "resourceClaimStatuses"]).cloned());
    if claims(new) != claims(old) {
        return Err(format!("node {node:?} cannot update resource claim statues"));
    }
    Ok(())
}

impl NodeRestriction {
    async fn mirror(&self, node: &str, new: Option<&Object>) -> Result<Result<(), String>, Status> {
        let Some(pod) = new else { return Ok(Ok(())) };
        if pod.at(&["metadata", "annotations", MIRROR]).is_none() {
            return Ok(Err(format!(
                "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
            )));
        }
        if let Err(why) = on_node(node, Some(pod), "create pods") {
            return Ok(Err(why));
        }
        let owners: Vec<&Value> = items(pod.at(&["metadata", "ownerReferences"])).collect();
        match owners.as_slice() {
            [] => {}
            [owner] => {
                let is_this = owner["apiVersion"] == "v1" && owner["kind"] == "Node" && owner["name"] == node;
                if !is_this {
                    return Ok(Err(format!(
                        "node {node:?} can only create pods with an owner reference set to itself"
                    )));
                }
                if owner["controller"] != true {
                    return Ok(Err(format!(
                        "node {node:?} can only create pods with a controller owner reference set to itself"
                    )));
                }
                if owner["blockOwnerDeletion"] == true {
                    return Ok(Err(format!(
                        "node {node:?} must not set blockOwnerDeletion on an owner reference"
                    )));
                }
                let known = self.nodes.item("", node).await?;
                let uid = owner["uid"].as_str().unwrap_or_default();
                if known.is_some_and(|known| *known.facts.uid != *uid) {
                    return Ok(Err(format!("node {node:?} UID mismatch: expected its own, got {uid}")));
                }
            }
            _ => {
                return Ok(Err(format!(
                    "node {node:?} can only create pods with a single owner reference set to itself"
                )));
            }
        }
        for (kind, word) in [
            (Kind::ServiceAccount, "a service account"),
            (Kind::Secret, "secrets"),
            (Kind::ConfigMap, "configmaps"),
            (Kind::Claim, "persistentvolumeclaims"),
            (Kind::ResourceClaim, "resourceclaims"),
        ] {
            if references(pod).iter().any(|(have, _)| *have == kind) {
                return Ok(Err(format!("node {node:?} can not create pods that reference {word}")));
            }
        }
        Ok(Ok(()))
    }

    async fn token(
        &self,
        node: &str,
        attributes: &Attributes<'_>,
        new: Option<&Object>,
    ) -> Result<Result<(), String>, Status> {
        let bound = new.and_then(|request| request.at(&["spec", "boundObjectRef"]));
        let Some(bound) = bound.filter(|bound| bound["apiVersion"] == "v1" && bound["kind"] == "Pod") else {
            return Ok(Err("node requested token not bound to a pod".into()));
        };
        let uid = bound["uid"].as_str().unwrap_or_default();
        if uid.is_empty() {
            return Ok(Err("node requested token with a pod binding without a uid".into()));
        }
        let name = bound["name"].as_str().unwrap_or_default();
        let Some(pod) = self.pods.get(attributes.namespace, name).await? else {
            return Ok(Err(format!("pod {name:?} not found")));
        };
        if pod.uid() != uid {
            return Ok(Err(
                "the UID in the bound object reference does not match the UID in record. The object might have been \
                 deleted and then recreated"
                    .into(),
            ));
        }
        if pod.str_at(&["spec", "nodeName"]) != node {
            return Ok(Err(
                "node requested token bound to a pod scheduled on a different node".into()
            ));
        }
        Ok(Ok(()))
    }
}

fn own_node(node: &str, attributes: &Attributes<'_>, new: Option<&Object>, old: Option<&Object>) -> Result<(), String> {
    let name = new.or(old).map_or(attributes.name, Object::name);
    if name != node {
        return Err(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let Some(new) = new else { return Ok(()) };
    let set = match old {
        None => restricted(labels(new).keys()),
        Some(old) => restricted(changed(labels(old), labels(new))),
    };
    if !set.is_empty() {
        let list = set.into_iter().collect::<Vec<_>>().join(", ");
        return Err(match old {
            None => format!("node {node:?} is not allowed to set the following labels: {list}"),
            Some(_) => format!("is not allowed to modify labels: {list}"),
        });
    }
    if let Some(old) = old {
        let taints = |object: &Object| items(object.at(&["spec", "taints"])).cloned().collect::<Vec<_>>();
        if taints(new) != taints(old) {
            return Err(format!("node {node:?} is not allowed to modify taints"));
        }
        let owners = |object: &Object| object.at(&["metadata", "ownerReferences"]).cloned();
        if owners(new) != owners(old) {
            return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
        }
    }
    Ok(())
}

fn labels(object: &Object) -> &Map<String, Value> {
    static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    object
        .at(&["metadata", "labels"])
        .and_then(Value::as_object)
        .unwrap_or(&NONE)
}

fn changed<'a>(old: &'a Map<String, Value>, new: &'a Map<String, Value>) -> impl Iterator<Item = &'a String> {
    old.keys()
        .chain(new.keys())
        .filter(|key| old.get(*key) != new.get(*key))
}

/// Those of the labels that say something about a node which the node itself must not say.
fn restricted<'a>(keys: impl Iterator<Item = &'a String>) -> BTreeSet<&'a str> {
    let in_domain = |domain: &str, of: &str| domain == of || domain.ends_with(&format!(".{of}"));
    keys.filter(|key| {
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        if in_domain(domain, RESTRICTED) {
            return true;
        }
        let reserved = in_domain(domain, "kubernetes.io") || in_domain(domain, "k8s.io");
        reserved && !OWN_LABELS.contains(&key.as_str()) && !OWN_LABEL_DOMAINS.iter().any(|own| in_domain(domain, own))
    })
    .map(String::as_str)
    .collect()
}

/// Of a claim a kubelet changes the size and what belongs to its growing.
fn claim_status(new: Option<&Object>, old: Option<&Object>) -> Result<(), String> {
    let rest = |claim: Option<&Object>| {
        let mut claim = claim.cloned().unwrap_or_default();
        for field in ["resourceVersion", "managedFields"] {
            claim.metadata_mut().remove(field);
        }
        let status = claim.entry("status");
        for field in [
            "capacity",
            "conditions",
            "allocatedResources",
            "allocatedResourceStatuses",
        ] {
            status.remove(field);
        }
        claim
    };
    if rest(new) == rest(old) {
        return Ok(());
    }
    Err("is not allowed to update fields other than status.capacity and status.conditions".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_says_about_itself_what_it_can_know() {
        for (label, want) in [
            ("kubernetes.io/hostname", false),
            ("node.kubernetes.io/anything", false),
            ("kubelet.kubernetes.io/x", false),
            ("example.com/zone", false),
            ("zone", false),
            ("node-restriction.kubernetes.io/tier", true),
            ("a.node-restriction.kubernetes.io/tier", true),
            ("node-role.kubernetes.io/control-plane", true),
            ("k8s.io/x", true),
            ("topology.kubernetes.io/zone", false),
            ("notkubernetes.io/x", false),
        ] {
            let label = label.to_owned();
            assert_eq!(!restricted(std::iter::once(&label)).is_empty(), want, "{label}");
        }
    }
}
