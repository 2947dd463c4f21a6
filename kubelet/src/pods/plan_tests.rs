use std::collections::HashMap;

use serde_json::json;

use super::*;
use crate::pods::observed::{Exit, PodSandbox};

const S: Duration = Duration::from_secs(1);

/// A pod's definition and what the runtime has of it.
struct Case {
    pod: Pod,
    observed: Observed,
    backoff: Backoff,
    health: HashMap<String, Health>,
    now: Instant,
    allocation: Option<Allocation>,
}

fn case(spec: serde_json::Value) -> Case {
    let pod = serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec})).unwrap();
    Case {
        pod,
        observed: Observed::default(),
        backoff: Backoff::new(10 * S, 300 * S),
        health: HashMap::new(),
        now: Instant::now() + 1000 * S,
        allocation: None,
    }
}

fn one(policy: &str) -> Case {
    case(json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]}))
}

impl Case {
    fn sandbox(mut self, attempt: u32, ready: bool) -> Self {
        let id = format!("s{attempt}");
        self.observed.sandboxes.insert(
            0,
            PodSandbox {
                id,
                attempt,
                ready,
                created: i64::from(attempt),
                ips: Vec::new(),
            },
        );
        self
    }

    fn seen(mut self, name: &str, attempt: u32, state: State) -> Self {
        let definition = crate::pods::sync::definition(&self.pod, name).unwrap().0;
        let seen = Seen {
            id: format!("{name}{attempt}"),
            sandbox: self.observed.sandboxes[0].id.clone(),
            name: name.to_owned(),
            attempt,
            state,
            created: 0,
            started: 1,
            image: definition.image.clone().unwrap_or_default(),
            image_ref: String::new(),
            image_id: String::new(),
            annotations: HashMap::from([(label::HASH.to_owned(), hash(&definition))]),
            mounts: Vec::new(),
            user: None,
            resources: None,
        };
        self.observed.containers.insert(0, seen);
        self
    }

    fn running(self, name: &str) -> Self {
        self.seen(name, 0, State::Running)
    }

    fn exited(self, name: &str, attempt: u32, code: i32) -> Self {
        let at = self.now - S;
        self.seen(
            name,
            attempt,
            State::Exited(Exit {
                code,
                finished: 1,
                at,
                reason: String::new(),
                message: String::new(),
            }),
        )
    }

    fn plan(&self) -> Plan {
        let Case {
            pod,
            observed,
            backoff,
            health,
            now,
            allocation,
        } = self;
        plan(&Facts {
            pod,
            observed,
            backoff,
            health,
            now: *now,
            allocation: allocation.as_ref(),
        })
    }

    /// The plan in words.
    #[track_caller]
    fn check(&self, want: &str) {
        let plan = self.plan();
        let mut words = Vec::new();
        match &plan.sandbox {
            Sandbox::Keep(_) => {}
            Sandbox::Create { attempt } => words.push(format!("sandbox {attempt}")),
            Sandbox::Unneeded => words.push("no sandbox".to_owned()),
        }
        words.extend(plan.stop.iter().map(|s| format!("stop {}", s.id)));
        words.extend(plan.start.iter().map(|s| format!("start {}{}", s.name, s.attempt)));
        words.extend(
            plan.wait
                .iter()
                .map(|w| format!("wait {} {}s", w.name, w.delay.as_secs())),
        );
        words.extend(plan.remove.iter().map(|r| format!("remove {r}")));
        words.extend(plan.remove_sandboxes.iter().map(|r| format!("remove {r}")));
        words.extend(plan.finished.map(|f| format!("{f:?}").to_lowercase()));
        assert_eq!(words.join(", "), want);
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_pod_gets_a_sandbox_and_its_containers() {
    one("Always").check("sandbox 0, start a0");
    one("Always").sandbox(0, true).check("start a0");
    one("Always").sandbox(0, true).running("a").check("");
}

#[tokio::test(start_paused = true)]
async fn an_ended_container_follows_the_restart_policy() {
    let ended = |policy, code| one(policy).sandbox(0, true).exited("a", 0, code);
    ended("Always", 0).check("start a1");
    ended("Always", 1).check("start a1");
    ended("OnFailure", 1).check("start a1");
    ended("OnFailure", 0).check("no sandbox, succeeded");
    ended("Never", 0).check("no sandbox, succeeded");
    ended("Never", 1).check("no sandbox, failed");
}

#[tokio::test(start_paused = true)]
async fn one_container_that_goes_on_keeps_the_pod() {
    let two =
        json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]});
    case(two.clone())
        .sandbox(0, true)
        .exited("a", 0, 1)
        .running("b")
        .check("");
    case(two)
        .sandbox(0, true)
        .exited("a", 0, 1)
        .exited("b", 0, 0)
        .check("no sandbox, failed");
}

#[tokio::test(start_paused = true)]
async fn the_containers_own_policy_and_rules_come_first() {
    let own = json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "i", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]});
    case(own.clone()).sandbox(0, true).exited("a", 0, 42).check("start a1");
    case(own)
        .sandbox(0, true)
        .exited("a", 0, 43)
        .check("no sandbox, failed");
}

#[tokio::test(start_paused = true)]
async fn a_crashing_container_waits() {
    let mut crashing = one("Always").sandbox(0, true).exited("a", 1, 1);
    crashing.backoff.next("a", crashing.now - 2 * S, crashing.now - 2 * S);
    crashing.check("wait a 10s");
    assert_eq!(crashing.plan().wake(), Some(crashing.now + 9 * S));
    crashing.now += 10 * S;
    crashing.check("start a2");
}

