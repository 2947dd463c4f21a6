//! The whole part, from the API to the kernel.

use std::sync::Arc;
use std::time::Duration;

use proxy::Config;
use proxy::nft::{Kernel, Nft, Op, Transaction};
use proxy::plan::{TABLE, sets};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::api::Api;
use super::cases::{Lab, ask};
use super::space::{Space, skip};

/// The proxy of a namespace, on threads of its own.
struct Running {
    stop: CancellationToken,
    thread: std::thread::JoinHandle<()>,
}

impl Running {
    fn start(space: &Space, api: &Arc<Api>) -> Self {
        let stop = CancellationToken::new();
        let (api, token) = (api.clone(), stop.clone());
        let config = Config {
            health: None,
            ..Config::new("n1")
        };
        let thread = space.run(move || {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime
                    .block_on(async { proxy::run(config, api.clients(), token).await })
                    .unwrap();
            })
        });
        Self { stop, thread }
    }

    fn stop(self) {
        self.stop.cancel();
        self.thread.join().unwrap();
    }
}

/// Asks again until the answer is the one that is waited for.
#[track_caller]
fn until(space: &Space, to: &'static str, want: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let have = space.run(move || ask(to));
        if have == want {
            return;
        }
        assert!(Instant::now() < deadline, "{to}: {have}, not {want}");
    }
}

fn service(name: &str, ip: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "a"}, "spec": {"clusterIP": ip, "ports": [{"port": 80, "protocol": "TCP"}]}})
}

fn slice(name: &str, service: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|a| json!({"addresses": [a], "nodeName": "n1", "conditions": {"ready": true}}))
        .collect();
    json!({"metadata": {"name": name, "namespace": "a", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "", "port": 80, "protocol": "TCP"}]})
}

fn rules(space: &Space) -> proxy::nft::Dump {
    space.run(|| Kernel::open(TABLE).unwrap().dump(&sets::OURS).unwrap().unwrap())
}

#[test]
fn the_kernel_follows_the_api_and_a_restart_adopts() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    lab.serve();
    let api = Arc::new(Api::default());
    api.put(
        "nodes",
        json!({"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.244.0.0/24"}}),
    );
    api.put("services", service("web", "10.96.0.7"));
    api.put("services", service("db", "10.96.0.8"));
    api.put("endpointslices", slice("web-1", "web", &["10.244.0.5"]));
    let running = Running::start(&lab.node, &api);
    let pod = &lab.pods[1];
    until(pod, "10.96.0.7:80", "0<10.244.0.6");
    until(pod, "10.96.0.8:80", "ConnectionRefused");
    // Changes arrive: endpoints, a new Service, a port of the node for a pod, and their ends.
    api.put("endpointslices", slice("db-1", "db", &["10.244.0.6"]));
    until(&lab.pods[0], "10.96.0.8:80", "1<10.244.0.5");
    let mut port = service("node", "10.96.0.9");
    port["spec"]["type"] = json!("NodePort");
    port["spec"]["ports"][0]["nodePort"] = json!(30080);
    api.put("services", port);
    api.put("endpointslices", slice("node-1", "node", &["10.244.0.5"]));
    until(&lab.outside, "192.0.2.10:30080", "0<10.244.0.1");
    api.put(
        "pods",
        json!({"metadata": {"name": "p", "namespace": "a"},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": "10.244.0.6"}}),
    );
    until(&lab.outside, "192.0.2.10:8080", "1<192.0.2.99");
    api.delete("pods", "p");
    until(&lab.outside, "192.0.2.10:8080", "ConnectionRefused");
    api.delete("endpointslices", "web-1");
    until(pod, "10.96.0.7:80", "ConnectionRefused");

    // Stopped, everything goes on; started again, only what changed meanwhile is changed.
    running.stop();
    let before = rules(&lab.node);
    assert_eq!(lab.outside.run(|| ask("192.0.2.10:30080")), "0<10.244.0.1");
    api.put("endpointslices", slice("web-2", "web", &["10.244.0.6"]));
    let running = Running::start(&lab.node, &api);
    until(&lab.pods[0], "10.96.0.7:80", "1<10.244.0.5");
    let after = rules(&lab.node);
    assert_eq!(
        before.sets[sets::ENDPOINTS].len() + 1,
        after.sets[sets::ENDPOINTS].len()
    );
    assert!(
        before.sets[sets::ENDPOINTS]
            .iter()
            .all(|e| after.sets[sets::ENDPOINTS].contains(e))
    );

    // Somebody else deletes the table: it is made again.
    let gone = Transaction {
        ops: vec![Op::DeleteTable],
    };
    lab.node.run(move || Kernel::open(TABLE).unwrap().apply(&gone).unwrap());
    until(&lab.outside, "192.0.2.10:30080", "0<10.244.0.1");
    running.stop();
}

#[test]
fn a_node_without_a_range_of_pods_routes_services_all_the_same() {
    if skip() {
        return;
    }
    let node = Space::new();
    node.ip("link add up0 type bridge");
    node.ip("addr add 192.0.2.10/24 dev up0");
    node.ip("link set up0 up");
    node.serve(3);
    let api = Arc::new(Api::default());
    api.put("services", service("kubernetes", "10.96.0.1"));
    api.put("endpointslices", slice("kubernetes", "kubernetes", &["192.0.2.10"]));
    let running = Running::start(&node, &api);
    until(&node, "10.96.0.1:80", "3<192.0.2.10");
    until(&node, "10.96.0.2:80", "ConnectionRefused");
    // The node gets its range: the bridge appears, and the route moves to it.
    api.put(
        "nodes",
        json!({"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.244.0.0/24"}}),
    );
    until(&node, "10.96.0.1:80", "3<10.244.0.1");
    running.stop();
}
