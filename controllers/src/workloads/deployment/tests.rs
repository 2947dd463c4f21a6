//! The plan over scripted sets: a simulated cluster in which every pod that a set asks for becomes available at once
//! or not at all.

use serde_json::{Value, json};

use super::super::status::progressing;
use super::*;

const NOW: &str = "2026-01-01T01:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn deployment(replicas: i32, image: &str, strategy: Value) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "d", "namespace": "n", "uid": "d", "generation": 1, "annotations": {"note": "x"}},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "a"}}, "strategy": strategy,
            "progressDeadlineSeconds": 600, "revisionHistoryLimit": 10,
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": image}]}},
        },
    }))
    .unwrap()
}

fn rolling(surge: impl Into<Value>, unavailable: impl Into<Value>) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge.into(), "maxUnavailable": unavailable.into()}})
}

/// The Deployment and its sets, and how the sets answer.
struct Cluster {
    deployment: Deployment,
    sets: Vec<Arc<ReplicaSet>>,
    with_pods: Vec<String>,
    at: Timestamp,
    serial: i64,
}

impl Cluster {
    fn new(deployment: Deployment) -> Self {
        Cluster {
            deployment,
            sets: Vec::new(),
            with_pods: Vec::new(),
            at: now(),
            serial: 0,
        }
    }

    fn plan(&self) -> Plan {
        plan(&Observed {
            deployment: &self.deployment,
            sets: &self.sets,
            with_pods: &self.with_pods,
            now: self.at,
        })
    }

    /// Performs one plan; says what the steps were.
    fn step(&mut self) -> Vec<String> {
        let plan = self.plan();
        let mut said = Vec::new();
        for step in plan.steps {
            match step {
                Step::Create(mut set) => {
                    self.serial += 1;
                    said.push(format!("create {}", replicas(&set)));
                    set.metadata.uid = Some(format!("u{}", self.serial));
                    set.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                        self.at + Duration::from_secs(u64::try_from(self.serial).unwrap()),
                    ));
                    self.sets.push(Arc::new(set));
                }
                Step::Update { set, from } => {
                    if from != replicas(&set) {
                        said.push(format!(
                            "{} {from}→{}",
                            set.metadata.uid.clone().unwrap(),
                            replicas(&set)
                        ));
                    }
                    let at = self
                        .sets
                        .iter()
                        .position(|old| old.metadata.uid == set.metadata.uid)
                        .unwrap();
                    self.sets[at] = Arc::new(set);
                }
                Step::Delete(set) => {
                    said.push(format!("delete {}", set.metadata.uid.clone().unwrap()));
                    self.sets.retain(|old| old.metadata.uid != set.metadata.uid);
                }
            }
        }
        if let Some(revision) = plan.revision {
            self.deployment
                .metadata
                .annotations
                .get_or_insert_default()
                .insert(DEPLOYMENT_REVISION.into(), revision);
        }
        self.deployment.status = Some(plan.status);
        said
    }

    /// Every set has what it asks for; those in `broken` have it, but not available.
    fn settle(&mut self, broken: &[&str]) {
        for set in &mut self.sets {
            let set = Arc::make_mut(set);
            let size = replicas(set);
            let well = if broken.contains(&set.metadata.uid.as_deref().unwrap()) {
                0
            } else {
                size
            };
            set.status = serde_json::from_value(json!({
                "replicas": size, "readyReplicas": well, "availableReplicas": well, "observedGeneration": 0,
            }))
            .unwrap();
        }
    }

    fn run(&mut self, broken: &[&str]) -> Vec<String> {
        let mut said = Vec::new();
        for _ in 0..50 {
            let step = self.step();
            self.settle(broken);
            if step.is_empty() {
                // Once more, for the status of what was settled.
                self.step();
                return said;
            }
            said.extend(step);
        }
        panic!("no end: {said:?}");
    }

    fn reason(&self) -> String {
        let status = self.deployment.status.as_ref().unwrap();
        progressing(status)
            .and_then(|condition| condition.reason.clone())
            .unwrap_or_default()
    }

    fn set_image(&mut self, image: &str) {
        let template = &mut self.deployment.spec.as_mut().unwrap().template;
        template.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
    }
}

