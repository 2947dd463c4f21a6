//! The whole node agent over the runtime in memory, on a paused clock: what pods go through, seen from the API and the runtime.

mod api;

use std::{sync::Arc, time::Duration};

use api::Api;
use kubelet::{
    Config,
    runtime::{
        self, Runtime,
        fake::{Behaviour, Fake},
    },
};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

struct Node {
    api: Api,
    fake: Arc<Fake>,
    dir: tempfile::TempDir,
    stop: CancellationToken,
    tasks: JoinSet<Result<(), kubelet::Error>>,
}

impl Node {
    fn start() -> Node {
        let fake = Arc::new(Fake::default());
        fake.image("web:1");
        let dir = tempfile::tempdir().expect("a directory for the test");
        let mut node = Node {
            api: Api::default(),
            fake,
            dir,
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
        };
        node.run();
        node
    }

    fn run(&mut self) {
        let mut config = Config::new("n1");
        config.cgroups_per_qos = false;
        config.root_dir = self.dir.path().join("lib");
        config.logs_dir = self.dir.path().join("logs");
        config.static_pods = Some(self.dir.path().join("manifests"));
        config.node_ips = vec!["172.30.0.11".parse().expect("an address")];
        config.cgroup_mount = self.dir.path().join("cgroup");
        // The disk is the machine's own, and no test's affair.
        config.eviction_hard.retain(|signal, _| signal == "memory.available");
        config.image_gc.limit = kubelet::node::garbage::Limit::Free(0);
        self.stop = CancellationToken::new();
        let (api, fake, stop) = (Arc::new(self.api.clone()), self.fake.clone(), self.stop.clone());
        self.tasks.spawn(kubelet::run_with(config, api, fake, stop));
    }

    async fn halt(&mut self) {
        self.stop.cancel();
        let ended = self.tasks.join_next().await.expect("it was started");
        ended.expect("it does not panic").expect("it ends well");
    }

