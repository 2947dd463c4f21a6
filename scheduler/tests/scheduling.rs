//! The scheduler against our own API server, under upstream's identity and role, with the clock paused. The tests named
//! after sentences of the conformance suite's sig-scheduling part follow it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use scheduler::config::File;
use serde_json::{Value, json};
use testkit::Cluster;
use testkit::build::{self, Builder};

async fn cluster() -> Cluster {
    cluster_with(scheduler::Config::default()).await
}

/// A server with the accounts of pods; the controller that makes them is not there.
async fn server() -> Cluster {
    let cluster = Cluster::start().await;
    for namespace in ["default", "kube-system"] {
        let account = json!({"metadata": {"name": "default", "namespace": namespace}});
        let account: ServiceAccount = serde_json::from_value(account).unwrap();
        cluster.create(account).await;
    }
    cluster
}

async fn cluster_with(config: scheduler::Config) -> Cluster {
    let mut cluster = server().await;
    let clients = cluster.clients("system:kube-scheduler", &["system:authenticated"]);
    cluster.spawn(|stop| scheduler::run(config, clients, stop));
    cluster
}

async fn node(cluster: &Cluster, name: &str, cpu: &str) {
    let room = json!({"cpu": cpu, "memory": "8Gi", "pods": "110"});
    let node = build::node(name).set("/status", json!({"capacity": room, "allocatable": room}));
    cluster.create_global(node.node()).await;
    // A new node is tainted until the controller of nodes sees that it is ready.
    set(
        Api::<Node>::all(cluster.client()),
        name,
        json!({"spec": {"taints": null}}),
    )
    .await;
}

fn pod(name: &str, cpu: &str) -> Builder {
    build::pod(name)
        .label("app", name)
        .set("/spec/containers/0/resources", json!({"requests": {"cpu": cpu}}))
}

async fn class(cluster: &Cluster, name: &str, value: i32) {
    let class: PriorityClass = serde_json::from_value(json!({"metadata": {"name": name}, "value": value})).unwrap();
    cluster.create_global(class).await;
}

async fn placed(cluster: &mut Cluster, name: &str) -> String {
    let pod: Arc<Pod> = cluster
        .until_one("the pod has a node", "default", name, |pod: &Pod| {
            pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())
        })
        .await;
    pod.spec.as_ref().unwrap().node_name.clone().unwrap()
}

/// The message of the PodScheduled condition, once the pod is told that it has no place.
async fn refused(cluster: &mut Cluster, name: &str) -> String {
    let pod: Arc<Pod> = cluster
        .until_one("the pod is told", "default", name, |pod: &Pod| told(pod).is_some())
        .await;
    told(&pod).unwrap()
}

fn told(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions
        .iter()
        .find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
    assert_eq!(condition.reason.as_deref(), Some("Unschedulable"));
    condition.message.clone()
}

fn pods(cluster: &Cluster) -> Api<Pod> {
    Api::namespaced(cluster.client(), "default")
}

async fn set<K>(api: Api<K>, name: &str, patch: Value)
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn pods_fail_to_be_scheduled_where_requests_exceed_the_capacity_and_come_when_there_is_room() {
    let mut cluster = cluster().await;
    node(&cluster, "n", "2").await;
    cluster.create(pod("first", "1500m").pod()).await;
    assert_eq!(placed(&mut cluster, "first").await, "n");
    cluster.create(pod("second", "1").pod()).await;
    let message = refused(&mut cluster, "second").await;
    assert_eq!(
        message,
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    );
    let events: Arc<Event> = cluster
        .until("the event is there", |lister: &daemon::informer::Lister<Event>| {
            let all = lister.list().into_iter().filter_map(|entry| entry.typed().ok());
            all.into_iter()
                .find(|event| event.reason.as_deref() == Some("FailedScheduling"))
        })
        .await;
    assert_eq!(events.message.as_deref(), Some(&*message));
    assert_eq!(
        events.source.as_ref().unwrap().component.as_deref(),
        Some("default-scheduler")
    );
    let now = DeleteParams::default().grace_period(0);
    pods(&cluster).delete("first", &now).await.unwrap();
    assert_eq!(placed(&mut cluster, "second").await, "n");
}

