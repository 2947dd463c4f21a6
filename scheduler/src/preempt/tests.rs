use std::sync::Arc;

use api::selector::Labels;
use serde_json::json;

use crate::cluster::{Budget, Cluster};
use crate::cycle::{Decision, Nowhere, decide};
use crate::memo::Memo;
use crate::pod::Pod;
use crate::rules::Profile;
use crate::rules::tests::{Builder, node, pod};

fn cluster(nodes: usize) -> Cluster {
    let mut cluster = Cluster::default();
    for n in 0..nodes {
        cluster.set_node(&node(&format!("n{n}"), "2", "4Gi"));
    }
    cluster
}

fn ranked(name: &str, priority: i32, cpu: &str) -> Builder {
    pod(name).cpu(cpu).spec("priority", json!(priority)).label("app", name)
}

fn put(cluster: &mut Cluster, pod: Builder, node: &str) {
    cluster.place(Arc::new(pod.build()), &node.into(), false);
}

fn ask(cluster: &mut Cluster, pod: &Pod) -> Nowhere {
    // The first time has things counted.
    decide(pod, cluster, &mut Memo::default(), &Profile::default(), 0);
    let before = cluster.summary();
    let decision = decide(pod, cluster, &mut Memo::default(), &Profile::default(), 0);
    assert_eq!(cluster.summary(), before, "an attempt is taken back");
    match decision {
        Decision::Nowhere(nowhere) => nowhere,
        Decision::Place(node) => panic!("there is a place on {node}"),
    }
}

/// The node that is emptied, and who has to go.
#[track_caller]
fn check(cluster: &mut Cluster, pod: Builder, node: &str, victims: &[&str]) {
    let nowhere = ask(cluster, &pod.build());
    let room = nowhere.room.unwrap_or_else(|| panic!("no room: {}", nowhere.message));
    let names: Vec<&str> = room.victims.iter().map(|pod| &*pod.name).collect();
    assert_eq!((&*room.node, names.as_slice()), (node, victims));
}

#[test]
fn as_few_and_as_unimportant_pods_go_as_possible() {
    let mut cluster = cluster(2);
    put(&mut cluster, ranked("a", 1, "1"), "n0");
    put(&mut cluster, ranked("b", 2, "1"), "n0");
    put(&mut cluster, ranked("c", 3, "2"), "n1");
    check(&mut cluster, ranked("p", 10, "1"), "n0", &["a"]);
    check(&mut cluster, ranked("p", 10, "2"), "n0", &["b", "a"]);
    check(&mut cluster, ranked("p", 3, "2"), "n0", &["b", "a"]);
}

#[test]
fn of_equals_the_one_that_began_last_goes() {
    let mut cluster = cluster(2);
    put(
        &mut cluster,
        ranked("old", 1, "2").status("startTime", json!("2026-01-01T00:00:00Z")),
        "n0",
    );
    put(
        &mut cluster,
        ranked("new", 1, "2").status("startTime", json!("2026-02-01T00:00:00Z")),
        "n1",
    );
    check(&mut cluster, ranked("p", 10, "1"), "n1", &["new"]);
}

#[test]
fn budgets_are_violated_last() {
    let mut cluster = cluster(2);
    put(&mut cluster, ranked("guarded", 1, "2"), "n0");
    put(&mut cluster, ranked("free", 5, "2"), "n1");
    let budget = |allowed| Budget {
        selector: Labels::equal([("app", "guarded")]),
        allowed,
        disrupted: std::collections::HashSet::new(),
    };
    cluster
        .around
        .set_budget(&"default".into(), &"b".into(), Some(budget(0)));
    check(&mut cluster, ranked("p", 10, "1"), "n1", &["free"]);
    cluster
        .around
        .set_budget(&"default".into(), &"b".into(), Some(budget(1)));
    check(&mut cluster, ranked("p", 10, "1"), "n0", &["guarded"]);
    // Better a violated budget than no place.
    cluster
        .around
        .set_budget(&"default".into(), &"b".into(), Some(budget(0)));
    check(&mut cluster, ranked("p", 4, "1"), "n0", &["guarded"]);
}

#[test]
fn who_may_not_or_cannot_is_told_so() {
    let mut cluster = cluster(2);
    put(&mut cluster, ranked("a", 5, "2"), "n0");
    put(&mut cluster, ranked("b", 5, "2"), "n1");
    let told = |cluster: &mut Cluster, pod: Builder| ask(cluster, &pod.build()).message;
    assert_eq!(
        told(&mut cluster, ranked("p", 5, "1")),
        "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."
    );
    assert_eq!(
        told(
            &mut cluster,
            ranked("p", 9, "1").spec("preemptionPolicy", json!("Never"))
        ),
        "0/2 nodes are available: 2 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."
    );
    assert_eq!(
        told(
            &mut cluster,
            ranked("p", 9, "1").spec("nodeSelector", json!({"none": "x"}))
        ),
        "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
    );
}

#[test]
fn while_room_is_made_nobody_else_goes_and_others_keep_out() {
    let mut cluster = cluster(1);
    let gone = json!([{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]);
    let victim = ranked("victim", 1, "2");
    put(
        &mut cluster,
        victim
            .meta("deletionTimestamp", json!("2026-01-01T00:00:00Z"))
            .status("conditions", gone),
        "n0",
    );
    let waiting = Arc::new(ranked("waiting", 10, "2").build());
    cluster.nominate(waiting.clone(), &"n0".into());
    let message = ask(&mut cluster, &waiting).message;
    assert!(message.ends_with("preemption: not eligible due to a terminating pod on the nominated node."));
    // The room is there, but it is not for everybody.
    cluster.displace("victim");
    let nowhere = ask(&mut cluster, &ranked("later", 10, "1").build());
    assert!(
        nowhere
            .message
            .starts_with("0/1 nodes are available: 1 Insufficient cpu."),
        "{}",
        nowhere.message
    );
    let mut memo = Memo::default();
    let profile = Profile::default();
    assert_eq!(
        decide(&waiting, &mut cluster, &mut memo, &profile, 0),
        Decision::Place("n0".into())
    );
    // Who is more important need not care.
    let first = ranked("first", 11, "1").build();
    assert_eq!(
        decide(&first, &mut cluster, &mut memo, &profile, 0),
        Decision::Place("n0".into())
    );
}

#[test]
fn a_more_important_pod_takes_over_the_node_that_is_being_emptied() {
    let mut cluster = cluster(1);
    put(&mut cluster, ranked("victim", 1, "2"), "n0");
    let waiting = Arc::new(ranked("waiting", 10, "2").build());
    cluster.nominate(waiting.clone(), &"n0".into());
    let room = ask(&mut cluster, &ranked("first", 11, "2").build()).room.unwrap();
    assert_eq!(
        room.outranked.iter().map(|pod| &*pod.name).collect::<Vec<_>>(),
        ["waiting"]
    );
}

#[test]
fn anti_affinity_to_a_less_important_pod_is_a_reason_for_it_to_go() {
    let mut cluster = cluster(1);
    put(&mut cluster, ranked("a", 1, "1"), "n0");
    put(&mut cluster, ranked("b", 1, "500m"), "n0");
    let far = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": "a"}}, "topologyKey": "kubernetes.io/hostname"}]}});
    check(&mut cluster, ranked("p", 2, "100m").spec("affinity", far), "n0", &["a"]);
}
