use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::cluster::Cluster;
use crate::cycle::{Decision, decide};
use crate::memo::Memo;
use crate::rules::Profile;
use crate::rules::tests::{node, pod};

#[derive(Debug, Default)]
struct Fixed {
    claims: Vec<Arc<PersistentVolumeClaim>>,
    volumes: Vec<Arc<PersistentVolume>>,
    classes: Vec<Arc<StorageClass>>,
}

impl Source for Fixed {
    fn claim(&self, _: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.claims
            .iter()
            .find(|it| it.metadata.name.as_deref() == Some(name))
            .cloned()
    }
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes
            .iter()
            .find(|it| it.metadata.name.as_deref() == Some(name))
            .cloned()
    }
    fn volumes(&self) -> Vec<Arc<PersistentVolume>> {
        self.volumes.clone()
    }
    fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.classes
            .iter()
            .find(|it| it.metadata.name.as_deref() == Some(name))
            .cloned()
    }
}

fn object<K: serde::de::DeserializeOwned>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn claim(name: &str, class: &str, more: Value) -> Arc<PersistentVolumeClaim> {
    let mut value = json!({"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": {
        "storageClassName": class, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    for (key, content) in more.as_object().unwrap() {
        let into = if value["spec"][key].is_array() || key == "volumeName" {
            "spec"
        } else {
            "metadata"
        };
        value[into][key] = content.clone();
    }
    object(value)
}

fn volume(name: &str, node: &str) -> Arc<PersistentVolume> {
    object(
        json!({"metadata": {"name": name}, "status": {"phase": "Available"}, "spec": {
        "storageClassName": "static", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}}}),
    )
}

fn classes() -> Vec<Arc<StorageClass>> {
    let class = |name: &str, mode: &str, provisioner: &str| {
        object(json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode}))
    };
    vec![
        class("static", "WaitForFirstConsumer", NO_PROVISIONER),
        class("made", "WaitForFirstConsumer", "example.com/p"),
        class("now", "Immediate", "example.com/p"),
    ]
}

fn cluster(claims: Vec<Arc<PersistentVolumeClaim>>, volumes: Vec<Arc<PersistentVolume>>) -> Cluster {
    let mut cluster = Cluster::default();
    for name in ["a", "b"] {
        cluster.set_node(&node(name, "4", "4Gi"));
    }
    cluster.storage = Some(Arc::new(Fixed {
        claims,
        volumes,
        classes: classes(),
    }));
    cluster
}

fn with(claims: &[&str]) -> Pod {
    let volumes: Vec<Value> = claims
        .iter()
        .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}))
        .collect();
    pod("p").spec("volumes", json!(volumes)).build()
}

#[track_caller]
fn check(cluster: &mut Cluster, pod: &Pod, want: Result<&str, &str>) {
    let got = decide(pod, cluster, &mut Memo::default(), &Profile::default(), 0);
    let got = match &got {
        Decision::Place(node) => Ok(&**node),
        // What preemption has to say is no matter of volumes.
        Decision::Nowhere(nowhere) => Err(nowhere.message.split(" preemption: ").next().unwrap()),
    };
    assert_eq!(got, want);
}

#[test]
fn a_pod_waits_for_claims_that_are_not_there_or_not_bound() {
    let missing = "0/2 nodes are available: persistentvolumeclaim \"data\" not found.";
    check(&mut cluster(vec![], vec![]), &with(&["data"]), Err(missing));
    let unbound = "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.";
    check(
        &mut cluster(vec![claim("data", "now", json!({}))], vec![]),
        &with(&["data"]),
        Err(unbound),
    );
    let own = pod("p")
        .spec("volumes", json!([{"name": "own", "ephemeral": {}}]))
        .build();
    let wait = "0/2 nodes are available: waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-own\".";
    check(&mut cluster(vec![], vec![]), &own, Err(wait));
}

#[test]
fn a_bound_volume_leads_to_its_node() {
    let bound = json!({"volumeName": "v", "annotations": {api::volume::BIND_COMPLETED: "yes"}});
    let bound = claim("data", "static", bound);
    check(
        &mut cluster(vec![bound.clone()], vec![volume("v", "b")]),
        &with(&["data"]),
        Ok("b"),
    );
    let other = "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity.";
    check(
        &mut cluster(vec![bound.clone()], vec![volume("v", "c")]),
        &with(&["data"]),
        Err(other),
    );
    check(
        &mut cluster(vec![bound], vec![]),
        &with(&["data"]),
        Err("0/2 nodes are available: 2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)."),
    );
}

#[test]
fn volumes_that_are_there_are_promised_to_one_claim_each() {
    let claims = vec![claim("one", "static", json!({})), claim("two", "static", json!({}))];
    let mut cluster = cluster(claims, vec![volume("v", "a"), volume("w", "b"), volume("x", "b")]);
    check(&mut cluster, &with(&["one", "two"]), Ok("b"));
    let labels = BTreeMap::from([("kubernetes.io/hostname".to_owned(), "b".to_owned())]);
    let source = cluster.storage.clone().unwrap();
    let choices = reserve(&with(&["one"]), ("b", &labels), &*source, &mut cluster.promises);
    assert!(matches!(choices.as_slice(), [Choice::Take(..)]));
    let mut other = with(&["one", "two"]);
    other.uid = "other".into();
    // The claim that it was promised to may still have it, and nobody else.
    check(&mut cluster, &other, Ok("b"));
    let none = "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.";
    let mut third = Promises::default();
    reserve(&with(&["two"]), ("b", &labels), &*source, &mut third);
    std::mem::swap(&mut cluster.promises, &mut third);
    cluster.promises.0.insert(
        "v".to_owned(),
        Promise {
            pod: "x".into(),
            claim: "default/x".to_owned(),
        },
    );
    cluster.promises.0.insert(
        "x".to_owned(),
        Promise {
            pod: "x".into(),
            claim: "default/x".to_owned(),
        },
    );
    check(&mut cluster, &with(&["one"]), Err(none));
    cluster.promises.forget("x");
    check(&mut cluster, &with(&["one"]), Ok("a"));
}

#[test]
fn a_volume_can_be_made_where_the_pod_goes_and_stays_there_once_chosen() {
    let fresh = claim("data", "made", json!({}));
    let mut cluster = cluster(vec![fresh], vec![]);
    check(&mut cluster, &with(&["data"]), Ok("a"));
    let chosen = claim("data", "made", json!({"annotations": {SELECTED_NODE: "b"}}));
    cluster.storage = Some(Arc::new(Fixed {
        claims: vec![chosen],
        volumes: vec![],
        classes: classes(),
    }));
    check(&mut cluster, &with(&["data"]), Ok("b"));
}

#[test]
fn a_claim_for_one_pod_alone_keeps_others_away() {
    let bound = json!({"volumeName": "v", "annotations": {api::volume::BIND_COMPLETED: "yes"},
        "accessModes": ["ReadWriteOncePod"]});
    let mut cluster = cluster(vec![claim("data", "static", bound)], vec![volume("v", "b")]);
    check(&mut cluster, &with(&["data"]), Ok("b"));
    let mut first = with(&["data"]);
    first.uid = "first".into();
    cluster.place(Arc::new(first), &"b".into(), false);
    let why = "0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name and \
               ReadWriteOncePod access mode.";
    check(&mut cluster, &with(&["data"]), Err(why));
}
