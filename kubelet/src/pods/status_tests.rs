use serde_json::json;

use k8s_openapi::api::core::v1::ResourceRequirements;

use super::*;
use crate::pods::observed::{Exit, PodSandbox};

struct Case {
    pod: Pod,
    observed: Observed,
    health: HashMap<String, Health>,
    waiting: Waiting,
    fate: Fate,
    terminating: bool,
    resize: Told,
}

fn case(spec: serde_json::Value) -> Case {
    let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 3}, "spec": spec});
    let sandbox = PodSandbox {
        id: "s".into(),
        attempt: 0,
        ready: true,
        created: 0,
        ips: vec!["10.244.0.9".into()],
    };
    Case {
        pod: serde_json::from_value(pod).unwrap(),
        observed: Observed {
            sandboxes: vec![sandbox],
            containers: Vec::new(),
        },
        health: HashMap::new(),
        waiting: Waiting::new(),
        fate: Fate::Lives,
        terminating: false,
        resize: Told::default(),
    }
}

fn one() -> Case {
    case(json!({"containers": [{"name": "a", "image": "i"}]}))
}

fn exit(code: i32) -> State {
    let reason = if code == 0 { "Completed" } else { "Error" };
    let at = tokio::time::Instant::now();
    State::Exited(Exit {
        code,
        finished: 2_000_000_000,
        at,
        reason: reason.into(),
        message: String::new(),
    })
}

impl Case {
    fn seen(mut self, name: &str, attempt: u32, state: State) -> Self {
        let seen = Seen {
            id: format!("{name}{attempt}"),
            sandbox: "s".into(),
            name: name.into(),
            attempt,
            state,
            created: 0,
            started: 1_000_000_000,
            image: "i".into(),
            image_ref: "sha256:1".into(),
            image_id: String::new(),
            annotations: HashMap::new(),
            mounts: Vec::new(),
            user: None,
            resources: None,
        };
        self.observed.containers.insert(0, seen);
        self
    }

    fn status(&self) -> PodStatus {
        let old = self.pod.status.clone().unwrap_or_default();
        status(&View {
            pod: &self.pod,
            old: &old,
            observed: &self.observed,
            health: &self.health,
            waiting: &self.waiting,
            fate: &self.fate,
            host_ips: &["172.30.0.11".to_owned()],
            messages: &HashMap::new(),
            terminating: self.terminating,
            runtime: "containerd",
            resize: &self.resize,
            allocation: None,
            now: Timestamp::from_second(10).unwrap(),
        })
    }

    /// Phase, true conditions, and each container as `name:ready:state`.
    #[track_caller]
    fn check(&self, want: &str) {
        let status = self.status();
        let mut words = vec![status.phase.clone().unwrap()];
        for condition in status.conditions.iter().flatten().filter(|c| c.status == "True") {
            words.push(condition.type_.clone());
        }
        for c in status.container_statuses.iter().flatten() {
            let state = c.state.clone().unwrap_or_default();
            let state = match (state.running, state.waiting, state.terminated) {
                (Some(_), _, _) => "running".to_owned(),
                (_, Some(w), _) => w.reason.unwrap(),
                (_, _, Some(t)) => format!("ended {}", t.exit_code),
                _ => "nothing".to_owned(),
            };
            words.push(format!("{}:{}:{state}", c.name, c.ready));
        }
        assert_eq!(words.join(" "), want);
    }
}

const UP: &str = "PodReadyToStartContainers Initialized";

#[test]
fn the_phase_follows_the_containers() {
    one().check(&format!("Pending {UP} PodScheduled a:false:ContainerCreating"));
    one().seen("a", 0, State::Running).check(&format!(
        "Running {UP} Ready ContainersReady PodScheduled a:true:running"
    ));
    one()
        .seen("a", 0, exit(1))
        .check(&format!("Running {UP} PodScheduled a:false:ended 1"));
    let done = Case {
        fate: Fate::Finished(Finished::Succeeded),
        ..one().seen("a", 0, exit(0))
    };
    done.check(&format!("Succeeded {UP} PodScheduled a:false:ended 0"));
    let failed = Case {
        fate: Fate::Finished(Finished::Failed),
        ..one().seen("a", 0, exit(2))
    };
    failed.check(&format!("Failed {UP} PodScheduled a:false:ended 2"));
}