#[tokio::test(start_paused = true)]
async fn init_containers_run_one_after_the_other() {
    let inits = || {
        case(
            json!({"restartPolicy": "Always", "containers": [{"name": "a", "image": "i"}],
            "initContainers": [{"name": "x", "image": "i"}, {"name": "y", "image": "i"}]}),
        )
        .sandbox(0, true)
    };
    inits().check("start x0");
    inits().running("x").check("");
    inits().exited("x", 0, 0).check("start y0");
    inits().exited("x", 0, 1).check("start x1");
    inits().exited("x", 0, 0).exited("y", 0, 0).check("start a0");
    inits().exited("x", 0, 0).exited("y", 0, 0).running("a").check("");
}

#[tokio::test(start_paused = true)]
async fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    case(
        json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "i"}],
        "initContainers": [{"name": "x", "image": "i"}]}),
    )
    .sandbox(0, true)
    .exited("x", 0, 1)
    .check("no sandbox, failed");
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_runs_beside_the_containers_and_comes_back() {
    let sidecar = || {
        case(
            json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "i"}],
            "initContainers": [{"name": "x", "image": "i", "restartPolicy": "Always"}]}),
        )
        .sandbox(0, true)
    };
    sidecar().check("start x0");
    sidecar().running("x").check("start a0");
    let mut slow = sidecar().running("x");
    slow.health.insert(
        "x0".into(),
        Health {
            started: Some(false),
            ready: false,
            failed: None,
        },
    );
    slow.check("");
    sidecar().exited("x", 0, 1).running("a").check("start x1");
    sidecar().running("x").exited("a", 0, 0).check("no sandbox, succeeded");
}

#[tokio::test(start_paused = true)]
async fn a_lost_sandbox_is_made_again_and_init_containers_run_again() {
    one("Always")
        .sandbox(0, false)
        .exited("a", 0, 255)
        .check("sandbox 1, start a1");
    one("Always")
        .sandbox(0, false)
        .running("a")
        .check("sandbox 1, stop a0, start a1");
    one("Never")
        .sandbox(0, false)
        .exited("a", 0, 255)
        .check("no sandbox, failed");
    let inits = case(
        json!({"restartPolicy": "Always", "containers": [{"name": "a", "image": "i"}],
        "initContainers": [{"name": "x", "image": "i"}]}),
    );
    inits
        .sandbox(0, false)
        .exited("x", 0, 0)
        .exited("a", 0, 255)
        .check("sandbox 1, start x1");
}

#[tokio::test(start_paused = true)]
async fn a_changed_image_replaces_the_container() {
    let mut changed = one("Always").sandbox(0, true).running("a");
    changed.pod.spec.as_mut().unwrap().containers[0].image = Some("other".into());
    changed.check("stop a0");
}

#[tokio::test(start_paused = true)]
async fn containers_of_another_node_agent_are_adopted_by_their_image() {
    let mut foreign = one("Always").sandbox(0, true).running("a");
    foreign.observed.containers[0]
        .annotations
        .insert(label::HASH.into(), "4711".into());
    foreign.check("");
}

#[tokio::test(start_paused = true)]
async fn a_failed_probe_stops_the_container_with_its_own_grace() {
    let mut sick = one("Always").sandbox(0, true).running("a");
    let failed = Some(("liveness", Some(3)));
    sick.health.insert(
        "a0".into(),
        Health {
            started: None,
            ready: true,
            failed,
        },
    );
    sick.check("stop a0");
    let stop = &sick.plan().stop[0];
    assert_eq!(
        (stop.why.as_str(), stop.grace),
        ("Container a failed liveness probe, will be restarted", Some(3))
    );
}

#[tokio::test(start_paused = true)]
async fn only_the_last_two_runs_are_kept() {
    let many = one("Always")
        .sandbox(0, true)
        .exited("a", 0, 1)
        .exited("a", 1, 1)
        .exited("a", 2, 1);
    many.check("start a3, remove a0");
    one("Always")
        .sandbox(0, false)
        .exited("a", 0, 1)
        .sandbox(1, true)
        .exited("a", 1, 1)
        .seen("a", 2, State::Running)
        .check("remove a0, remove s0");
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_container_runs_once() {
    let debug = json!({"restartPolicy": "Always", "containers": [{"name": "a", "image": "i"}],
        "ephemeralContainers": [{"name": "d", "image": "i"}]});
    case(debug.clone()).sandbox(0, true).running("a").check("start d0");
    case(debug).sandbox(0, true).running("a").exited("d", 0, 1).check("");
}

#[test]
fn other_resources_are_given_to_a_running_container_or_to_its_next_run() {
    let spec = |cpu: &str, memory: &str| {
        json!({"restartPolicy": "OnFailure", "containers": [{"name": "a", "image": "i",
            "resources": {"limits": {"cpu": cpu, "memory": memory}},
            "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]}]})
    };
    let resized = |cpu: &str, memory: &str| {
        let mut resized = case(spec("1", "1Gi")).sandbox(0, true).running("a");
        let mut allocation = Allocation::of(&resized.pod);
        allocation.grant(&case(spec(cpu, memory)).pod);
        resized.allocation = Some(allocation);
        resized
    };
    assert_eq!(resized("1", "1Gi").plan().update, []);
    assert_eq!(resized("2", "1Gi").plan().update, [("a0".to_owned(), "a".to_owned())]);
    let plan = resized("1", "2Gi").plan();
    assert_eq!(
        (plan.update.len(), plan.stop[0].why.as_str()),
        (0, "Container a resize requires restart")
    );
    // It ended well when it was told to stop, and still it was stopped for a new run.
    let mut stopped = resized("1", "2Gi");
    stopped.observed.containers.clear();
    let plan = stopped.exited("a", 0, 0).plan();
    assert_eq!((plan.finished, plan.start.len()), (None, 1));
}
