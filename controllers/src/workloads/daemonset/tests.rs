use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-01-01T01:00:00Z";
const HASH: &str = "new";

struct Cluster {
    set: DaemonSet,
    nodes: Vec<Arc<Node>>,
    pods: Vec<Arc<Pod>>,
    held: BTreeMap<String, Duration>,
}

fn node(name: &str, change: Value) -> Arc<Node> {
    let mut node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
    for (key, value) in change.as_object().unwrap() {
        node["spec"][key] = value.clone();
    }
    Arc::new(serde_json::from_value(node).unwrap())
}

fn pod(name: &str, node: &str, hash: &str, ready: bool) -> Arc<Pod> {
    let ready = if ready { "True" } else { "False" };
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n", "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"controller-revision-hash": hash}},
            "spec": {"containers": [], "nodeName": node},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:10Z"}]},
        }))
        .unwrap(),
    )
}

impl Cluster {
    fn new(nodes: i32, update: Value) -> Self {
        let set = json!({
            "metadata": {"name": "d", "namespace": "n", "uid": "set", "generation": 2},
            "spec": {"selector": {"matchLabels": {"app": "d"}}, "updateStrategy": update,
                "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": []}}},
        });
        Cluster {
            set: serde_json::from_value(set).unwrap(),
            nodes: (0..nodes).map(|at| node(&format!("n{at}"), json!({}))).collect(),
            pods: Vec::new(),
            held: BTreeMap::new(),
        }
    }

    fn rolling(nodes: i32, surge: Value, unavailable: Value) -> Self {
        let update = json!({"maxSurge": surge, "maxUnavailable": unavailable});
        let mut cluster = Cluster::new(nodes, json!({"type": "RollingUpdate", "rollingUpdate": update}));
        cluster.pods = (0..nodes)
            .map(|at| pod(&format!("p{at}"), &format!("n{at}"), "old", true))
            .collect();
        cluster
    }

    fn template(&mut self) -> &mut k8s_openapi::api::core::v1::PodSpec {
        self.set.spec.as_mut().unwrap().template.spec.as_mut().unwrap()
    }

    fn plan(&self) -> Plan {
        plan(&Observed {
            set: &self.set,
            nodes: &self.nodes,
            pods: &self.pods,
            hash: HASH,
            collisions: None,
            held: &self.held,
            now: NOW.parse().unwrap(),
        })
    }
}

fn deleted(plan: &Plan) -> Vec<&str> {
    plan.delete
        .iter()
        .filter_map(|pod| pod.metadata.name.as_deref())
        .collect()
}

fn default_update() -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})
}

#[test]
fn every_node_gets_one_pod_and_the_status_tells() {
    let mut cluster = Cluster::new(2, default_update());
    assert_eq!(cluster.plan().create, ["n0", "n1"]);
    cluster.pods = vec![
        pod("a", "n0", HASH, true),
        pod("b", "n1", HASH, false),
        pod("c", "n1", HASH, true),
    ];
    let plan = cluster.plan();
    assert!(plan.create.is_empty());
    assert_eq!(deleted(&plan), ["c"], "the oldest of a node stays");
    let status = plan.status;
    assert_eq!(
        (status.desired_number_scheduled, status.current_number_scheduled),
        (2, 2)
    );
    assert_eq!((status.number_ready, status.number_available), (1, Some(1)));
    assert_eq!(
        (status.number_unavailable, status.updated_number_scheduled),
        (Some(1), Some(2))
    );
    assert_eq!(status.observed_generation, Some(2));
}

#[test]
fn a_pod_says_which_node_it_is_for_and_puts_up_with_much() {
    let mut cluster = Cluster::new(1, default_update());
    cluster.template().host_network = Some(true);
    let pod = super::super::pods::new_pod(&cluster.set, "n0", HASH);
    assert_eq!(target(&pod), Some("n0"));
    let tolerations = pod.spec.unwrap().tolerations.unwrap();
    assert_eq!(tolerations.len(), 7);
    assert_eq!(pod.metadata.labels.unwrap()["controller-revision-hash"], HASH);
}

