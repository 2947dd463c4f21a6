use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

use super::Profile;
use crate::cluster::Cluster;
use crate::cycle::{Decision, Nowhere, decide};
use crate::memo::Memo;
use crate::pod::Pod;

/// A pod for tests, described as its spec would be.
#[derive(Clone)]
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
    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.0["metadata"]["labels"][key] = value.into();
        self
    }
    pub(crate) fn meta(mut self, field: &str, value: Value) -> Self {
        self.0["metadata"][field] = value;
        self
    }
    pub(crate) fn status(mut self, field: &str, value: Value) -> Self {
        self.0["status"][field] = value;
        self
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
fn check(cluster: &mut Cluster, pod: Builder, want: Result<&str, &str>) {
    let got = decide(&pod.build(), cluster, &mut Memo::default(), &Profile::default(), 0);
    let got = match &got {
        Decision::Place(node) => Ok(&**node),
        // What preemption has to say is told in its own tests.
        Decision::Nowhere(Nowhere { message, .. }) => Err(message.split(" preemption: ").next().unwrap()),
    };
    assert_eq!(got, want);
}

#[test]
fn without_nodes_there_is_nowhere_to_go() {
    check(
        &mut cluster(vec![]),
        pod("a"),
        Err("no nodes available to schedule pods"),
    );
}

#[test]
fn reasons_are_counted_and_sorted() {
    let mut cordoned = node("c", "8", "8Gi");
    cordoned.spec = serde_json::from_value(json!({"unschedulable": true})).unwrap();
    let mut cluster = cluster(vec![node("a", "1", "1Gi"), node("b", "1", "1Gi"), cordoned]);
    let want = "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu.";
    check(&mut cluster, pod("p").cpu("2"), Err(want));
}

#[test]
fn resources_must_fit_and_the_emptier_node_is_better() {
    let mut cluster = cluster(vec![node("a", "2", "2Gi"), node("b", "4", "4Gi")]);
    check(&mut cluster, pod("p").cpu("1").memory("1Gi"), Ok("b"));
    check(&mut cluster, pod("p").cpu("3"), Ok("b"));
    check(
        &mut cluster,
        pod("p").request("example.com/gpu", "1"),
        Err("0/2 nodes are available: 2 Insufficient example.com/gpu."),
    );
    cluster.place(Arc::new(pod("big").cpu("3900m").build()), &"b".into(), false);
    check(&mut cluster, pod("p").cpu("1"), Ok("a"));
}

#[test]
fn a_node_that_is_full_of_pods_takes_no_more() {
    let mut small = node("a", "4", "4Gi");
    small.status = serde_json::from_value(json!({"allocatable": {"cpu": "4", "memory": "4Gi", "pods": "1"}})).unwrap();
    let mut cluster = cluster(vec![small]);
    cluster.place(Arc::new(pod("one").build()), &"a".into(), false);
    check(
        &mut cluster,
        pod("two"),
        Err("0/1 nodes are available: 1 Too many pods."),
    );
}

#[test]
fn taints_keep_out_what_does_not_tolerate_them() {
    let mut cluster = cluster(vec![tainted("a", "NoSchedule")]);
    check(
        &mut cluster,
        pod("p"),
        Err("0/1 nodes are available: 1 node(s) had untolerated taint(s)."),
    );
    check(
        &mut cluster,
        pod("p").spec("tolerations", json!([{"key": "k", "operator": "Exists"}])),
        Ok("a"),
    );
}

#[test]
fn a_preferring_taint_only_costs_points() {
    let mut cluster = cluster(vec![tainted("a", "PreferNoSchedule"), node("b", "4", "4Gi")]);
    check(&mut cluster, pod("p"), Ok("b"));
}

#[test]
fn selectors_and_affinity_choose_among_labels_and_names() {
    let mut cluster = cluster(vec![node("a", "4", "4Gi"), node("b", "4", "4Gi")]);
    let refused = Err("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.");
    let affinity = |terms: Value| json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
    let by_label = |operator: &str, values: Value| {
        affinity(
            json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": operator, "values": values}]}]),
        )
    };
    check(
        &mut cluster,
        pod("p").spec("nodeSelector", json!({"kubernetes.io/hostname": "b"})),
        Ok("b"),
    );
    check(
        &mut cluster,
        pod("p").spec("nodeSelector", json!({"none": "b"})),
        refused,
    );
    check(
        &mut cluster,
        pod("p").spec("affinity", by_label("In", json!(["b"]))),
        Ok("b"),
    );
    check(
        &mut cluster,
        pod("p").spec("affinity", by_label("NotIn", json!(["a"]))),
        Ok("b"),
    );
    check(
        &mut cluster,
        pod("p").spec("affinity", by_label("Bad", json!([]))),
        refused,
    );
    check(&mut cluster, pod("p").spec("affinity", affinity(json!([{}]))), refused);
    let by_name = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]);
    check(&mut cluster, pod("p").spec("affinity", affinity(by_name)), Ok("b"));
}