    /// Waits, in the clock's own time, until it holds.
    #[track_caller]
    fn until(&self, what: &str, holds: impl Fn(&Node) -> bool) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        let end = Instant::now() + Duration::from_secs(900);
        async move {
            while !holds(self) {
                assert!(
                    Instant::now() < end,
                    "{place}: never {what}; calls {:?}",
                    self.fake.calls()
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    fn status(&self, pod: &str) -> Value {
        self.api.pod(pod).map(|p| p["status"].clone()).unwrap_or_default()
    }

    fn phase(&self, pod: &str) -> String {
        self.status(pod)["phase"].as_str().unwrap_or_default().to_owned()
    }

    fn ready(&self, pod: &str) -> bool {
        let status = self.status(pod);
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
    }

    fn count(&self, call: &str) -> usize {
        self.fake.calls().iter().filter(|c| c.starts_with(call)).count()
    }
}

fn web() -> Value {
    json!({"restartPolicy": "Always", "containers": [{"name": "web", "image": "web:1"}]})
}

#[tokio::test(start_paused = true)]
async fn a_pod_runs_and_leaves_nothing_behind() {
    let node = Node::start();
    node.api.create_pod("a", web());
    node.until("ready", |n| n.ready("a")).await;
    let status = node.status("a");
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["hostIP"], "172.30.0.11");
    assert!(status["podIP"].as_str().unwrap().starts_with("10.244."));
    assert_eq!(status["qosClass"], "BestEffort");
    node.api.delete_pod("a", 30);
    node.until("gone", |n| n.api.pod("a").is_none()).await;
    node.until("removed", |n| n.count("remove-sandbox") == 1).await;
    assert_eq!(node.fake.running_count(), 0);
    assert!(
        std::fs::read_dir(node.dir.path().join("lib/pods"))
            .unwrap()
            .next()
            .is_none()
    );
    assert!(
        std::fs::read_dir(node.dir.path().join("logs"))
            .unwrap()
            .next()
            .is_none()
    );
}

#[tokio::test(start_paused = true)]
async fn a_crashing_container_restarts_with_growing_delays() {
    let node = Node::start();
    node.fake.behave("web", Behaviour::Exits(1));
    node.api.create_pod("a", web());
    let begun = Instant::now();
    node.until("restarted four times", |n| n.count("start web") == 5).await;
    // At once, then after 10, 20 and 40 seconds.
    assert!((70..75).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    let waiting = |n: &Node| n.status("a")["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff";
    node.until("shown", waiting).await;
    assert_eq!(node.status("a")["containerStatuses"][0]["restartCount"], 4);
    assert!(node.api.events().contains(&"BackOff".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_job_ends_and_keeps_its_containers_until_it_is_deleted() {
    let node = Node::start();
    node.fake.behave("web", Behaviour::Exits(0));
    node.api.create_pod(
        "a",
        json!({"restartPolicy": "Never", "containers": [{"name": "web", "image": "web:1"}]}),
    );
    node.until("succeeded", |n| n.phase("a") == "Succeeded").await;
    assert_eq!(
        node.status("a")["containerStatuses"][0]["state"]["terminated"]["exitCode"],
        0
    );
    assert_eq!(node.fake.containers(None).await.unwrap().len(), 1);
    node.api.delete_pod("a", 30);
    node.until("gone", |n| n.api.pod("a").is_none()).await;
    node.until("removed", |n| n.count("remove-sandbox") == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ignores_the_signal_is_killed_when_its_grace_is_over() {
    let node = Node::start();
    node.fake.behave("web", Behaviour::Ignores);
    node.api.create_pod("a", web());
    node.until("ready", |n| n.ready("a")).await;
    let begun = Instant::now();
    node.api.delete_pod("a", 20);
    node.until("gone", |n| n.api.pod("a").is_none()).await;
    assert!((20..22).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_second_deletion_may_shorten_the_grace() {
    let node = Node::start();
    node.fake.behave("web", Behaviour::Ignores);
    node.api.create_pod("a", web());
    node.until("ready", |n| n.ready("a")).await;
    let begun = Instant::now();
    node.api.delete_pod("a", 300);
    node.until("asked", |n| n.count("stop web 300") == 1).await;
    node.api.delete_pod("a", 5);
    node.until("gone", |n| n.api.pod("a").is_none()).await;
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_restart_adopts_what_runs_and_takes_away_what_the_api_does_not_know() {
    let mut node = Node::start();
    node.api.create_pod("kept", web());
    node.api.create_pod("lost", web());
    node.until("ready", |n| n.ready("kept") && n.ready("lost")).await;
    let starts = node.count("start");
    node.halt().await;
    assert_eq!(node.fake.running_count(), 2);
    node.api.delete_pod("lost", 0);
    node.run();
    node.until("taken away", |n| n.fake.running_count() == 1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(node.ready("kept"));
    assert_eq!(node.count("start"), starts);
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_away_is_waited_for() {
    let node = Node::start();
    node.api.create_pod("a", web());
    node.until("ready", |n| n.ready("a")).await;
    node.fake.down(true);
    node.api.create_pod("b", web());
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(node.fake.running_count(), 1);
    node.fake.down(false);
    node.until("ready", |n| n.ready("b")).await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_image_and_a_missing_secret_are_told_and_tried_again() {
    let node = Node::start();
    let secret = json!([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]);
    node.api.create_pod(
        "a",
        json!({"containers": [
            {"name": "never", "image": "none:1", "imagePullPolicy": "Never"},
            {"name": "web", "image": "web:1", "env": secret}
        ]}),
    );
    let reason = |n: &Node, at: usize| n.status("a")["containerStatuses"][at]["state"]["waiting"]["reason"].clone();
    node.until("told", |n| {
        reason(n, 0) == "ErrImageNeverPull" && reason(n, 1) == "CreateContainerConfigError"
    })
    .await;
    assert_eq!(node.phase("a"), "Pending");
    node.fake.image("none:1");
    let path = "/api/v1/namespaces/default/secrets/s";
    node.api.create(
        path,
        json!({"metadata": {"name": "s", "namespace": "default"}, "data": {"k": "djE="}}),
    );
    node.until("ready", |n| n.ready("a")).await;
    let configs = node.fake.container_configs();
    let env = configs
        .iter()
        .find_map(|c| c.envs.iter().find(|e| e.key == "A"))
        .unwrap();
    assert_eq!(env.value, "v1");
}

#[tokio::test(start_paused = true)]
async fn a_pull_backs_off() {
    let node = Node::start();
    for _ in 0..3 {
        node.fake.fail(
            "pull_image",
            runtime::Error::Refused {
                code: 2,
                message: "no such host".into(),
            },
        );
    }
    node.api
        .create_pod("a", json!({"containers": [{"name": "web", "image": "far:1"}]}));
    let begun = Instant::now();
    let backing = |n: &Node| n.status("a")["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImagePull";
    node.until("told", backing).await;
    node.until("ready", |n| n.ready("a")).await;
    // 10, 20 and 40 seconds.
    assert!((70..75).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn volumes_follow_their_objects() {
    let node = Node::start();
    let path = "/api/v1/namespaces/default/configmaps/m";
    let map = |value: &str| json!({"metadata": {"name": "m", "namespace": "default"}, "data": {"k": value}});
    let mount = json!([{"name": "v", "mountPath": "/v"}]);
    node.api.create_pod(
        "a",
        json!({"containers": [{"name": "web", "image": "web:1", "volumeMounts": mount}],
            "volumes": [{"name": "v", "configMap": {"name": "m"}}]}),
    );
    node.until("told", |n| n.api.events().contains(&"FailedMount".to_owned()))
        .await;
    node.api.create(path, map("1"));
    node.until("ready", |n| n.ready("a")).await;
    let file = node
        .dir
        .path()
        .join("lib/pods/uid-a/volumes/kubernetes.io~configmap/v/k");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "1");
    node.api.create(path, map("2"));
    node.until("updated", |_| std::fs::read_to_string(&file).is_ok_and(|t| t == "2"))
        .await;
    assert_eq!(node.count("start"), 1);
}

#[tokio::test(start_paused = true)]
async fn init_containers_come_first_and_hooks_around() {
    let node = Node::start();
    node.fake.behave("first", Behaviour::Exits(0));
    let hook = |word: &str| json!({"exec": {"command": [word]}});
    node.api.create_pod(
        "a",
        json!({
            "initContainers": [{"name": "first", "image": "web:1"}],
            "containers": [{"name": "web", "image": "web:1",
                "lifecycle": {"postStart": hook("hello"), "preStop": hook("bye")}}]
        }),
    );
    node.until("ready", |n| n.ready("a")).await;
    node.api.delete_pod("a", 30);
    node.until("gone", |n| n.api.pod("a").is_none()).await;
    let order: Vec<String> = node
        .fake
        .calls()
        .into_iter()
        .filter(|c| !c.starts_with("create"))
        .take(6)
        .collect();
    let want = [
        "run-sandbox a",
        "start first",
        "start web",
        "exec web hello",
        "exec web bye",
        "stop web 30",
    ];
    assert_eq!(order, want);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_fit_is_rejected() {
    let node = Node::start();
    let resources = json!({"requests": {"cpu": "1000"}});
    node.api.create_pod(
        "a",
        json!({"containers": [{"name": "web", "image": "web:1", "resources": resources}]}),
    );
    node.until("rejected", |n| n.phase("a") == "Failed").await;
    assert_eq!(node.status("a")["reason"], "OutOfcpu");
    assert_eq!(node.fake.running_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_the_pod() {
    let node = Node::start();
    node.api.create_pod(
        "a",
        json!({"activeDeadlineSeconds": 0, "restartPolicy": "Never", "containers": [{"name": "web", "image": "web:1"}]}),
    );
    node.until("failed", |n| n.phase("a") == "Failed").await;
    assert_eq!(node.status("a")["reason"], "DeadlineExceeded");
    assert_eq!(node.fake.running_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_node_registers_and_renews_its_lease() {
    let node = Node::start();
    let of = |n: &Node| n.api.get("/api/v1/nodes/n1").unwrap_or_default();
    let ready = move |n: &Node| {
        let node = of(n);
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    node.until("ready", ready).await;
    let object = of(&node);
    assert_eq!(object["metadata"]["labels"]["kubernetes.io/hostname"], "n1");
    assert!(
        object["status"]["nodeInfo"]["kubeletVersion"]
            .as_str()
            .unwrap()
            .starts_with("v1.36.")
    );
    let lease = |n: &Node| {
        n.api
            .get("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1")
    };
    node.until("held", move |n| lease(n).is_some()).await;
    let first = lease(&node).unwrap()["metadata"]["resourceVersion"].clone();
    node.until("renewed", move |n| {
        lease(n).unwrap()["metadata"]["resourceVersion"] != first
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_running_pod_is_resized_in_place_or_told_that_it_cannot_be() {
    let mut node = Node::start();
    let with = |cpu: &str| {
        json!({"restartPolicy": "Always", "containers": [{"name": "web", "image": "web:1",
            "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}}]})
    };
    node.api.create_pod("a", with("100m"));
    node.until("ready", |n| n.ready("a")).await;
    let container = |n: &Node, field: &str| n.status("a")["containerStatuses"][0][field].clone();
    assert_eq!(container(&node, "resources")["limits"]["cpu"], "100m");
    let wish = |n: &Node, cpu: &str| {
        let mut pod = n.api.pod("a").unwrap();
        pod["spec"]["containers"] = with(cpu)["containers"].clone();
        n.api.create("/api/v1/namespaces/default/pods/a", pod);
    };
    wish(&node, "200m");
    node.until("applied", |n| container(n, "resources")["limits"]["cpu"] == "200m")
        .await;
    assert_eq!(container(&node, "allocatedResources")["cpu"], "200m");
    let linux = node.fake.containers(None).await.unwrap();
    let given = node
        .fake
        .container_status(&linux[0].id)
        .await
        .unwrap()
        .resources
        .unwrap()
        .linux
        .unwrap();
    assert_eq!((given.cpu_quota, given.cpu_shares), (20_000, 204));
    let condition = |n: &Node, kind: &str| {
        let all = n.status("a")["conditions"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|c| c["type"] == kind).unwrap_or_default()
    };
    wish(&node, "9000");
    node.until("refused", |n| {
        condition(n, "PodResizePending")["reason"] == "Infeasible"
    })
    .await;
    assert_eq!(container(&node, "allocatedResources")["cpu"], "200m");
    // What was granted is known to the next life of the node agent, which starts nothing again.
    node.halt().await;
    node.run();
    wish(&node, "300m");
    node.until("applied", |n| container(n, "resources")["limits"]["cpu"] == "300m")
        .await;
    assert_eq!((node.count("create"), container(&node, "restartCount")), (1, json!(0)));
}

#[tokio::test(start_paused = true)]
async fn a_file_is_a_pod_with_a_mirror_in_the_api() {
    let node = Node::start();
    let folder = node.dir.path().join("manifests");
    node.until("there", |n| n.dir.path().join("manifests").is_dir()).await;
    let write = |image: &str| {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "web", "image": image}]}});
        std::fs::write(folder.join("next"), pod.to_string()).unwrap();
        std::fs::rename(folder.join("next"), folder.join("web.yaml")).unwrap();
    };
    write("web:1");
    node.until("ready", |n| n.ready("web-n1")).await;
    let mirror = node.api.pod("web-n1").unwrap();
    let hash = mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"].clone();
    assert_eq!(mirror["metadata"]["ownerReferences"][0]["kind"], "Node");
    assert_eq!(
        node.fake.sandbox_configs()[0].labels["io.kubernetes.pod.uid"],
        hash.as_str().unwrap()
    );
    // Deleting the mirror stops nothing, and brings another one.
    node.api.delete_pod("web-n1", 30);
    node.until("deleted", |n| {
        n.api
            .pod("web-n1")
            .is_none_or(|p| p["metadata"]["deletionTimestamp"].is_null())
    })
    .await;
    node.until("mirrored again", |n| n.ready("web-n1")).await;
    assert_eq!((node.count("run-sandbox"), node.fake.running_count()), (1, 1));
    node.fake.image("web:2");
    write("web:2");
    node.until("another pod", |n| {
        n.ready("web-n1")
            && n.api.pod("web-n1").unwrap()["metadata"]["annotations"]["kubernetes.io/config.mirror"] != hash
    })
    .await;
    assert_eq!((node.count("run-sandbox"), node.fake.running_count()), (2, 1));
    std::fs::remove_file(folder.join("web.yaml")).unwrap();
    node.until("gone", |n| n.api.pod("web-n1").is_none() && n.fake.running_count() == 0)
        .await;
}

/// A machine of 1 GiB that uses so much of it.
fn uses(node: &Node, bytes: u64) {
    let memory = node.dir.path().join("cgroup/memory");
    std::fs::create_dir_all(&memory).expect("a fake tree");
    std::fs::write(memory.join("memory.limit_in_bytes"), (1u64 << 30).to_string()).expect("a fake tree");
    std::fs::write(memory.join("memory.stat"), "total_inactive_file 0\n").expect("a fake tree");
    std::fs::write(memory.join("memory.usage_in_bytes"), bytes.to_string()).expect("a fake tree");
}

fn pressed(node: &Node) -> bool {
    let status = node
        .api
        .get("/api/v1/nodes/n1")
        .map(|n| n["status"].clone())
        .unwrap_or_default();
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    conditions
        .iter()
        .any(|c| c["type"] == "MemoryPressure" && c["status"] == "True")
}

#[tokio::test(start_paused = true)]
async fn a_node_without_memory_evicts_the_least_important_and_says_so() {
    let mut node = Node::start();
    node.halt().await;
    uses(&node, 100 << 20);
    node.run();
    let of = |priority: i32| {
        let mut spec = web();
        spec["priority"] = json!(priority);
        spec
    };
    node.api.create_pod("high", of(9));
    node.api.create_pod("low", of(1));
    node.until("ready", |n| n.ready("high") && n.ready("low")).await;
    uses(&node, 1000 << 20);
    node.until("evicted", |n| n.phase("low") == "Failed").await;
    let status = node.status("low");
    assert_eq!(status["reason"], "Evicted");
    let message = status["message"].as_str().unwrap();
    assert!(
        message.starts_with("The node was low on resource: memory. Threshold quantity: 100Mi, available: 24Mi. "),
        "{message}"
    );
    let conditions = status["conditions"].as_array().unwrap();
    let disrupted = conditions.iter().find(|c| c["type"] == "DisruptionTarget").unwrap();
    assert_eq!(
        (&disrupted["status"], &disrupted["reason"]),
        (&json!("True"), &json!("TerminationByKubelet"))
    );
    uses(&node, 100 << 20);
    node.until("the pressure is told", pressed).await;
    // Nothing that asks for no memory is taken while the pressure is told, and it is told for five minutes.
    node.api.create_pod("late", web());
    node.until("refused", |n| n.phase("late") == "Failed").await;
    assert_eq!(
        node.status("late")["message"],
        "Pod was rejected: The node had condition: [MemoryPressure]. "
    );
    node.until("the pressure is over", |n| !pressed(n)).await;
    assert_eq!(node.phase("high"), "Running");
}
