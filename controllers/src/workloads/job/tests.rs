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
        for new in &plan.create {
            self.serial += 1;
            let mut pod = json!({
                "metadata": {"name": format!("p{}", self.serial), "namespace": "n", "uid": format!("p{}", self.serial),
                    "finalizers": ["batch.kubernetes.io/job-tracking"]},
                "spec": {"containers": []}, "status": {"phase": "Running"},
            });
            if let Some(index) = new.index {
                pod["metadata"]["annotations"] = json!({"batch.kubernetes.io/job-completion-index": index.to_string()});
            }
            if let Some((failures, ignored)) = new.failures {
                pod["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"] =
                    json!(failures.to_string());
                pod["metadata"]["annotations"]["batch.kubernetes.io/job-index-ignored-failure-count"] =
                    json!(ignored.to_string());
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

impl Cluster {
    /// The active pod of an index.
    fn of(&self, wanted: i32) -> String {
        let mut active = self.pods.iter().filter(|pod| pod::is_active(pod));
        let found = active.find(|pod| index(pod) == Some(wanted));
        found
            .and_then(|pod| pod.metadata.name.clone())
            .expect("the index has a pod")
    }

    fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.settle();
    }
}

fn indexed(spec: Value) -> Cluster {
    let mut all = json!({"parallelism": 4, "completions": 4, "completionMode": "Indexed", "backoffLimit": i32::MAX});
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    let mut cluster = Cluster::new(all);
    cluster.settle();
    cluster
}

/// [sig-apps] Job should execute all indexes despite some failing when using backoffLimitPerIndex.
#[test]
fn each_index_has_its_own_limit_and_the_others_go_on() {
    let mut cluster = indexed(json!({"backoffLimitPerIndex": 1}));
    for index in [1, 3] {
        let name = cluster.of(index);
        cluster.end(&name, "Failed", 1);
    }
    for index in [0, 2] {
        let name = cluster.of(index);
        cluster.end(&name, "Succeeded", 0);
    }
    cluster.settle();
    assert!(cluster.active().is_empty(), "each index waits for its own pause");
    assert_eq!(cluster.status().failed_indexes.as_deref(), Some(""));
    cluster.later(10);
    assert_eq!(cluster.counts(), (2, 2, 2));
    for index in [1, 3] {
        let name = cluster.of(index);
        cluster.end(&name, "Failed", 1);
    }
    cluster.settle();
    let status = cluster.status();
    assert_eq!(status.failed_indexes.as_deref(), Some("1,3"));
    assert_eq!(status.completed_indexes.as_deref(), Some("0,2"));
    assert_eq!(cluster.counts(), (0, 2, 4));
    assert_eq!(cluster.reason("FailureTarget").as_deref(), Some("FailedIndexes"));
    assert_eq!(cluster.reason("Failed").as_deref(), Some("FailedIndexes"));
}

/// [sig-apps] Job should terminate job execution when the number of failed indexes exceeds maxFailedIndexes.
#[test]
fn too_many_failed_indexes_end_the_job() {
    let mut cluster = indexed(json!({"backoffLimitPerIndex": 0, "maxFailedIndexes": 1}));
    let name = cluster.of(0);
    cluster.end(&name, "Failed", 1);
    cluster.settle();
    assert_eq!(cluster.counts(), (3, 0, 1));
    let name = cluster.of(1);
    cluster.end(&name, "Failed", 1);
    cluster.settle();
    assert_eq!(cluster.reason("Failed").as_deref(), Some("MaxFailedIndexesExceeded"));
    assert_eq!(cluster.counts(), (0, 0, 4), "what still ran has failed too");
    assert!(cluster.pods.iter().all(|pod| pod.metadata.finalizers.is_none()));
}

/// [sig-apps] Job should mark indexes as failed when the FailIndex action is matched in podFailurePolicy.
#[test]
fn a_rule_can_give_up_an_index() {
    let rules = json!({"rules": [
        {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [42]}},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [7]}},
    ]});
    let mut cluster = indexed(json!({"backoffLimitPerIndex": 1, "podFailurePolicy": rules}));
    let name = cluster.of(0);
    cluster.end(&name, "Failed", 42);
    cluster.settle();
    assert_eq!(cluster.status().failed_indexes.as_deref(), Some("0"));
    // Failures that are ignored do not bring an index nearer to its limit, but they make the pauses longer.
    for pause in [10, 20, 40] {
        let name = cluster.of(1);
        cluster.end(&name, "Failed", 7);
        cluster.settle();
        assert_eq!(cluster.step().look_again, Some(Duration::from_secs(pause)));
        cluster.later(pause);
    }
    assert_eq!(cluster.counts(), (3, 0, 1));
}