#[test]
fn preferred_affinity_decides_between_equals() {
    let mut cluster = cluster(vec![node("a", "4", "4Gi"), node("b", "4", "4Gi")]);
    let preferred = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1,
        "preference": {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["b"]}]}}]}});
    check(&mut cluster, pod("p").spec("affinity", preferred), Ok("b"));
}

#[test]
fn a_port_of_a_node_goes_to_one_pod() {
    let mut cluster = cluster(vec![node("a", "4", "4Gi")]);
    cluster.place(Arc::new(pod("one").port(80).build()), &"a".into(), false);
    let refused = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
    check(&mut cluster, pod("two").port(80), Err(refused));
    check(&mut cluster, pod("two").port(81), Ok("a"));
}

#[test]
fn a_node_with_the_image_is_better() {
    let mut having = node("b", "4", "4Gi");
    having.status.as_mut().unwrap().images =
        serde_json::from_value(json!([{"names": ["i:latest"], "sizeBytes": 900 << 20}])).unwrap();
    let mut cluster = cluster(vec![node("a", "4", "4Gi"), having]);
    check(&mut cluster, pod("p"), Ok("b"));
}

#[test]
fn equals_take_turns() {
    let mut cluster = cluster(vec![node("a", "4", "4Gi"), node("b", "4", "4Gi")]);
    let places: Vec<Decision> = (0..2)
        .map(|turn| {
            decide(
                &pod("p").build(),
                &mut cluster,
                &mut Memo::default(),
                &Profile::default(),
                turn,
            )
        })
        .collect();
    assert_eq!(places, [Decision::Place("a".into()), Decision::Place("b".into())]);
}

/// A node in a zone.
fn zoned(name: &str, zone: &str) -> core::Node {
    let mut node = node(name, "4", "4Gi");
    let labels = node.metadata.labels.as_mut().unwrap();
    labels.insert("zone".into(), zone.into());
    node
}

fn app(name: &str, app: &str) -> Builder {
    pod(name).label("app", app)
}

fn put(cluster: &mut Cluster, pod: Builder, node: &str) {
    cluster.place(Arc::new(pod.build()), &node.into(), false);
}

fn term(app: &str, key: &str) -> Value {
    json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key})
}

fn required(kind: &str, terms: Value) -> Value {
    json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}})
}

