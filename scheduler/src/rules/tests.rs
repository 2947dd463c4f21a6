use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

use super::Rules;
use crate::cluster::Cluster;
use crate::cycle::{Decision, decide};
use crate::pod::Pod;

/// A pod for tests, described as its spec would be.
pub(crate) struct Builder(Value);

pub(crate) fn pod(name: &str) -> Builder {
    Builder(json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "creationTimestamp": Timestamp::UNIX_EPOCH},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {}}}]},
    }))
}

impl Builder {
    pub(crate) fn cpu(self, amount: &str) -> Self {
        self.request("cpu", amount)
    }
    pub(crate) fn memory(self, amount: &str) -> Self {
        self.request("memory", amount)
    }
    pub(crate) fn request(mut self, name: &str, amount: &str) -> Self {
        self.0["spec"]["containers"][0]["resources"]["requests"][name] = amount.into();
        self
    }
    pub(crate) fn port(self, port: u16) -> Self {
        self.container(
            "ports",
            json!([{"containerPort": port, "hostPort": port, "protocol": "TCP"}]),
        )
    }
    fn container(mut self, field: &str, value: Value) -> Self {
        self.0["spec"]["containers"][0][field] = value;
        self
    }
    pub(crate) fn spec(mut self, field: &str, value: Value) -> Self {
        self.0["spec"][field] = value;
        self
    }
    pub(crate) fn build(self) -> Pod {
        let object: core::Pod = serde_json::from_value(self.0).unwrap();
        Pod::parse(&object).unwrap()
    }
}

pub(crate) fn node(name: &str, cpu: &str, memory: &str) -> core::Node {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": "110"}},
    }))
    .unwrap()
}

fn tainted(name: &str, effect: &str) -> core::Node {
    let mut node = node(name, "4", "4Gi");
    node.spec = serde_json::from_value(json!({"taints": [{"key": "k", "value": "v", "effect": effect}]})).unwrap();
    node
}

fn cluster(nodes: Vec<core::Node>) -> Cluster {
    let mut cluster = Cluster::default();
    for node in &nodes {
        cluster.set_node(node);
    }
    cluster
}

#[track_caller]
fn check(cluster: &Cluster, pod: Builder, want: Result<&str, &str>) {
    let got = decide(&pod.build(), cluster, &Rules::default(), 0);
    let want = match want {
        Ok(node) => Decision::Place(node.into()),
        Err(message) => Decision::Nowhere(message.into()),
    };
    assert_eq!(got, want);
}

#[test]
fn without_nodes_there_is_nowhere_to_go() {
    check(&cluster(vec![]), pod("a"), Err("no nodes available to schedule pods"));
}

#[test]
fn reasons_are_counted_and_sorted() {
    let mut cordoned = node("c", "8", "8Gi");
    cordoned.spec = serde_json::from_value(json!({"unschedulable": true})).unwrap();
    let cluster = cluster(vec![node("a", "1", "1Gi"), node("b", "1", "1Gi"), cordoned]);
    let want = "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu.";
    check(&cluster, pod("p").cpu("2"), Err(want));
}

#[test]
fn resources_must_fit_and_the_emptier_node_is_better() {
    let mut cluster = cluster(vec![node("a", "2", "2Gi"), node("b", "4", "4Gi")]);
    check(&cluster, pod("p").cpu("1").memory("1Gi"), Ok("b"));
    check(&cluster, pod("p").cpu("3"), Ok("b"));
    check(
        &cluster,
        pod("p").request("example.com/gpu", "1"),
        Err("0/2 nodes are available: 2 Insufficient example.com/gpu."),
    );
    cluster.place(Arc::new(pod("big").cpu("3900m").build()), "b".into(), false);
    check(&cluster, pod("p").cpu("1"), Ok("a"));
}

#[test]
fn a_node_that_is_full_of_pods_takes_no_more() {
    let mut small = node("a", "4", "4Gi");
    small.status = serde_json::from_value(json!({"allocatable": {"cpu": "4", "memory": "4Gi", "pods": "1"}})).unwrap();
    let mut cluster = cluster(vec![small]);
    cluster.place(Arc::new(pod("one").build()), "a".into(), false);
    check(&cluster, pod("two"), Err("0/1 nodes are available: 1 Too many pods."));
}

#[test]
fn taints_keep_out_what_does_not_tolerate_them() {
    let cluster = cluster(vec![tainted("a", "NoSchedule")]);
    check(
        &cluster,
        pod("p"),
        Err("0/1 nodes are available: 1 node(s) had untolerated taint {k: v}."),
    );
    check(
        &cluster,
        pod("p").spec("tolerations", json!([{"key": "k", "operator": "Exists"}])),
        Ok("a"),
    );
}

#[test]
fn a_preferring_taint_only_costs_points() {
    let cluster = cluster(vec![tainted("a", "PreferNoSchedule"), node("b", "4", "4Gi")]);
    check(&cluster, pod("p"), Ok("b"));
}

#[test]
fn selectors_and_affinity_choose_among_labels_and_names() {
    let cluster = cluster(vec![node("a", "4", "4Gi"), node("b", "4", "4Gi")]);
    let refused = Err("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.");
    let affinity = |terms: Value| json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
    let by_label = |operator: &str, values: Value| {
        affinity(
            json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": operator, "values": values}]}]),
        )
    };
    check(
        &cluster,
        pod("p").spec("nodeSelector", json!({"kubernetes.io/hostname": "b"})),
        Ok("b"),
    );
    check(&cluster, pod("p").spec("nodeSelector", json!({"none": "b"})), refused);
    check(
        &cluster,
        pod("p").spec("affinity", by_label("In", json!(["b"]))),
        Ok("b"),
    );
    check(
        &cluster,
        pod("p").spec("affinity", by_label("NotIn", json!(["a"]))),
        Ok("b"),
    );
    check(&cluster, pod("p").spec("affinity", by_label("Bad", json!([]))), refused);
    check(&cluster, pod("p").spec("affinity", affinity(json!([{}]))), refused);
    let by_name = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]);
    check(&cluster, pod("p").spec("affinity", affinity(by_name)), Ok("b"));
}

#[test]
fn preferred_affinity_decides_between_equals() {
    let cluster = cluster(vec![node("a", "4", "4Gi"), node("b", "4", "4Gi")]);
    let preferred = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1,
        "preference": {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["b"]}]}}]}});
    check(&cluster, pod("p").spec("affinity", preferred), Ok("b"));
}

#[test]
fn a_port_of_a_node_goes_to_one_pod() {
    let mut cluster = cluster(vec![node("a", "4", "4Gi")]);
    cluster.place(Arc::new(pod("one").port(80).build()), "a".into(), false);
    let refused = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
    check(&cluster, pod("two").port(80), Err(refused));
    check(&cluster, pod("two").port(81), Ok("a"));
}

#[test]
fn a_node_with_the_image_is_better() {
    let mut having = node("b", "4", "4Gi");
    having.status.as_mut().unwrap().images =
        serde_json::from_value(json!([{"names": ["i"], "sizeBytes": 900 << 20}])).unwrap();
    let cluster = cluster(vec![node("a", "4", "4Gi"), having]);
    check(&cluster, pod("p"), Ok("b"));
}

#[test]
fn equals_take_turns() {
    let cluster = cluster(vec![node("a", "4", "4Gi"), node("b", "4", "4Gi")]);
    let places: Vec<Decision> = (0..2)
        .map(|turn| decide(&pod("p").build(), &cluster, &Rules::default(), turn))
        .collect();
    assert_eq!(places, [Decision::Place("a".into()), Decision::Place("b".into())]);
}
