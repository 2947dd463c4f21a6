//! The plan over a small simulation: pods are what the steps made of them, and a kubelet readies them when told to.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};

use super::*;

struct Cluster {
    set: StatefulSet,
    pods: Vec<Arc<Pod>>,
    claims: Claims,
    /// The names of the current and of the update revision, with their image.
    current: (String, String),
    update: (String, String),
    now: Timestamp,
    serial: u32,
}

fn template(image: &str) -> PodTemplateSpec {
    let template =
        json!({"metadata": {"labels": {"app": "w"}}, "spec": {"containers": [{"name": "c", "image": image}]}});
    serde_json::from_value(template).unwrap()
}

impl Cluster {
    fn new(spec: Value) -> Self {
        let mut set = json!({
            "metadata": {"name": "w", "namespace": "n", "uid": "set", "generation": 1},
            "spec": {"replicas": 3, "serviceName": "s", "selector": {"matchLabels": {"app": "w"}}, "template": template("v1"),
                "podManagementPolicy": "OrderedReady",
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}},
        });
        for (key, value) in spec.as_object().unwrap() {
            set["spec"][key] = value.clone();
        }
        Cluster {
            set: serde_json::from_value(set).unwrap(),
            pods: Vec::new(),
            claims: Claims::new(),
            current: ("w-v1".into(), "v1".into()),
            update: ("w-v1".into(), "v1".into()),
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            serial: 0,
        }
    }

    fn revision(name: &str) -> ControllerRevision {
        ControllerRevision {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    fn plan(&self) -> Plan {
        let (current, update) = (Self::revision(&self.current.0), Self::revision(&self.update.0));
        plan(&Observed {
            set: &self.set,
            pods: &self.pods,
            claims: &self.claims,
            current: (&current, &template(&self.current.1)),
            update: (&update, &template(&self.update.1)),
            collisions: 0,
            now: self.now,
        })
    }

    /// Performs one plan; what it did, in short.
    fn step(&mut self) -> Vec<String> {
        let plan = self.plan();
        let mut done = Vec::new();
        for step in plan.steps {
            match step {
                Step::Create { mut pod, claims } => {
                    self.serial += 1;
                    done.push(format!("+{}", pod.metadata.name.as_deref().unwrap()));
                    self.claim(claims);
                    pod.metadata.uid = Some(format!("u{}", self.serial));
                    pod.status = serde_json::from_value(json!({"phase": "Pending"})).unwrap();
                    self.pods.push(Arc::new(pod));
                }
                Step::Claim { claims, .. } => self.claim(claims),
                Step::Update { pod, claims } => {
                    done.push(format!("~{}", pod.metadata.name.as_deref().unwrap()));
                    self.claim(claims);
                    let at = self
                        .pods
                        .iter()
                        .position(|other| other.metadata.name == pod.metadata.name);
                    self.pods[at.unwrap()] = Arc::new(pod);
                }
                Step::Own(claim) => {
                    self.claims
                        .insert(claim.metadata.name.clone().unwrap(), Arc::new(claim));
                }
                Step::Delete(pod) => {
                    done.push(format!("-{}", pod.metadata.name.as_deref().unwrap()));
                    let at = self.pods.iter().position(|other| Arc::ptr_eq(other, &pod)).unwrap();
                    Arc::make_mut(&mut self.pods[at]).metadata.deletion_timestamp = Some(Time(self.now));
                }
            }
        }
        let completed = plan.status.current_revision == Some(self.update.0.clone());
        if completed {
            self.current = self.update.clone();
        }
        self.set.status = Some(plan.status);
        done
    }

    fn claim(&mut self, claims: Vec<PersistentVolumeClaim>) {
        for claim in claims {
            self.claims
                .insert(claim.metadata.name.clone().unwrap(), Arc::new(claim));
        }
    }

    fn phase(&mut self, name: &str, phase: &str, ready: bool) {
        let at = self
            .pods
            .iter()
            .position(|pod| pod.metadata.name.as_deref() == Some(name))
            .unwrap();
        let status = if ready { "True" } else { "False" };
        Arc::make_mut(&mut self.pods[at]).status = serde_json::from_value(json!({"phase": phase, "conditions": [
            {"type": "Ready", "status": status, "lastTransitionTime": self.now.to_string()}]}))
        .unwrap();
    }

    /// The kubelet: deleted pods go, the others get ready.
    fn kubelet(&mut self) {
        self.pods.retain(|pod| !pod::is_deleting(pod));
        for name in self.names() {
            self.phase(&name, "Running", true);
        }
    }

    fn names(&self) -> Vec<String> {
        self.pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect()
    }

    /// Steps, with a kubelet between, until nothing is done any more: what was done each time.
    fn settle(&mut self) -> Vec<Vec<String>> {
        let mut all = Vec::new();
        for _ in 0..30 {
            let done = self.step();
            let deleting = self.pods.iter().any(|pod| pod::is_deleting(pod));
            if done.is_empty() && !deleting {
                return all;
            }
            if !done.is_empty() {
                all.push(done);
            }
            self.kubelet();
        }
        panic!("no end: {all:?}");
    }

    fn spec(&mut self) -> &mut StatefulSetSpec {
        self.set.spec.as_mut().unwrap()
    }

    fn update(&mut self, version: &str) {
        self.update = (format!("w-{version}"), version.to_owned());
        self.spec().template = template(version);
    }

    fn versions(&self) -> Vec<(String, String)> {
        let version = |pod: &Arc<Pod>| (pod.metadata.name.clone().unwrap(), revision(pod).to_owned());
        let mut versions: Vec<_> = self.pods.iter().map(version).collect();
        versions.sort();
        versions
    }
}

fn said(lists: &[&[&str]]) -> Vec<Vec<String>> {
    lists
        .iter()
        .map(|list| list.iter().map(|text| (*text).to_owned()).collect())
        .collect()
}

#[test]
fn pods_come_in_ascending_and_go_in_descending_order() {
    let mut cluster = Cluster::new(json!({}));
    assert_eq!(cluster.settle(), said(&[&["+w-0"], &["+w-1"], &["+w-2"]]));
    let pod = cluster.pods[1].clone();
    let labels = pod.metadata.labels.clone().unwrap();
    assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "w-1");
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "1");
    assert_eq!(labels["controller-revision-hash"], "w-v1");
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(
        (spec.hostname.as_deref(), spec.subdomain.as_deref()),
        (Some("w-1"), Some("s"))
    );
    cluster.spec().replicas = Some(1);
    assert_eq!(cluster.settle(), said(&[&["-w-2"], &["-w-1"]]));
}