/// [sig-apps] Job with successPolicy should succeeded even when some indexes remain pending.
#[test]
fn a_rule_for_success_ends_the_job_before_all_is_done() {
    for (rule, done) in [
        (json!({"succeededIndexes": "0-1"}), vec![0, 1]),
        (json!({"succeededCount": 1}), vec![3]),
        (json!({"succeededIndexes": "1-3", "succeededCount": 2}), vec![1, 3]),
    ] {
        let mut cluster = indexed(json!({"successPolicy": {"rules": [rule]}}));
        for (at, index) in done.iter().enumerate() {
            assert_eq!(cluster.reason("SuccessCriteriaMet"), None, "{rule} {at}");
            let name = cluster.of(*index);
            cluster.end(&name, "Succeeded", 0);
            cluster.settle();
        }
        assert_eq!(
            cluster.reason("SuccessCriteriaMet").as_deref(),
            Some("SuccessPolicy"),
            "{rule}"
        );
        assert_eq!(cluster.reason("Complete").as_deref(), Some("SuccessPolicy"), "{rule}");
        assert!(cluster.active().is_empty());
    }
}

#[test]
fn pods_that_a_suspension_takes_away_have_not_failed() {
    let mut cluster = Cluster::new(json!({"parallelism": 2, "completions": 2}));
    cluster.settle();
    cluster.job.spec.as_mut().unwrap().suspend = Some(true);
    cluster.settle();
    assert_eq!(cluster.counts(), (0, 0, 0));
    assert!(cluster.pods.is_empty());
    cluster.job.spec.as_mut().unwrap().suspend = Some(false);
    cluster.settle();
    assert_eq!(cluster.active().len(), 2, "there is no pause after it");
}

#[test]
fn pods_beyond_the_parallelism_are_taken_away_and_have_not_failed() {
    let mut cluster = Cluster::new(json!({"parallelism": 3, "completions": 5}));
    cluster.settle();
    cluster.job.spec.as_mut().unwrap().parallelism = Some(1);
    cluster.settle();
    assert_eq!(cluster.counts(), (1, 0, 0));
    assert_eq!(cluster.pods.len(), 1);
}

#[test]
fn of_two_pods_of_an_index_one_goes() {
    let mut cluster = indexed(json!({"parallelism": 2}));
    let mut twin = (*cluster.pods[0]).clone();
    twin.metadata.name = Some("twin".to_owned());
    twin.metadata.uid = Some("twin".to_owned());
    cluster.pods.push(Arc::new(twin));
    cluster.settle();
    assert_eq!(cluster.active().len(), 2);
    assert_eq!(cluster.counts(), (2, 0, 0));
}

#[test]
fn a_replacement_waits_for_the_end_where_it_has_to() {
    for (policy, made) in [("Failed", 1), ("TerminatingOrFailed", 2)] {
        let mut cluster = Cluster::new(json!({"podReplacementPolicy": policy, "backoffLimit": 6}));
        cluster.settle();
        // Somebody deletes the pod, which takes its time.
        Arc::make_mut(&mut cluster.pods[0]).metadata.deletion_timestamp = Some(Time(cluster.now));
        cluster.now += Duration::from_secs(60);
        cluster.step();
        cluster.step();
        assert_eq!(cluster.serial, made, "{policy}");
        assert_eq!(
            cluster.job.spec.as_ref().unwrap().pod_replacement_policy.as_deref(),
            Some(policy)
        );
    }
}

#[test]
fn pods_of_a_job_that_is_being_deleted_are_let_go() {
    let mut cluster = Cluster::new(json!({"podReplacementPolicy": "Failed"}));
    cluster.settle();
    cluster.job.metadata.deletion_timestamp = Some(Time(cluster.now));
    cluster.settle();
    assert!(cluster.pods.iter().all(|pod| pod.metadata.finalizers.is_none()));
}

#[test]
fn what_is_missing_is_made_at_most_five_hundred_at_a_time() {
    let mut cluster = Cluster::new(json!({"parallelism": 1200, "completions": 1200}));
    assert_eq!(cluster.step().create.len(), 500);
    cluster.settle();
    for name in cluster.active() {
        cluster.end(&name, "Succeeded", 0);
    }
    let plan = cluster.step();
    assert_eq!(
        plan.status.uncounted_terminated_pods.unwrap().succeeded.unwrap().len(),
        500
    );
    cluster.settle();
    assert_eq!(cluster.counts(), (0, 1200, 0));
    assert!(cluster.reason("Complete").is_some());
}