#[test]
fn a_container_that_never_ran_keeps_the_pod_pending() {
    let two = case(json!({"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]}));
    let mut two = two.seen("a", 0, State::Running);
    two.waiting.insert("b".into(), ("ErrImagePull".into(), "no".into()));
    two.check(&format!(
        "Pending {UP} PodScheduled a:true:running b:false:ErrImagePull"
    ));
}

#[test]
fn a_crash_loop_shows_why_it_waits_and_how_it_ended() {
    let mut crashing = one().seen("a", 0, exit(1)).seen("a", 1, exit(3));
    crashing
        .waiting
        .insert("a".into(), ("CrashLoopBackOff".into(), "back-off 10s".into()));
    crashing.check(&format!("Running {UP} PodScheduled a:false:CrashLoopBackOff"));
    let status = &crashing.status().container_statuses.unwrap()[0];
    assert_eq!(status.restart_count, 1);
    assert_eq!(
        status
            .last_state
            .as_ref()
            .unwrap()
            .terminated
            .as_ref()
            .unwrap()
            .exit_code,
        3
    );
}

#[test]
fn readiness_is_the_probes() {
    let mut probed = one().seen("a", 0, State::Running);
    probed.health.insert(
        "a0".into(),
        Health {
            started: None,
            ready: false,
            failed: None,
        },
    );
    probed.check(&format!("Running {UP} PodScheduled a:false:running"));
    let message = probed
        .status()
        .conditions
        .unwrap()
        .into_iter()
        .find(|c| c.type_ == "Ready")
        .unwrap()
        .message;
    assert_eq!(message.as_deref(), Some("containers with unready status: [a]"));
}

#[test]
fn init_containers_hold_the_pod_back() {
    let inits =
        || case(json!({"containers": [{"name": "a", "image": "i"}], "initContainers": [{"name": "x", "image": "i"}]}));
    inits().check("Pending PodReadyToStartContainers PodScheduled a:false:PodInitializing");
    inits()
        .seen("x", 0, State::Running)
        .check("Pending PodReadyToStartContainers PodScheduled a:false:PodInitializing");
    inits()
        .seen("x", 0, exit(0))
        .check(&format!("Pending {UP} PodScheduled a:false:PodInitializing"));
    let up = inits().seen("x", 0, exit(0)).seen("a", 0, State::Running);
    up.check(&format!(
        "Running {UP} Ready ContainersReady PodScheduled a:true:running"
    ));
}

#[test]
fn a_pod_that_was_told_to_stop_ends_as_its_containers_did() {
    let stopped = |code| Case {
        terminating: true,
        ..one().seen("a", 0, exit(code))
    };
    assert_eq!(stopped(0).status().phase.as_deref(), Some("Succeeded"));
    assert_eq!(stopped(137).status().phase.as_deref(), Some("Failed"));
}

#[test]
fn a_rejected_pod_says_why_and_has_no_containers() {
    let fate = Fate::Rejected {
        reason: "OutOfcpu".into(),
        message: "no".into(),
    };
    let status = Case { fate, ..one() }.status();
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("OutOfcpu"))
    );
    assert_eq!(status.container_statuses, None);
}

#[test]
fn transitions_keep_their_time_while_the_status_stays() {
    let mut case = one();
    case.pod.status = Some(case.status());
    case = case.seen("a", 0, State::Running);
    let of = |status: &PodStatus, kind: &str| {
        status
            .conditions
            .as_ref()
            .unwrap()
            .iter()
            .find(|c| c.type_ == kind)
            .unwrap()
            .clone()
    };
    let old = case.pod.status.as_mut().unwrap();
    for condition in old.conditions.iter_mut().flatten() {
        condition.last_transition_time = Some(Time(Timestamp::from_second(5).unwrap()));
    }
    let next = case.status();
    assert_eq!(of(&next, "Initialized").last_transition_time.unwrap().0.as_second(), 5);
    assert_eq!(of(&next, "Ready").last_transition_time.unwrap().0.as_second(), 10);
    assert_eq!(next.observed_generation, Some(3));
}

#[test]
fn a_patch_names_what_changed_and_takes_back_what_is_no_longer_said() {
    let mut case = one();
    let old = case.status();
    case = case.seen("a", 0, State::Running);
    let body = patch(&case.pod, &old, &case.status());
    let status = body["status"].as_object().unwrap();
    assert_eq!(body["metadata"]["uid"], "u");
    assert_eq!(status["phase"], "Running");
    assert!(!status.contains_key("hostIP"));
    let ready = status["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["type"] == "Ready")
        .unwrap();
    assert_eq!(
        (ready["status"].as_str(), ready.get("reason")),
        (Some("True"), Some(&Value::Null))
    );
}

#[test]
fn an_address_that_went_is_deleted_by_name() {
    let mut case = one();
    let old = case.status();
    case.observed.sandboxes[0].ips = vec!["10.244.0.10".into()];
    let body = patch(&case.pod, &old, &case.status());
    let want = json!([{"ip": "10.244.0.10"}, {"$patch": "delete", "ip": "10.244.0.9"}]);
    assert_eq!(body["status"]["podIPs"], want);
}

#[test]
fn readiness_gates_are_named_for_what_they_miss() {
    let mut case = case(json!({"containers": [{"name": "a", "image": "i"}],
        "readinessGates": [{"conditionType": "x/one"}, {"conditionType": "x/two"}]}))
    .seen("a", 0, State::Running);
    case.pod.status = serde_json::from_value(json!({"conditions": [{"type": "x/two", "status": "False"}]})).unwrap();
    let status = case.status();
    let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready").unwrap();
    assert_eq!(
        ready.message.as_deref(),
        Some(
            "corresponding condition of pod readiness gate \"x/one\" does not exist., \
             the status of pod readiness gate \"x/two\" is not \"True\", but False"
        )
    );
}

#[test]
fn last_words_share_twelve_kibibytes() {
    let case = case(
        json!({"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}, {"name": "c", "image": "i"},
        {"name": "d", "image": "i"}]}),
    )
    .seen("a", 0, exit(1));
    let mut status = case.status();
    let words = format!("{}{}", "a".repeat(2000), "z".repeat(2000));
    let statuses = status.container_statuses.as_mut().unwrap();
    statuses[0].state.as_mut().unwrap().terminated.as_mut().unwrap().message = Some(words);
    bound_messages(&mut status, case.pod.spec.as_ref().unwrap());
    let told = status.container_statuses.unwrap()[0]
        .state
        .clone()
        .unwrap()
        .terminated
        .unwrap()
        .message
        .unwrap();
    assert_eq!(told, format!("{}{}", "a".repeat(1536), "z".repeat(1536)));
}

#[test]
fn mounts_and_resources_are_told_of_each_container() {
    let case = case(json!({"containers": [{"name": "a", "image": "i",
        "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true}, {"name": "w", "mountPath": "/w"}]}]}))
    .seen("a", 0, State::Running);
    let status = case.status().container_statuses.unwrap().remove(0);
    assert_eq!(
        serde_json::to_value(status.volume_mounts).unwrap(),
        json!([{"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": "Disabled"}, {"name": "w", "mountPath": "/w"}])
    );
    assert_eq!(status.resources, Some(ResourceRequirements::default()));
}

#[test]
fn a_resize_is_told_only_while_it_is_not_done() {
    let mut case = one().seen("a", 0, State::Running);
    case.resize.pending = Some(("Deferred".into(), "no room".into()));
    let status = case.status();
    let found = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "PodResizePending")
        .unwrap();
    assert_eq!(
        (found.status.as_str(), found.reason.as_deref()),
        ("True", Some("Deferred"))
    );
    assert_eq!(found.observed_generation, Some(3));
    case.pod.status = Some(status.clone());
    case.resize = Told::default();
    let next = case.status();
    assert!(!next.conditions.iter().flatten().any(|c| c.type_ == "PodResizePending"));
    let patch = patch(&case.pod, &status, &next);
    assert_eq!(
        patch["status"]["conditions"],
        json!([{"$patch": "delete", "type": "PodResizePending"}])
    );
}
