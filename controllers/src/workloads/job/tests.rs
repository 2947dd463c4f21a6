//! The plan over a small simulation: pods run until the test ends them, and what the plan lets go of loses its finalizer.

use serde_json::{Value, json};

use super::*;

struct Cluster {
    job: Job,
    pods: Vec<Arc<Pod>>,
    serial: usize,
    now: Timestamp,
}

impl Cluster {
    fn new(spec: Value) -> Self {
        let mut job = json!({
            "metadata": {"name": "j", "namespace": "n", "uid": "j"},
            "spec": {"parallelism": 1, "completions": 1, "backoffLimit": 6, "completionMode": "NonIndexed",
                "template": {"spec": {"restartPolicy": "Never", "containers": []}}},
        });
        for (key, value) in spec.as_object().unwrap() {
            job["spec"][key] = value.clone();
        }
        Cluster {
            job: serde_json::from_value(job).unwrap(),
            pods: Vec::new(),
            serial: 0,
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
        }
    }

    /// Performs one plan. The order is that of the controller.
    fn step(&mut self) -> Plan {
        let plan = plan(&Observed {
            job: &self.job,
            pods: &self.pods,
            now: self.now,
        });
        self.job.status = Some(plan.status.clone());
        for freed in &plan.free {
            let at = self
                .pods
                .iter()
                .position(|pod| pod.metadata.uid == freed.metadata.uid)
                .unwrap();
            Arc::make_mut(&mut self.pods[at]).metadata.finalizers = None;
        }
        for gone in &plan.delete {
            let at = self
                .pods
                .iter()
                .position(|pod| pod.metadata.uid == gone.metadata.uid)
                .unwrap();
            Arc::make_mut(&mut self.pods[at]).metadata.deletion_timestamp = Some(Time(self.now));
        }
        // A kubelet ends what is being deleted; without a finalizer it is gone.
        self.pods
            .retain(|pod| !(pod::is_deleting(pod) && pod.metadata.finalizers.is_none()));
        for index in &plan.create {
            self.serial += 1;
            let mut pod = json!({
                "metadata": {"name": format!("p{}", self.serial), "namespace": "n", "uid": format!("p{}", self.serial),
                    "finalizers": ["batch.kubernetes.io/job-tracking"]},
                "spec": {"containers": []}, "status": {"phase": "Running"},
            });
            if let Some(index) = index {
                pod["metadata"]["annotations"] = json!({"batch.kubernetes.io/job-completion-index": index.to_string()});
            }
            self.pods.push(Arc::new(serde_json::from_value(pod).unwrap()));
        }
        plan
    }

    fn settle(&mut self) {
        for _ in 0..20 {
            let before = (self.job.status.clone(), self.pods.clone());
            self.step();
            if before == (self.job.status.clone(), self.pods.clone()) {
                return;
            }
        }
        panic!("no end: {:?}", self.job.status);
    }

    fn end(&mut self, name: &str, phase: &str, code: i32) {
        let at = self
            .pods
            .iter()
            .position(|pod| pod.metadata.name.as_deref() == Some(name))
            .unwrap();
        let status = json!({"phase": phase, "containerStatuses": [{
            "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": code, "finishedAt": self.now.to_string()}},
        }]});
        Arc::make_mut(&mut self.pods[at]).status = serde_json::from_value(status).unwrap();
    }

    fn active(&self) -> Vec<String> {
        let active = self.pods.iter().filter(|pod| pod::is_active(pod));
        active.filter_map(|pod| pod.metadata.name.clone()).collect()
    }

    fn status(&self) -> &JobStatus {
        self.job.status.as_ref().unwrap()
    }

    fn counts(&self) -> (i32, i32, i32) {
        let status = self.status();
        (
            status.active.unwrap_or(0),
            status.succeeded.unwrap_or(0),
            status.failed.unwrap_or(0),
        )
    }

    fn reason(&self, kind: &str) -> Option<String> {
        condition::find(self.status().conditions.as_deref(), kind)
            .filter(|condition| condition.status == "True")
            .and_then(|condition| condition.reason.clone())
    }
}

#[test]
fn a_job_completes_when_enough_pods_succeeded_and_all_are_counted() {
    let mut cluster = Cluster::new(json!({"parallelism": 2, "completions": 3}));
    cluster.settle();
    assert_eq!(cluster.active(), ["p1", "p2"]);
    assert!(cluster.status().start_time.is_some());
    cluster.end("p1", "Succeeded", 0);
    cluster.settle();
    assert_eq!(cluster.active(), ["p2", "p3"]);
    cluster.end("p2", "Succeeded", 0);
    cluster.settle();
    assert_eq!(cluster.active(), ["p3"], "only one more is needed");
    cluster.end("p3", "Succeeded", 0);
    let first = cluster.step();
    assert_eq!(
        first.status.uncounted_terminated_pods.unwrap().succeeded,
        Some(vec!["p3".to_owned()])
    );
    assert_eq!(
        cluster.reason("SuccessCriteriaMet").as_deref(),
        Some("CompletionsReached")
    );
    assert_eq!(cluster.reason("Complete"), None, "p3 is not in a counter yet");
    cluster.settle();
    assert_eq!(cluster.counts(), (0, 3, 0));
    assert_eq!(cluster.reason("Complete").as_deref(), Some("CompletionsReached"));
    assert!(cluster.status().completion_time.is_some());
    assert!(cluster.pods.iter().all(|pod| pod.metadata.finalizers.is_none()));
}