#[test]
fn nodes_are_chosen_by_selector_affinity_name_and_taints() {
    let mut cluster = Cluster::new(2, default_update());
    cluster.template().node_selector = Some([("kubernetes.io/hostname".to_owned(), "n1".to_owned())].into());
    assert_eq!(cluster.plan().create, ["n1"]);
    cluster.template().node_selector = None;
    cluster.template().affinity = serde_json::from_value(json!({"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}]}]}}}))
    .unwrap();
    assert_eq!(cluster.plan().create, ["n0"]);
    cluster.template().affinity = None;
    cluster.template().node_name = Some("n1".to_owned());
    assert_eq!(cluster.plan().create, ["n1"]);
    cluster.template().node_name = None;
    let taint = |key: &str, effect: &str| json!({"taints": [{"key": key, "effect": effect}]});
    for (taint, creates, stays) in [
        (taint("node.kubernetes.io/unschedulable", "NoSchedule"), true, true),
        (taint("node.kubernetes.io/not-ready", "NoExecute"), true, true),
        (taint("mine", "PreferNoSchedule"), true, true),
        (taint("mine", "NoSchedule"), false, true),
        (taint("mine", "NoExecute"), false, false),
    ] {
        let mut cluster = Cluster::new(0, default_update());
        cluster.nodes = vec![node("n0", taint.clone())];
        assert_eq!(cluster.plan().create.len(), usize::from(creates), "{taint}");
        cluster.pods = vec![pod("a", "n0", HASH, true)];
        let plan = cluster.plan();
        assert_eq!(deleted(&plan).is_empty(), stays, "{taint}");
        assert_eq!(plan.status.number_misscheduled, i32::from(!creates), "{taint}");
    }
}

#[test]
fn a_pod_for_a_node_that_is_gone_is_removed() {
    let mut cluster = Cluster::new(1, default_update());
    let mut waiting = super::super::pods::new_pod(&cluster.set, "gone", HASH);
    waiting.metadata.name = Some("w".to_owned());
    cluster.pods = vec![pod("a", "n0", HASH, true), Arc::new(waiting)];
    assert_eq!(deleted(&cluster.plan()), ["w"]);
}

#[test]
fn a_failed_pod_is_replaced_but_not_in_a_hurry() {
    let mut cluster = Cluster::new(1, default_update());
    let mut failed = (*pod("a", "n0", HASH, false)).clone();
    failed.status.as_mut().unwrap().phase = Some("Failed".to_owned());
    cluster.pods = vec![Arc::new(failed)];
    let plan = cluster.plan();
    assert_eq!(
        (deleted(&plan), plan.failed.clone()),
        (vec!["a"], vec!["n0".to_owned()])
    );
    assert_eq!(plan.events[0].1, "FailedDaemonPod");
    cluster.held.insert("n0".to_owned(), Duration::from_secs(4));
    let plan = cluster.plan();
    assert!(plan.delete.is_empty() && plan.create.is_empty());
    assert_eq!(plan.look_again, Some(Duration::from_secs(4)));
}

#[test]
fn an_update_takes_as_many_pods_as_may_be_unavailable() {
    let mut cluster = Cluster::rolling(4, json!(0), json!("50%"));
    assert_eq!(deleted(&cluster.plan()), ["p0", "p1"]);
    cluster.pods[3] = pod("p3", "n3", "old", false);
    assert_eq!(
        deleted(&cluster.plan()),
        ["p3", "p0", "p1"],
        "what does not serve costs nothing"
    );
    cluster.pods[3] = pod("p3", "n3", HASH, false);
    assert_eq!(deleted(&cluster.plan()), ["p0"]);
    cluster.pods.remove(3);
    assert_eq!(cluster.plan().create, ["n3"], "first every node has a pod");
    assert!(cluster.plan().delete.is_empty());
}

#[test]
fn an_update_on_delete_waits() {
    let mut cluster = Cluster::rolling(2, json!(0), json!(1));
    cluster.set.spec.as_mut().unwrap().update_strategy = serde_json::from_value(json!({"type": "OnDelete"})).unwrap();
    let plan = cluster.plan();
    assert!(plan.delete.is_empty() && plan.create.is_empty());
    assert_eq!(plan.status.updated_number_scheduled, None);
}

#[test]
fn a_surge_makes_the_new_pod_before_the_old_one_goes() {
    let mut cluster = Cluster::rolling(3, json!(1), json!(0));
    assert_eq!(cluster.plan().create, ["n0"]);
    cluster.pods.push(pod("q0", "n0", HASH, false));
    let plan = cluster.plan();
    assert!(plan.create.is_empty() && plan.delete.is_empty());
    cluster.pods[3] = pod("q0", "n0", HASH, true);
    assert_eq!(deleted(&cluster.plan()), ["p0"]);
    cluster.pods.remove(0);
    assert_eq!(cluster.plan().create, ["n1"]);
}

#[test]
fn a_pod_that_has_ended_and_goes_makes_room() {
    let mut cluster = Cluster::new(1, default_update());
    let mut going = (*pod("a", "n0", HASH, true)).clone();
    going.metadata.deletion_timestamp = serde_json::from_value(json!(NOW)).unwrap();
    cluster.pods = vec![Arc::new(going.clone())];
    assert!(cluster.plan().create.is_empty());
    going.status.as_mut().unwrap().phase = Some("Failed".to_owned());
    cluster.pods = vec![Arc::new(going)];
    assert_eq!(cluster.plan().create, ["n0"]);
}