#[test]
fn a_new_deployment_makes_its_set_and_is_complete_when_the_pods_are() {
    let mut cluster = Cluster::new(deployment(3, "v1", rolling("25%", "25%")));
    let plan = cluster.plan();
    let [Step::Create(set)] = &plan.steps[..] else {
        panic!("{plan:?}")
    };
    let hash = set.metadata.labels.as_ref().unwrap()["pod-template-hash"].clone();
    assert_eq!(set.metadata.name.as_deref(), Some(&*format!("d-{hash}")));
    let spec = set.spec.as_ref().unwrap();
    assert_eq!(spec.selector.match_labels.as_ref().unwrap()["pod-template-hash"], hash);
    let annotations = set.metadata.annotations.as_ref().unwrap();
    let noted = |key: &str| annotations.get(key).map(String::as_str);
    assert_eq!(noted("deployment.kubernetes.io/revision"), Some("1"));
    assert_eq!(noted("deployment.kubernetes.io/desired-replicas"), Some("3"));
    assert_eq!(noted("deployment.kubernetes.io/max-replicas"), Some("4"));
    assert_eq!(noted("note"), Some("x"));
    assert_eq!(plan.revision.as_deref(), Some("1"));

    assert_eq!(cluster.step(), ["create 3"]);
    assert_eq!(cluster.reason(), "NewReplicaSetCreated");
    cluster.settle(&[]);
    cluster.run(&[]);
    assert_eq!(cluster.reason(), "NewReplicaSetAvailable");
    let status = cluster.deployment.status.as_ref().unwrap();
    assert_eq!(
        (
            status.updated_replicas,
            status.available_replicas,
            status.unavailable_replicas
        ),
        (Some(3), Some(3), None)
    );
}

#[test]
fn a_rolling_update_stays_within_its_limits() {
    for (surge, unavailable, want) in [
        (
            json!(1),
            json!(0),
            vec!["create 1", "u1 3→2", "u2 1→2", "u1 2→1", "u2 2→3", "u1 1→0"],
        ),
        (
            json!(0),
            json!(1),
            vec!["create 0", "u1 3→2", "u2 0→1", "u1 2→1", "u2 1→2", "u1 1→0", "u2 2→3"],
        ),
        (json!("100%"), json!("100%"), vec!["create 3", "u1 3→0"]),
    ] {
        let mut cluster = Cluster::new(deployment(3, "v1", rolling(surge.clone(), unavailable.clone())));
        cluster.run(&[]);
        cluster.set_image("v2");
        assert_eq!(cluster.run(&[]), want, "{surge} {unavailable}");
        assert_eq!(cluster.reason(), "NewReplicaSetAvailable");
        assert_eq!(
            cluster.deployment.metadata.annotations.as_ref().unwrap()[DEPLOYMENT_REVISION],
            "2"
        );
    }
}