#[test]
fn scaling_halts_while_a_pod_is_unhealthy() {
    let mut cluster = Cluster::new(json!({}));
    cluster.step();
    cluster.phase("w-0", "Running", false);
    assert!(cluster.step().is_empty());
    cluster.kubelet();
    cluster.settle();
    cluster.phase("w-0", "Running", false);
    cluster.spec().replicas = Some(1);
    assert!(cluster.step().is_empty(), "no pod goes while w-0 is ill");
    cluster.kubelet();
    assert_eq!(cluster.step(), ["-w-2"]);
}

#[test]
fn a_parallel_set_makes_and_removes_all_at_once() {
    let mut cluster = Cluster::new(json!({"podManagementPolicy": "Parallel"}));
    assert_eq!(cluster.step(), ["+w-0", "+w-1", "+w-2"]);
    cluster.phase("w-1", "Running", false);
    cluster.spec().replicas = Some(0);
    assert_eq!(cluster.step(), ["-w-2", "-w-1", "-w-0"]);
}

#[test]
fn a_failed_pod_is_deleted_and_made_again() {
    let mut cluster = Cluster::new(json!({"replicas": 1}));
    cluster.settle();
    cluster.phase("w-0", "Failed", false);
    assert_eq!(cluster.settle(), said(&[&["-w-0"], &["+w-0"]]));
}

#[test]
fn an_update_goes_from_the_highest_number_down_and_can_be_undone() {
    let mut cluster = Cluster::new(json!({}));
    cluster.settle();
    cluster.update("v2");
    let rolled = said(&[&["-w-2"], &["+w-2"], &["-w-1"], &["+w-1"], &["-w-0"], &["+w-0"]]);
    assert_eq!(cluster.settle(), rolled);
    let status = cluster.set.status.clone().unwrap();
    assert_eq!(status.current_revision.as_deref(), Some("w-v2"));
    assert_eq!((status.current_replicas, status.updated_replicas), (Some(3), Some(3)));
    cluster.update("v1");
    assert_eq!(cluster.settle(), rolled);
}

#[test]
fn a_partition_keeps_the_lower_pods_at_the_old_version_also_when_they_are_made_again() {
    let mut cluster =
        Cluster::new(json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}));
    cluster.settle();
    cluster.update("v2");
    assert_eq!(cluster.settle(), said(&[&["-w-2"], &["+w-2"]]));
    cluster.pods.clear();
    cluster.settle();
    let versions: Vec<_> = cluster.versions().into_iter().map(|(_, version)| version).collect();
    assert_eq!(versions, ["w-v1", "w-v1", "w-v2"]);
    let status = cluster.set.status.clone().unwrap();
    assert_eq!((status.current_replicas, status.updated_replicas), (Some(2), Some(1)));
}

#[test]
fn as_many_are_updated_at_once_as_may_be_unavailable() {
    let update = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": 2}});
    let mut cluster = Cluster::new(json!({"podManagementPolicy": "Parallel", "updateStrategy": update, "replicas": 4}));
    cluster.settle();
    cluster.update("v2");
    assert_eq!(cluster.step(), ["-w-3", "-w-2"]);
    assert!(cluster.step().is_empty());
}

#[test]
fn in_a_parallel_set_what_does_not_serve_is_replaced_first() {
    let mut cluster = Cluster::new(json!({"podManagementPolicy": "Parallel"}));
    cluster.settle();
    cluster.phase("w-0", "Running", false);
    cluster.update("v2");
    assert_eq!(cluster.step(), ["-w-0"]);
}