#[test]
fn failures_are_retried_after_growing_pauses_until_the_limit() {
    let mut cluster = Cluster::new(json!({"backoffLimit": 2}));
    cluster.settle();
    for (failures, pause) in [(1, 10), (2, 20)] {
        let name = cluster.active()[0].clone();
        cluster.end(&name, "Failed", 1);
        cluster.settle();
        assert_eq!(cluster.counts(), (0, 0, failures));
        assert_eq!(cluster.step().look_again, Some(Duration::from_secs(pause)));
        cluster.now += Duration::from_secs(pause);
        cluster.settle();
        assert_eq!(cluster.active().len(), 1);
    }
    let name = cluster.active()[0].clone();
    cluster.end(&name, "Failed", 1);
    cluster.settle();
    assert_eq!(cluster.counts(), (0, 0, 3));
    assert_eq!(cluster.reason("Failed").as_deref(), Some("BackoffLimitExceeded"));
    assert!(cluster.active().is_empty());
}

#[test]
fn the_deadline_ends_what_runs() {
    let mut cluster = Cluster::new(json!({"parallelism": 2, "completions": 2, "activeDeadlineSeconds": 30}));
    cluster.settle();
    assert_eq!(cluster.step().look_again, Some(Duration::from_secs(30)));
    cluster.now += Duration::from_secs(30);
    cluster.settle();
    assert_eq!(cluster.reason("Failed").as_deref(), Some("DeadlineExceeded"));
    assert!(cluster.pods.is_empty());
}

#[test]
fn each_index_is_done_once() {
    let mut cluster = Cluster::new(json!({"parallelism": 3, "completions": 4, "completionMode": "Indexed"}));
    cluster.settle();
    let indexes = |cluster: &Cluster| -> Vec<_> {
        cluster
            .pods
            .iter()
            .filter(|pod| pod::is_active(pod))
            .filter_map(|pod| index(pod))
            .collect()
    };
    assert_eq!(indexes(&cluster), [0, 1, 2]);
    cluster.end("p2", "Succeeded", 0);
    cluster.end("p3", "Failed", 1);
    cluster.settle();
    assert_eq!(cluster.status().completed_indexes.as_deref(), Some("1"));
    cluster.now += Duration::from_secs(10);
    cluster.settle();
    assert_eq!(indexes(&cluster), [0, 2, 3]);
    for name in cluster.active() {
        cluster.end(&name, "Succeeded", 0);
    }
    cluster.settle();
    assert_eq!(cluster.status().completed_indexes.as_deref(), Some("0-3"));
    assert_eq!(cluster.counts(), (0, 4, 1));
    assert!(cluster.reason("Complete").is_some());
}

#[test]
fn a_suspended_job_has_no_pods_and_starts_anew_when_resumed() {
    let mut cluster = Cluster::new(json!({"suspend": true}));
    cluster.settle();
    assert!(cluster.pods.is_empty() && cluster.status().start_time.is_none());
    assert_eq!(cluster.reason("Suspended").as_deref(), Some("JobSuspended"));
    cluster.job.spec.as_mut().unwrap().suspend = Some(false);
    cluster.settle();
    assert_eq!(cluster.active().len(), 1);
    assert!(cluster.reason("Suspended").is_none() && cluster.status().start_time.is_some());
}

#[test]
fn a_work_queue_is_done_when_one_succeeded_and_all_have_ended() {
    let mut cluster = Cluster::new(json!({"parallelism": 2, "completions": null}));
    cluster.settle();
    cluster.end("p1", "Succeeded", 0);
    cluster.settle();
    assert_eq!(
        cluster.active(),
        ["p2"],
        "no pod is made any more, and the other goes on"
    );
    cluster.end("p2", "Succeeded", 0);
    cluster.settle();
    assert!(cluster.reason("Complete").is_some());
}

#[test]
fn a_rule_can_make_a_failure_final_or_forget_it() {
    let rules = json!({"rules": [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]});
    let spec = json!({"podFailurePolicy": rules});
    let mut cluster = Cluster::new(spec.clone());
    cluster.settle();
    cluster.end("p1", "Failed", 42);
    cluster.settle();
    assert_eq!(cluster.reason("Failed").as_deref(), Some("PodFailurePolicy"));
    let mut cluster = Cluster::new(spec);
    cluster.settle();
    cluster.end("p1", "Failed", 1);
    let conditions = json!([{"type": "DisruptionTarget", "status": "True"}]);
    Arc::make_mut(&mut cluster.pods[0]).status.as_mut().unwrap().conditions =
        serde_json::from_value(conditions).unwrap();
    cluster.settle();
    assert_eq!(cluster.counts(), (0, 0, 0));
}