#[test]
fn a_broken_template_stops_the_rollout_and_the_deadline_is_told() {
    let mut cluster = Cluster::new(deployment(4, "v1", rolling("25%", "25%")));
    cluster.run(&[]);
    cluster.set_image("broken");
    assert_eq!(cluster.run(&["u2"]), ["create 1", "u1 4→3", "u2 1→2"]);
    let status = cluster.deployment.status.clone().unwrap();
    assert_eq!((status.available_replicas, status.updated_replicas), (Some(3), Some(2)));
    assert_eq!(cluster.reason(), "ReplicaSetUpdated");
    let wait = cluster.plan().look_again.unwrap();
    assert_eq!(wait, Duration::from_secs(601));
    cluster.at += wait;
    cluster.step();
    assert_eq!(cluster.reason(), "ProgressDeadlineExceeded");
    assert_eq!(cluster.plan().look_again, None);
    // Undoing it is a rollout to a set that is there, under a new revision.
    cluster.set_image("v1");
    assert_eq!(cluster.run(&["u2"]), ["u2 2→0", "u1 3→4"]);
    assert_eq!(cluster.reason(), "NewReplicaSetAvailable");
    let set = &cluster.sets[0];
    assert_eq!(revision(set), 3);
    assert_eq!(
        annotation(&set.metadata, "deployment.kubernetes.io/revision-history"),
        Some("1")
    );
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut cluster = Cluster::new(deployment(2, "v1", json!({"type": "Recreate"})));
    assert_eq!(cluster.run(&[]), ["create 2"]);
    cluster.set_image("v2");
    cluster.with_pods = vec!["u1".to_owned()];
    assert_eq!(cluster.run(&[]), ["u1 2→0"]);
    assert_eq!(
        cluster.step(),
        Vec::<String>::new(),
        "a pod of the old set is still there"
    );
    cluster.with_pods.clear();
    assert_eq!(cluster.run(&[]), ["create 2"]);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_proportional() {
    let mut cluster = Cluster::new(deployment(10, "v1", rolling(3, 2)));
    cluster.run(&[]);
    cluster.set_image("v2");
    // The rollout stops with 8 old and 5 new: upstream's example in the documentation.
    assert_eq!(cluster.run(&["u2"]), ["create 3", "u1 10→8", "u2 3→5"]);
    cluster.deployment.spec.as_mut().unwrap().replicas = Some(15);
    assert_eq!(cluster.step(), ["u1 8→11", "u2 5→7"]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll_out() {
    let mut cluster = Cluster::new(deployment(2, "v1", rolling(1, 0)));
    cluster.run(&[]);
    cluster.deployment.spec.as_mut().unwrap().paused = Some(true);
    cluster.set_image("v2");
    assert_eq!(cluster.run(&[]), Vec::<String>::new());
    cluster.deployment.spec.as_mut().unwrap().replicas = Some(4);
    assert_eq!(cluster.run(&[]), ["u1 2→4"]);
    cluster.deployment.spec.as_mut().unwrap().paused = None;
    assert_eq!(cluster.run(&[])[0], "create 1");
}

#[test]
fn history_beyond_the_limit_is_removed_oldest_first() {
    let mut cluster = Cluster::new(deployment(1, "v1", rolling(1, 0)));
    cluster.deployment.spec.as_mut().unwrap().revision_history_limit = Some(1);
    cluster.run(&[]);
    for image in ["v2", "v3"] {
        cluster.set_image(image);
        cluster.run(&[]);
    }
    let left: Vec<_> = cluster
        .sets
        .iter()
        .map(|set| set.metadata.uid.clone().unwrap())
        .collect();
    assert_eq!(left, ["u2", "u3"]);
}

#[test]
fn nothing_is_left_to_do_when_nothing_has_changed() {
    let mut cluster = Cluster::new(deployment(3, "v1", rolling("25%", "25%")));
    cluster.run(&[]);
    cluster.at += Duration::from_secs(3600);
    let before = cluster.deployment.status.clone();
    let plan = cluster.plan();
    assert!(plan.steps.is_empty() && plan.revision.is_none() && plan.look_again.is_none());
    assert_eq!(Some(plan.status), before);
}

#[test]
fn another_template_has_another_hash_and_a_collision_makes_one() {
    let hash = super::super::sets::hash;
    let template = |image: &str| deployment(1, image, json!({})).spec.unwrap().template;
    assert_eq!(hash(&template("a"), None), hash(&template("a"), None));
    assert_ne!(hash(&template("a"), None), hash(&template("b"), None));
    assert_ne!(hash(&template("a"), None), hash(&template("a"), Some(1)));
}
