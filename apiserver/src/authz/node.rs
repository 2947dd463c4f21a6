//! What a kubelet may: its own node, and of the rest only what the pods bound to it refer to.
//! Comes in: pods, volumes and attachments as the caches show them. Goes out: decisions for users who are nodes, after
//! plugin/pkg/auth/authorizer/node (1.36). What it allows to write, NodeRestriction narrows to the node's own.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use futures::future::BoxFuture;
use serde_json::Value;

use super::rules::Rule;
use super::{Authorizer, Decision, Request, Rules, Target};
use crate::identity::User;
use crate::object::Object;

/// What a pod refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Secret,
    ConfigMap,
    Claim,
    ServiceAccount,
    ResourceClaim,
}

type Name = (Arc<str>, Arc<str>);
/// How many pods of each node.
type Nodes = HashMap<Arc<str>, u32>;

/// A bound pod, reduced to what matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub node: Arc<str>,
    pub references: Vec<(Kind, Arc<str>)>,
}

impl Pod {
    /// `None`: it is bound to no node.
    pub fn read(pod: &Value) -> Option<Pod> {
        let spec = &pod["spec"];
        let node = spec["nodeName"].as_str().filter(|name| !name.is_empty())?;
        let mut references = Vec::new();
        // A mirror pod was written by the kubelet itself: it must not open other doors by what it names.
        if pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null() {
            collect(pod, spec, &mut references);
        }
        references.sort();
        references.dedup();
        Some(Pod {
            node: node.into(),
            references,
        })
    }
}

/// What a pod that is not stored yet refers to.
pub fn references(pod: &Object) -> Vec<(Kind, Arc<str>)> {
    let pod = Value::Object(pod.0.clone());
    let mut references = Vec::new();
    collect(&pod, &pod["spec"], &mut references);
    references
}

fn collect(pod: &Value, spec: &Value, out: &mut Vec<(Kind, Arc<str>)>) {
    let mut add = |kind, name: &Value| {
        if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
            out.push((kind, Arc::from(name)));
        }
    };
    add(Kind::ServiceAccount, &spec["serviceAccountName"]);
    for secret in items(&spec["imagePullSecrets"]) {
        add(Kind::Secret, &secret["name"]);
    }
    for containers in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items(&spec[containers]) {
            for source in items(&container["envFrom"]) {
                add(Kind::Secret, &source["secretRef"]["name"]);
                add(Kind::ConfigMap, &source["configMapRef"]["name"]);
            }
            for variable in items(&container["env"]) {
                add(Kind::Secret, &variable["valueFrom"]["secretKeyRef"]["name"]);
                add(Kind::ConfigMap, &variable["valueFrom"]["configMapKeyRef"]["name"]);
            }
        }
    }
    for volume in items(&spec["volumes"]) {
        add(Kind::Secret, &volume["secret"]["secretName"]);
        add(Kind::Secret, &volume["azureFile"]["secretName"]);
        add(Kind::Secret, &volume["csi"]["nodePublishSecretRef"]["name"]);
        for plugin in ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"] {
            add(Kind::Secret, &volume[plugin]["secretRef"]["name"]);
        }
        add(Kind::ConfigMap, &volume["configMap"]["name"]);
        for source in items(&volume["projected"]["sources"]) {
            add(Kind::Secret, &source["secret"]["name"]);
            add(Kind::ConfigMap, &source["configMap"]["name"]);
        }
        add(Kind::Claim, &volume["persistentVolumeClaim"]["claimName"]);
        if volume["ephemeral"].is_object()
            && let (Some(pod), Some(volume)) = (pod["metadata"]["name"].as_str(), volume["name"].as_str())
        {
            add(Kind::Claim, &Value::from(format!("{pod}-{volume}")));
        }
    }
    for claim in items(&pod["status"]["resourceClaimStatuses"]) {
        add(Kind::ResourceClaim, &claim["resourceClaimName"]);
    }
    for claim in items(&spec["resourceClaims"]) {
        add(Kind::ResourceClaim, &claim["resourceClaimName"]);
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// A persistent volume, reduced to its claim and the secrets that mounting it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    claim: Name,
    secrets: Vec<Name>,
}