#[tokio::test(start_paused = true)]
async fn the_node_selector_is_respected_if_matching_and_if_not_and_a_label_that_comes_later_wakes_the_pod() {
    let mut cluster = cluster().await;
    node(&cluster, "plain", "2").await;
    let nodes: Api<Node> = Api::all(cluster.client());
    let chosen = |name: &str| pod(name, "100m").set("/spec/nodeSelector", json!({"k": "v"}));
    cluster.create(chosen("a").pod()).await;
    let want = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    assert_eq!(refused(&mut cluster, "a").await, want);
    set(nodes, "plain", json!({"metadata": {"labels": {"k": "v"}}})).await;
    assert_eq!(placed(&mut cluster, "a").await, "plain");
    node(&cluster, "other", "2").await;
    cluster.create(chosen("b").pod()).await;
    assert_eq!(placed(&mut cluster, "b").await, "plain");
}

#[tokio::test(start_paused = true)]
async fn pods_with_the_same_host_port_conflict_where_one_uses_all_addresses() {
    let mut cluster = cluster().await;
    node(&cluster, "n", "2").await;
    let with_port = |name: &str, ip: &str| {
        let port = json!([{"containerPort": 54322, "hostPort": 54322, "hostIP": ip, "protocol": "TCP"}]);
        pod(name, "100m").set("/spec/containers/0/ports", port)
    };
    cluster.create(with_port("all", "").pod()).await;
    assert_eq!(placed(&mut cluster, "all").await, "n");
    cluster.create(with_port("one", "127.0.0.1").pod()).await;
    let message = refused(&mut cluster, "one").await;
    assert!(
        message.starts_with("0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn basic_preemption_works_and_the_preempted_pod_has_a_disruption_condition() {
    let mut cluster = cluster().await;
    node(&cluster, "n", "2").await;
    class(&cluster, "high", 1000).await;
    let victim = pod("victim", "2").set("/metadata/finalizers", json!(["example.com/stay"]));
    cluster.create(victim.pod()).await;
    assert_eq!(placed(&mut cluster, "victim").await, "n");
    cluster
        .create(pod("first", "2").set("/spec/priorityClassName", json!("high")).pod())
        .await;
    let victim = cluster
        .until_one("the victim is going", "default", "victim", |pod: &Pod| {
            pod.metadata.deletion_timestamp.is_some()
        })
        .await;
    let conditions = victim.status.as_ref().unwrap().conditions.clone().unwrap();
    let target = conditions.iter().find(|c| c.type_ == "DisruptionTarget").unwrap();
    assert_eq!(
        (target.status.as_str(), target.reason.as_deref()),
        ("True", Some("PreemptionByScheduler"))
    );
    assert_eq!(
        target.message.as_deref(),
        Some("default-scheduler: preempting to accommodate a higher priority pod")
    );
    cluster
        .until_one("the place is kept", "default", "first", |pod: &Pod| {
            pod.status.as_ref().unwrap().nominated_node_name.as_deref() == Some("n")
        })
        .await;
    // The victim's kubelet is not there: it ends when its grace is over and nobody holds it any more.
    set(pods(&cluster), "victim", json!({"metadata": {"finalizers": null}})).await;
    pods(&cluster)
        .delete("victim", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    assert_eq!(placed(&mut cluster, "first").await, "n");
}

#[tokio::test(start_paused = true)]
async fn a_critical_pod_preempts_one_of_lower_priority() {
    let mut cluster = cluster().await;
    node(&cluster, "n", "1").await;
    class(&cluster, "low", 1).await;
    cluster
        .create(pod("low", "1").set("/spec/priorityClassName", json!("low")).pod())
        .await;
    placed(&mut cluster, "low").await;
    let critical = pod("critical", "1").namespace("kube-system");
    cluster
        .create(
            critical
                .set("/spec/priorityClassName", json!("system-cluster-critical"))
                .pod(),
        )
        .await;
    cluster
        .until("the low one is going", |lister: &daemon::informer::Lister<Pod>| {
            lister
                .get("default", "low")
                .is_none_or(|entry| entry.deleting)
                .then_some(())
        })
        .await;
    let _ = pods(&cluster)
        .delete("low", &DeleteParams::default().grace_period(0))
        .await;
    cluster
        .until_one(
            "the critical one has its place",
            "kube-system",
            "critical",
            |pod: &Pod| pod.spec.as_ref().unwrap().node_name.is_some(),
        )
        .await;
}

#[tokio::test(start_paused = true)]
async fn of_four_levels_the_fourth_takes_the_places_of_the_least() {
    let mut cluster = cluster().await;
    node(&cluster, "n", "1").await;
    for level in 1..=4 {
        class(&cluster, &format!("p{level}"), level).await;
    }
    let ranked =
        |name: &str, level: i32, cpu: &str| pod(name, cpu).set("/spec/priorityClassName", json!(format!("p{level}")));
    for (name, level, cpu) in [("one", 1, "200m"), ("two", 2, "300m"), ("three", 3, "450m")] {
        cluster.create(ranked(name, level, cpu).pod()).await;
        placed(&mut cluster, name).await;
    }
    cluster.create(ranked("four", 4, "500m").pod()).await;
    cluster
        .until("the two least are going", |lister: &daemon::informer::Lister<Pod>| {
            let going = |name: &str| lister.get("default", name).is_none_or(|entry| entry.deleting);
            (going("one") && going("two")).then_some(())
        })
        .await;
    let now = DeleteParams::default().grace_period(0);
    for name in ["one", "two"] {
        let _ = pods(&cluster).delete(name, &now).await;
    }
    placed(&mut cluster, "four").await;
    assert!(
        pods(&cluster)
            .get("three")
            .await
            .unwrap()
            .metadata
            .deletion_timestamp
            .is_none()
    );
}

#[tokio::test(start_paused = true)]
async fn a_budget_protects_its_pods_from_preemption_while_others_can_go() {
    let mut cluster = cluster().await;
    node(&cluster, "a", "1").await;
    class(&cluster, "high", 1000).await;
    cluster.create(pod("guarded", "1").pod()).await;
    placed(&mut cluster, "guarded").await;
    node(&cluster, "b", "1").await;
    cluster.create(pod("free", "1").pod()).await;
    placed(&mut cluster, "free").await;
    let budget: PodDisruptionBudget = serde_json::from_value(json!({
        "metadata": {"name": "b", "namespace": "default"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "guarded"}}},
    }))
    .unwrap();
    cluster.create(budget).await;
    cluster
        .create(pod("first", "1").set("/spec/priorityClassName", json!("high")).pod())
        .await;
    cluster
        .until("the free one is going", |lister: &daemon::informer::Lister<Pod>| {
            lister
                .get("default", "free")
                .is_none_or(|entry| entry.deleting)
                .then_some(())
        })
        .await;
    assert!(
        pods(&cluster)
            .get("guarded")
            .await
            .unwrap()
            .metadata
            .deletion_timestamp
            .is_none()
    );
}

#[tokio::test(start_paused = true)]
async fn a_gated_pod_waits_for_its_gates_and_a_foreign_one_for_its_scheduler() {
    let mut cluster = cluster().await;
    node(&cluster, "n", "2").await;
    cluster
        .create(
            pod("gated", "100m")
                .set("/spec/schedulingGates", json!([{"name": "example.com/g"}]))
                .pod(),
        )
        .await;
    cluster
        .create(pod("foreign", "100m").set("/spec/schedulerName", json!("other")).pod())
        .await;
    cluster.create(pod("plain", "100m").pod()).await;
    placed(&mut cluster, "plain").await;
    cluster.pass(Duration::from_secs(600)).await;
    for name in ["gated", "foreign"] {
        assert!(
            pods(&cluster)
                .get(name)
                .await
                .unwrap()
                .spec
                .unwrap()
                .node_name
                .is_none(),
            "{name}"
        );
    }
    set(pods(&cluster), "gated", json!({"spec": {"schedulingGates": []}})).await;
    placed(&mut cluster, "gated").await;
}

#[tokio::test(start_paused = true)]
async fn replicas_with_anti_affinity_wait_for_a_node_of_their_own() {
    let mut cluster = cluster().await;
    node(&cluster, "a", "8").await;
    let apart = |name: &str| {
        let far = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}]}});
        pod(name, "100m").label("app", "web").set("/spec/affinity", far)
    };
    cluster.create(apart("one").pod()).await;
    assert_eq!(placed(&mut cluster, "one").await, "a");
    cluster.create(apart("two").pod()).await;
    let message = refused(&mut cluster, "two").await;
    assert!(message.starts_with("0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules."));
    node(&cluster, "b", "8").await;
    assert_eq!(placed(&mut cluster, "two").await, "b");
}