fn preferred(kind: &str, weight: i64, term: Value) -> Value {
    json!({kind: {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": weight, "podAffinityTerm": term}]}})
}

#[test]
fn pods_go_near_those_that_they_require() {
    let mut cluster = cluster(vec![zoned("a", "x"), zoned("b", "y")]);
    let near = |app: &str| required("podAffinity", json!([term(app, "zone")]));
    let refused = Err("0/2 nodes are available: 2 node(s) didn't match pod affinity rules.");
    check(&mut cluster, app("p", "web").spec("affinity", near("db")), refused);
    put(&mut cluster, app("d", "db"), "b");
    check(&mut cluster, app("p", "web").spec("affinity", near("db")), Ok("b"));
    let elsewhere = app("p", "web")
        .meta("namespace", json!("other"))
        .spec("affinity", near("db"));
    check(&mut cluster, elsewhere, refused);
    // The first of a kind that wants to be near its own kind may start anywhere.
    check(&mut cluster, app("p", "new").spec("affinity", near("new")), Ok("a"));
}

#[test]
fn pods_stay_far_from_those_that_they_refuse_and_that_refuse_them() {
    let mut cluster = cluster(vec![zoned("a", "x"), zoned("b", "y")]);
    let far = |app: &str| required("podAntiAffinity", json!([term(app, "zone")]));
    put(&mut cluster, app("one", "db").spec("affinity", far("db")), "a");
    check(&mut cluster, app("two", "db").spec("affinity", far("db")), Ok("b"));
    check(&mut cluster, app("three", "db"), Ok("b"));
    put(&mut cluster, app("two", "db"), "b");
    let both = "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.";
    check(&mut cluster, app("four", "db").spec("affinity", far("db")), Err(both));
    let theirs = "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.";
    cluster.displace("two");
    cluster.remove_node("b");
    check(&mut cluster, app("five", "db"), Err(theirs));
    check(&mut cluster, app("six", "web"), Ok("a"));
}

#[test]
fn namespaces_are_chosen_by_name_or_by_their_labels() {
    let mut cluster = cluster(vec![zoned("a", "x")]);
    cluster.set_namespace("one", Some([("team".to_owned(), "t".to_owned())].into()));
    cluster.set_namespace("two", Some(Default::default()));
    put(&mut cluster, app("d", "db").meta("namespace", json!("one")), "a");
    let refused = Err("0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.");
    let far = |field: &str, value: Value| {
        let mut term = term("db", "zone");
        term[field] = value;
        app("p", "web").spec("affinity", required("podAntiAffinity", json!([term])))
    };
    check(&mut cluster, far("namespaces", json!(["one"])), refused);
    check(&mut cluster, far("namespaces", json!(["two"])), Ok("a"));
    check(
        &mut cluster,
        far("namespaceSelector", json!({"matchLabels": {"team": "t"}})),
        refused,
    );
    check(
        &mut cluster,
        far("namespaceSelector", json!({"matchLabels": {"team": "u"}})),
        Ok("a"),
    );
    check(&mut cluster, far("namespaceSelector", json!({})), refused);
    cluster.set_namespace("one", Some(Default::default()));
    check(
        &mut cluster,
        far("namespaceSelector", json!({"matchLabels": {"team": "t"}})),
        Ok("a"),
    );
}

#[test]
fn label_keys_narrow_affinity_to_pods_of_the_same_revision() {
    let mut cluster = cluster(vec![zoned("a", "x"), zoned("b", "y")]);
    put(&mut cluster, app("old", "web").label("hash", "1"), "a");
    put(&mut cluster, app("new", "web").label("hash", "2"), "b");
    let pod = |field: &str| {
        let mut term = term("web", "zone");
        term[field] = json!(["hash"]);
        app("p", "web")
            .label("hash", "2")
            .spec("affinity", required("podAffinity", json!([term])))
    };
    check(&mut cluster, pod("matchLabelKeys"), Ok("b"));
    check(&mut cluster, pod("mismatchLabelKeys"), Ok("a"));
}

#[test]
fn wishes_about_neighbours_decide_between_equals_both_ways() {
    let mut cluster = cluster(vec![zoned("a", "x"), zoned("b", "y")]);
    put(&mut cluster, app("one", "db"), "b");
    // Something as large on the other node, so that both are as empty.
    put(&mut cluster, app("other", "x"), "a");
    let near = preferred("podAffinity", 10, term("db", "zone"));
    check(&mut cluster, app("p", "web").spec("affinity", near), Ok("b"));
    let far = preferred("podAntiAffinity", 10, term("db", "zone"));
    check(&mut cluster, app("p", "web").spec("affinity", far), Ok("a"));
    // A placed pod wishes, and one that is there requires.
    cluster.displace("one");
    put(
        &mut cluster,
        app("one", "db").spec("affinity", preferred("podAffinity", 10, term("web", "zone"))),
        "b",
    );
    check(&mut cluster, app("p", "web"), Ok("b"));
    put(
        &mut cluster,
        app("one", "db").spec("affinity", required("podAffinity", json!([term("web", "zone")]))),
        "b",
    );
    check(&mut cluster, app("p", "web"), Ok("b"));
}

fn spread(skew: i64, key: &str, when: &str) -> Value {
    json!({"maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": when,
        "labelSelector": {"matchLabels": {"app": "web"}}})
}

#[test]
fn spread_keeps_the_difference_between_domains_small() {
    let mut cluster = cluster(vec![
        zoned("a", "x"),
        zoned("b", "x"),
        zoned("c", "y"),
        node("d", "4", "4Gi"),
    ]);
    put(&mut cluster, app("1", "web"), "a");
    let pod = || app("p", "web").spec("topologySpreadConstraints", json!([spread(1, "zone", "DoNotSchedule")]));
    check(&mut cluster, pod(), Ok("c"));
    let mut cordoned = zoned("c", "y");
    cordoned.spec = serde_json::from_value(json!({"unschedulable": true})).unwrap();
    cluster.set_node(&cordoned);
    let refused = "0/4 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label), 1 node(s) were unschedulable, 2 node(s) didn't match pod topology spread constraints.";
    check(&mut cluster, pod(), Err(refused));
    // Where only nodes of one zone may be used, only they are domains.
    let here = pod().spec("nodeSelector", json!({"zone": "x"}));
    check(&mut cluster, here, Ok("b"));
}

#[test]
fn too_few_domains_count_as_an_empty_one() {
    let mut cluster = cluster(vec![zoned("a", "x")]);
    put(&mut cluster, app("1", "web"), "a");
    let pod = |domains: i64| {
        let mut constraint = spread(1, "zone", "DoNotSchedule");
        constraint["minDomains"] = domains.into();
        app("p", "web").spec("topologySpreadConstraints", json!([constraint]))
    };
    check(&mut cluster, pod(1), Ok("a"));
    let refused = "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints.";
    check(&mut cluster, pod(2), Err(refused));
}

#[test]
fn taints_take_a_node_out_of_its_domain_where_the_policy_says_so() {
    let mut tainted = zoned("b", "y");
    tainted.spec = serde_json::from_value(json!({"taints": [{"key": "k", "effect": "NoSchedule"}]})).unwrap();
    let mut cluster = cluster(vec![zoned("a", "x"), tainted]);
    put(&mut cluster, app("1", "web"), "a");
    let pod = |policy: &str| {
        let mut constraint = spread(1, "zone", "DoNotSchedule");
        constraint["nodeTaintsPolicy"] = policy.into();
        app("p", "web").spec("topologySpreadConstraints", json!([constraint]))
    };
    check(&mut cluster, pod("Honor"), Ok("a"));
    let refused = "0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) had untolerated taint(s).";
    check(&mut cluster, pod("Ignore"), Err(refused));
}

#[test]
fn pods_that_are_going_do_not_count_for_spread() {
    let mut cluster = cluster(vec![zoned("a", "x"), zoned("b", "y")]);
    put(
        &mut cluster,
        app("1", "web").meta("deletionTimestamp", json!(Timestamp::UNIX_EPOCH)),
        "a",
    );
    put(&mut cluster, app("2", "web"), "b");
    let pod = app("p", "web").spec("topologySpreadConstraints", json!([spread(1, "zone", "DoNotSchedule")]));
    check(&mut cluster, pod, Ok("a"));
}

#[test]
fn soft_spread_and_the_defaults_only_cost_points() {
    let mut cluster = cluster(vec![zoned("a", "x"), zoned("b", "y")]);
    put(&mut cluster, app("1", "web"), "b");
    put(&mut cluster, app("2", "other"), "a");
    let pod = app("p", "web").spec(
        "topologySpreadConstraints",
        json!([spread(1, "zone", "ScheduleAnyway")]),
    );
    check(&mut cluster, pod, Ok("a"));
    // Pods of one service are spread though nobody asked for it.
    let selector = [("app".to_owned(), "web".to_owned())].into();
    cluster
        .around
        .set_service(&"default".into(), &"web".into(), Some(selector));
    check(&mut cluster, app("p", "web"), Ok("a"));
    check(&mut cluster, app("p", "other"), Ok("a"));
}

#[test]
fn all_that_is_short_is_told_and_what_could_never_fit_is_no_matter_of_preemption() {
    let mut cluster = cluster(vec![node("a", "1", "1Gi")]);
    let want = "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory.";
    check(&mut cluster, pod("p").cpu("2").memory("2Gi"), Err(want));
    let profile = Profile::default();
    let got = decide(
        &pod("p").cpu("2").build(),
        &mut cluster,
        &mut Memo::default(),
        &profile,
        0,
    );
    let Decision::Nowhere(nowhere) = got else {
        panic!("it cannot fit")
    };
    let want = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    assert_eq!(nowhere.message, want);
}

#[test]
fn nodes_that_a_pod_does_not_name_are_told_as_such() {
    let mut cluster = cluster(vec![node("a", "1", "1Gi"), node("b", "1", "1Gi")]);
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]}}});
    let want = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't satisfy plugin(s) [NodeAffinity].";
    check(&mut cluster, pod("p").cpu("2").spec("affinity", affinity), Err(want));
}