impl Volume {
    /// `None`: nobody claimed it.
    pub fn read(volume: &Value) -> Option<Volume> {
        let spec = &volume["spec"];
        let text = |value: &Value| value.as_str().filter(|s| !s.is_empty()).map(Arc::<str>::from);
        let claim: Name = (text(&spec["claimRef"]["namespace"])?, text(&spec["claimRef"]["name"])?);
        let mut secrets = Vec::new();
        let mut add = |reference: &Value, field: &str| {
            if let Some(name) = text(&reference[field]) {
                let namespace = text(&reference["namespace"])
                    .or_else(|| text(&reference["secretNamespace"]))
                    .unwrap_or_else(|| claim.0.clone());
                secrets.push((namespace, name));
            }
        };
        for plugin in ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"] {
            add(&spec[plugin]["secretRef"], "name");
        }
        add(&spec["azureFile"], "secretName");
        for reference in ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"] {
            add(&spec["csi"][reference], "name");
        }
        Some(Volume { claim, secrets })
    }
}

/// Who may read what because of whom.
#[derive(Debug, Default)]
pub struct Graph {
    pods: HashMap<Name, Pod>,
    /// For each object, the nodes with pods that refer to it and how many do.
    readers: HashMap<(Kind, Arc<str>, Arc<str>), Nodes>,
    volumes: HashMap<Arc<str>, Volume>,
    /// Volume attachments and their nodes.
    attachments: HashMap<Arc<str>, Arc<str>>,
}

impl Graph {
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.pods.get(&(namespace.into(), name.into()))
    }

    pub fn set_pod(&mut self, namespace: &str, name: &str, pod: Option<Pod>) {
        let key: Name = (namespace.into(), name.into());
        if let Some(old) = self.pods.remove(&key) {
            for (kind, name) in &old.references {
                let place = (*kind, key.0.clone(), name.clone());
                let Some(nodes) = self.readers.get_mut(&place) else {
                    continue;
                };
                if let Some(count) = nodes.get_mut(&old.node) {
                    *count -= 1;
                    if *count == 0 {
                        nodes.remove(&old.node);
                    }
                }
                if nodes.is_empty() {
                    self.readers.remove(&place);
                }
            }
        }
        let Some(pod) = pod else { return };
        for (kind, name) in &pod.references {
            let nodes = self.readers.entry((*kind, key.0.clone(), name.clone())).or_default();
            *nodes.entry(pod.node.clone()).or_default() += 1;
        }
        self.pods.insert(key, pod);
    }

    pub fn set_volume(&mut self, name: &str, volume: Option<Volume>) {
        match volume {
            Some(volume) => self.volumes.insert(name.into(), volume),
            None => self.volumes.remove(name),
        };
    }

    pub fn set_attachment(&mut self, name: &str, node: Option<&str>) {
        match node {
            Some(node) => self.attachments.insert(name.into(), node.into()),
            None => self.attachments.remove(name),
        };
    }

    fn refers(&self, node: &str, kind: Kind, namespace: &str, name: &str) -> bool {
        self.readers
            .get(&(kind, namespace.into(), name.into()))
            .is_some_and(|nodes| nodes.contains_key(node))
    }

    fn mounts(&self, node: &str, volume: &Volume) -> bool {
        self.refers(node, Kind::Claim, &volume.claim.0, &volume.claim.1)
    }

    fn reads_secret(&self, node: &str, namespace: &str, name: &str) -> bool {
        self.refers(node, Kind::Secret, namespace, name)
            || self.volumes.values().any(|volume| {
                volume.secrets.iter().any(|(ns, n)| **ns == *namespace && **n == *name) && self.mounts(node, volume)
            })
    }
}