#[test]
fn on_delete_waits_for_somebody_to_delete() {
    let mut cluster = Cluster::new(json!({"updateStrategy": {"type": "OnDelete"}}));
    cluster.settle();
    cluster.update("v2");
    assert!(cluster.settle().is_empty());
    cluster.pods.remove(1);
    cluster.settle();
    let versions: Vec<_> = cluster.versions().into_iter().map(|(_, version)| version).collect();
    assert_eq!(versions, ["w-v1", "w-v2", "w-v1"]);
}

#[test]
fn numbers_start_where_they_are_asked_to() {
    let mut cluster = Cluster::new(json!({"replicas": 2, "ordinals": {"start": 5}}));
    cluster.settle();
    assert_eq!(cluster.names(), ["w-5", "w-6"]);
    cluster.spec().ordinals.as_mut().unwrap().start = Some(6);
    cluster.settle();
    let mut names = cluster.names();
    names.sort();
    assert_eq!(names, ["w-6", "w-7"]);
}

#[test]
fn a_pod_has_to_be_ready_for_a_while_before_the_next() {
    let mut cluster = Cluster::new(json!({"minReadySeconds": 10}));
    cluster.step();
    cluster.kubelet();
    assert!(cluster.step().is_empty());
    assert_eq!(cluster.plan().look_again, Some(Duration::from_secs(10)));
    cluster.now += Duration::from_secs(10);
    assert_eq!(cluster.step(), ["+w-1"]);
    assert_eq!(cluster.set.status.as_ref().unwrap().available_replicas, Some(1));
}

fn with_claims(retention: Value) -> Cluster {
    let mut cluster = Cluster::new(json!({
        "replicas": 2,
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}],
        "persistentVolumeClaimRetentionPolicy": retention,
    }));
    cluster.settle();
    cluster
}

fn owner_of(cluster: &Cluster, claim: &str) -> Option<String> {
    let owners = cluster.claims[claim]
        .metadata
        .owner_references
        .clone()
        .unwrap_or_default();
    owners.first().map(|owner| owner.kind.clone())
}

#[test]
fn each_pod_has_its_own_claims() {
    let cluster = with_claims(json!({"whenDeleted": "Retain", "whenScaled": "Retain"}));
    assert_eq!(cluster.claims.keys().collect::<Vec<_>>(), ["data-w-0", "data-w-1"]);
    let claim = &cluster.claims["data-w-1"];
    assert_eq!(claim.metadata.labels.as_ref().unwrap()["app"], "w");
    assert_eq!(owner_of(&cluster, "data-w-1"), None);
    let volumes = cluster.pods[1].spec.as_ref().unwrap().volumes.clone().unwrap();
    assert_eq!(volumes[0].name, "data");
    assert_eq!(
        volumes[0].persistent_volume_claim.as_ref().unwrap().claim_name,
        "data-w-1"
    );
}

#[test]
fn claims_go_with_whom_the_policy_says() {
    let mut cluster = with_claims(json!({"whenDeleted": "Delete", "whenScaled": "Delete"}));
    assert_eq!(owner_of(&cluster, "data-w-1").as_deref(), Some("StatefulSet"));
    cluster.spec().replicas = Some(1);
    cluster.settle();
    assert_eq!(owner_of(&cluster, "data-w-1").as_deref(), Some("Pod"));
    assert_eq!(owner_of(&cluster, "data-w-0").as_deref(), Some("StatefulSet"));
    // The claim is about to go with the pod that is gone: the next pod waits for a fresh one.
    cluster.spec().replicas = Some(2);
    assert!(cluster.step().is_empty());
    cluster.claims.remove("data-w-1");
    assert_eq!(cluster.settle(), said(&[&["+w-1"]]));
    assert_eq!(owner_of(&cluster, "data-w-1").as_deref(), Some("StatefulSet"));
}

#[test]
fn a_change_of_the_policy_reaches_the_claims_that_are_there() {
    let mut cluster = with_claims(json!({"whenDeleted": "Retain", "whenScaled": "Retain"}));
    cluster.spec().persistent_volume_claim_retention_policy =
        serde_json::from_value(json!({"whenDeleted": "Delete", "whenScaled": "Retain"})).unwrap();
    cluster.settle();
    assert_eq!(owner_of(&cluster, "data-w-0").as_deref(), Some("StatefulSet"));
    cluster.spec().persistent_volume_claim_retention_policy = None;
    cluster.settle();
    assert_eq!(owner_of(&cluster, "data-w-0"), None);
}

#[test]
fn a_set_that_is_being_deleted_only_tells() {
    let mut cluster = Cluster::new(json!({}));
    cluster.step();
    cluster.set.metadata.deletion_timestamp = Some(Time(cluster.now));
    assert!(cluster.settle().is_empty());
    assert_eq!(cluster.set.status.as_ref().unwrap().replicas, 1);
}