#[tokio::test(start_paused = true)]
async fn replicas_are_spread_and_a_namespace_that_gets_a_label_lets_a_pod_in() {
    let mut cluster = cluster().await;
    node(&cluster, "a", "8").await;
    node(&cluster, "b", "8").await;
    for name in ["one", "two", "three", "four"] {
        let constraint = json!([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]);
        let pod = pod(name, "100m")
            .label("app", "web")
            .set("/spec/topologySpreadConstraints", constraint);
        cluster.create(pod.pod()).await;
    }
    let mut nodes = Vec::new();
    for name in ["one", "two", "three", "four"] {
        nodes.push(placed(&mut cluster, name).await);
    }
    nodes.sort();
    assert_eq!(nodes, ["a", "a", "b", "b"]);
    let near = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname",
         "namespaceSelector": {"matchLabels": {"team": "t"}}}]}});
    cluster
        .create(pod("guest", "100m").set("/spec/affinity", near).pod())
        .await;
    refused(&mut cluster, "guest").await;
    let namespaces: Api<Namespace> = Api::all(cluster.client());
    set(namespaces, "default", json!({"metadata": {"labels": {"team": "t"}}})).await;
    placed(&mut cluster, "guest").await;
}

#[tokio::test(start_paused = true)]
async fn a_second_profile_schedules_by_its_own_rules_and_tells_under_its_own_name() {
    let file = File::parse(
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles:\n- schedulerName: default-scheduler\n- schedulerName: packer\n  plugins:\n    postFilter:\n      disabled: [{name: DefaultPreemption}]\n  pluginConfig:\n  - name: NodeResourcesFit\n    args:\n      scoringStrategy: {type: MostAllocated}\n",
    )
    .unwrap();
    let mut cluster = cluster_with(file.config).await;
    node(&cluster, "a", "4").await;
    node(&cluster, "b", "4").await;
    cluster.create(pod("first", "1").pod()).await;
    let full = placed(&mut cluster, "first").await;
    cluster
        .create(pod("packed", "1").set("/spec/schedulerName", json!("packer")).pod())
        .await;
    assert_eq!(placed(&mut cluster, "packed").await, full);
    cluster
        .create(pod("huge", "9").set("/spec/schedulerName", json!("packer")).pod())
        .await;
    assert_eq!(
        refused(&mut cluster, "huge").await,
        "0/2 nodes are available: 2 Insufficient cpu."
    );
}

#[tokio::test(start_paused = true)]
async fn a_place_that_was_kept_before_a_restart_is_kept_after_it() {
    let mut cluster = server().await;
    node(&cluster, "n", "1").await;
    class(&cluster, "high", 1000).await;
    let high = |name: &str| pod(name, "1").set("/spec/priorityClassName", json!("high"));
    cluster.create(high("kept").pod()).await;
    let status = json!({"status": {"nominatedNodeName": "n"}});
    pods(&cluster)
        .patch_status("kept", &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
    cluster.create(high("other").pod()).await;
    let clients = cluster.clients("system:kube-scheduler", &["system:authenticated"]);
    cluster.spawn(|stop| scheduler::run(scheduler::Config::default(), clients, stop));
    assert_eq!(placed(&mut cluster, "kept").await, "n");
    refused(&mut cluster, "other").await;
}