/// The authorizer of `system:nodes`.
#[derive(Debug, Clone)]
pub struct Node {
    graph: Arc<RwLock<Graph>>,
    /// What every node may, of the resources that are not told apart here: the rules of the role `system:node`.
    rules: Arc<[Rule]>,
}

impl Node {
    pub fn new(rules: impl Into<Arc<[Rule]>>) -> Node {
        Node {
            graph: Arc::default(),
            rules: rules.into(),
        }
    }
    pub fn update<T>(&self, change: impl FnOnce(&mut Graph) -> T) -> T {
        change(&mut self.graph.write().expect("nothing panics while it holds this"))
    }

    fn decide(&self, request: &Request<'_>) -> Decision {
        let Some(node) = request.user.as_node() else {
            return Decision::NoOpinion(String::new());
        };
        if node.is_empty() {
            return no(format!("unknown node for user {:?}", request.user.name));
        }
        let graph = self.graph.read().expect("nothing panics while it holds this");
        if let Some(decision) = told_apart(&graph, node, request) {
            return decision;
        }
        if self.rules.iter().any(|rule| rule.allows(request.verb, &request.target)) {
            return yes();
        }
        no("")
    }
}

impl Authorizer for Node {
    fn authorize<'a>(&'a self, request: &'a Request<'a>) -> BoxFuture<'a, Decision> {
        Box::pin(std::future::ready(self.decide(request)))
    }
    fn rules_for(&self, user: &User, _namespace: &str) -> Rules {
        let errors = user
            .as_node()
            .map(|_| "node authorizer does not support user rule resolution".to_owned());
        Rules {
            rules: Vec::new(),
            errors: errors.into_iter().collect(),
        }
    }
}

fn yes() -> Decision {
    Decision::Allow(String::new())
}
fn no(reason: impl Into<String>) -> Decision {
    Decision::NoOpinion(reason.into())
}

/// The resources that differ from node to node. `None`: this is none of them.
fn told_apart(graph: &Graph, node: &str, request: &Request<'_>) -> Option<Decision> {
    let Target::Resource {
        group,
        resource,
        subresource,
        namespace,
        name,
        fields,
        ..
    } = request.target
    else {
        return None;
    };
    let verb = request.verb;
    let related = |related: bool| {
        if name.is_empty() {
            no("No Object name found")
        } else if related {
            yes()
        } else {
            no(format!("no relationship found between node '{node}' and this object"))
        }
    };
    let read = |ok: bool| {
        if !matches!(verb, "get" | "list" | "watch") {
            no("can only read resources of this type")
        } else if !subresource.is_empty() {
            no("cannot read subresource")
        } else if namespace.is_empty() {
            no("can only read namespaced object of this type")
        } else {
            related(ok)
        }
    };
    let get = |ok: bool| {
        if verb != "get" {
            no("can only get individual resources of this type")
        } else if !subresource.is_empty() {
            no("cannot get subresource")
        } else {
            related(ok)
        }
    };
    Some(match (group, resource) {
        ("", "secrets") => read(graph.reads_secret(node, namespace, name)),
        ("", "configmaps") => read(graph.refers(node, Kind::ConfigMap, namespace, name)),
        ("", "persistentvolumeclaims") => {
            let ok = graph.refers(node, Kind::Claim, namespace, name);
            if subresource == "status" {
                if matches!(verb, "update" | "patch") {
                    related(ok)
                } else {
                    no("can only get/update/patch this type")
                }
            } else {
                get(ok)
            }
        }
        ("", "persistentvolumes") => get(graph.volumes.get(name).is_some_and(|v| graph.mounts(node, v))),
        ("storage.k8s.io", "volumeattachments") => get(graph.attachments.get(name).is_some_and(|at| **at == *node)),
        ("resource.k8s.io", "resourceclaims") => get(graph.refers(node, Kind::ResourceClaim, namespace, name)),
        ("", "serviceaccounts") => {
            let ok = graph.refers(node, Kind::ServiceAccount, namespace, name);
            if verb == "get" && subresource.is_empty() {
                related(ok)
            } else if verb != "create" || name.is_empty() {
                no("can only create tokens for individual service accounts")
            } else if subresource != "token" {
                no("can only create token subresource of serviceaccount")
            } else {
                related(ok)
            }
        }
        ("coordination.k8s.io", "leases") => {
            if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
                no("can only get, create, update, patch, or delete a node lease")
            } else if namespace != "kube-node-lease" {
                no("can only access leases in the \"kube-node-lease\" system namespace")
            } else if verb != "create" && name != node {
                no("can only access node lease with the same name as the requesting node")
            } else {
                yes()
            }
        }
        ("storage.k8s.io", "csinodes") => {
            if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
                no("can only get, create, update, patch, or delete a CSINode")
            } else if !subresource.is_empty() {
                no("cannot authorize CSINode subresources")
            } else if verb != "create" && name != node {
                no("can only access CSINode with the same name as the requesting node")
            } else {
                yes()
            }
        }
        ("", "nodes") => match (subresource, verb) {
            ("", "create" | "update" | "patch") | ("status", "update" | "patch") => yes(),
            ("", "get" | "list" | "watch") if name == node => yes(),
            ("", "get" | "list" | "watch") => {
                no(format!("node '{node}' cannot read '{name}', only its own Node object"))
            }
            _ => no(""),
        },
        ("", "pods") => match (subresource, verb) {
            ("", "get") => related(graph.pod(namespace, name).is_some_and(|pod| *pod.node == *node)),
            ("", "list" | "watch") => {
                let own = fields.is_some_and(|fields| {
                    let mut terms = fields.terms.iter();
                    terms.any(|t| t.field == "spec.nodeName" && t.equal && t.value == node)
                });
                if own {
                    yes()
                } else {
                    no("can only list/watch pods with spec.nodeName field selector")
                }
            }
            ("", "create" | "delete") | ("eviction", "create") | ("status", "update" | "patch") => yes(),
            _ => no(""),
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn graph() -> Graph {
        let mut graph = Graph::default();
        let pod = json!({"metadata": {"name": "p"}, "spec": {
        "nodeName": "n1", "serviceAccountName": "sa",
        "imagePullSecrets": [{"name": "pull"}],
        "initContainers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "env"}}}]}],
        "containers": [{"envFrom": [{"configMapRef": {"name": "conf"}}, {"secretRef": {"name": "from"}}]}],
        "volumes": [
            {"name": "a", "secret": {"secretName": "vol"}},
            {"name": "b", "projected": {"sources": [{"configMap": {"name": "root-ca"}}, {"secret": {"name": "proj"}}]}},
            {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}},
            {"name": "d", "ephemeral": {}}
        ]}});
        graph.set_pod("a", "p", Pod::read(&pod));
        let volume = json!({"spec": {"claimRef": {"namespace": "a", "name": "claim"},
            "csi": {"nodeStageSecretRef": {"namespace": "storage", "name": "stage"}}}});
        graph.set_volume("pv", Volume::read(&volume));
        graph.set_attachment("att", Some("n1"));
        graph
    }

    #[track_caller]
    fn check(graph: &Graph, node: &str, question: &str, want: bool) {
        let words: Vec<&str> = question.split(' ').collect();
        let [verb, what, namespace, name] = words[..] else {
            panic!("verb group/resource[/sub] namespace name: {question}")
        };
        let parts: Vec<&str> = what.split('/').collect();
        let user = User::node(node);
        let fields = api::selector::Fields {
            terms: vec![api::selector::Term {
                field: "spec.nodeName".into(),
                equal: true,
                value: "n1".into(),
            }],
        };
        let request = Request {
            user: &user,
            verb,
            target: Target::Resource {
                group: parts[0],
                version: "v1",
                resource: parts[1],
                subresource: parts.get(2).copied().unwrap_or_default(),
                namespace: namespace.trim_matches('-'),
                name: name.trim_matches('-'),
                fields: question.ends_with('-').then_some(&fields),
            },
        };
        let got = told_apart(graph, node, &request).expect("told apart");
        assert_eq!(matches!(got, Decision::Allow(_)), want, "{node}: {question}: {got:?}");
    }

    #[test]
    fn a_node_reads_only_what_its_pods_refer_to() {
        let graph = graph();
        for (question, want) in [
            ("get /secrets a pull", true),
            ("get /secrets a env", true),
            ("watch /secrets a from", true),
            ("list /secrets a vol", true),
            ("get /secrets a proj", true),
            ("get /secrets storage stage", true),
            ("get /secrets a other", false),
            ("get /secrets b pull", false),
            ("update /secrets a pull", false),
            ("get /configmaps a conf", true),
            ("get /configmaps a root-ca", true),
            ("get /configmaps a pull", false),
            ("get /persistentvolumeclaims a claim", true),
            ("get /persistentvolumeclaims a p-d", true),
            ("list /persistentvolumeclaims a claim", false),
            ("patch /persistentvolumeclaims/status a claim", true),
            ("get /persistentvolumes - pv", true),
            ("get storage.k8s.io/volumeattachments - att", true),
            ("create /serviceaccounts/token a sa", true),
            ("create /serviceaccounts/token a other", false),
            ("create /serviceaccounts a sa", false),
            ("get /pods a p", true),
        ] {
            check(&graph, "n1", question, want);
            check(&graph, "n2", question, false);
        }
    }

    #[test]
    fn a_node_has_its_own_lease_node_and_pods() {
        let graph = graph();
        for (question, want) in [
            ("update coordination.k8s.io/leases kube-node-lease n1", true),
            ("update coordination.k8s.io/leases kube-node-lease n2", false),
            ("update coordination.k8s.io/leases default n1", false),
            ("list coordination.k8s.io/leases kube-node-lease n1", false),
            ("get storage.k8s.io/csinodes - n1", true),
            ("get storage.k8s.io/csinodes - n2", false),
            ("get /nodes - n1", true),
            ("get /nodes - n2", false),
            ("delete /nodes - n1", false),
            ("patch /nodes/status - n1", true),
            ("list /pods - -", true),
            ("list /pods - x", false),
            ("patch /pods/status a p", true),
            ("create /pods/exec a p", false),
        ] {
            check(&graph, "n1", question, want);
        }
        check(&graph, "n2", "list /pods - -", false);
    }

    #[test]
    fn a_pod_that_is_gone_opens_no_doors() {
        let mut graph = graph();
        graph.set_pod("a", "p", None);
        assert!(graph.readers.is_empty());
        check(&graph, "n1", "get /secrets a pull", false);
        check(&graph, "n1", "get /secrets storage stage", false);
    }

    #[test]
    fn a_mirror_pod_opens_no_doors() {
        let pod = json!({"metadata": {"name": "m", "annotations": {"kubernetes.io/config.mirror": "x"}},
            "spec": {"nodeName": "n1", "volumes": [{"secret": {"secretName": "s"}}]}});
        assert_eq!(Pod::read(&pod).unwrap().references, []);
    }

    #[test]
    fn who_is_no_node_is_for_others_to_decide() {
        let node = Node::new(vec![Rule::all_resources()]);
        let target = Target::Resource {
            group: "",
            version: "v1",
            resource: "services",
            subresource: "",
            namespace: "",
            name: "",
            fields: None,
        };
        let ask = |user: &User| {
            node.decide(&Request {
                user,
                verb: "list",
                target,
            })
        };
        assert_eq!(ask(&User::new("bob", &[])), no(""));
        assert_eq!(ask(&User::new("system:node:n1", &[])), no(""));
        assert_eq!(ask(&User::node("n1")), yes());
    }
}
