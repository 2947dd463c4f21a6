//! Pods bound onto hollow nodes: objects of nodes and their Leases, which nobody runs.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use e2e::lab::Node;
use e2e::tools::Tools;
use http::Method;
use http_body_util::{BodyExt, Full};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::api::Server;
use crate::client::Target;
use crate::figures::{Figure, Figures};
use crate::process::{Cost, in_namespace_of};

/// The word with which this program, on a lab's node, fills that cluster.
pub(crate) const FILL: &str = "fill-cluster";

const NODES: usize = 1_000;
const PODS: usize = 5_000;
/// Connections that create pods.
const CLIENTS: usize = 32;
/// All is bound long before.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a filled cluster is watched before its memory counts.
const SETTLE: Duration = Duration::from_secs(30);

/// A process that ends with this value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// From the first pod's creation to the last one's binding, seen by a watch.
pub(crate) async fn measure(server: &Path, scheduler: &Path, figures: &mut Figures) -> anyhow::Result<()> {
    let (server, _) = Server::start(server).await?;
    let kubeconfig = server.kubeconfig("scheduler")?;
    let process = Process(
        Command::new(scheduler)
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .args(["--leader-elect=false", "--secure-port=0"])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(server.log("scheduler"))?)
            .spawn()
            .with_context(|| format!("cannot start {}", scheduler.display()))?,
    );
    let target = server.target()?;
    prepare(&target).await?;
    // What the nodes caused has settled when a first pod is bound.
    bind(&target, "warm", 1).await?;
    let cost = || -> anyhow::Result<(Cost, Cost)> { Ok((server.cost()?, Cost::of(process.0.id())?)) };
    let (server_before, scheduler_before) = cost()?;
    let took = bind(&target, "p", PODS).await?;
    let (server_after, scheduler_after) = cost()?;
    let per_pod = |after: Cost, before: Cost| after.since(before).cpu * 1e3 / PODS as f64;
    figures.add(Figure::at_least(
        "5,000 pods bound onto 1,000 nodes, end to end",
        PODS as f64 / took.as_secs_f64(),
        "/s",
        1_200.0,
    ));
    figures.add(Figure::told(
        "the same: server CPU per pod",
        per_pod(server_after, server_before),
        "ms",
    ));
    figures.add(Figure::told(
        "the same: scheduler CPU per pod",
        per_pod(scheduler_after, scheduler_before),
        "ms",
    ));
    figures.add(Figure::told(
        "the same: scheduler RSS",
        scheduler_after.resident as f64 / f64::from(1 << 20),
        "MiB",
    ));
    Ok(())
}

/// A whole cluster in one process, with so many nodes and pods.
pub(crate) async fn measure_memory(tools: &Tools, figures: &mut Figures) -> anyhow::Result<()> {
    let node = Node::start("bench", tools)?;
    node.coracle(&["up"])?;
    let this = std::env::current_exe()?.display().to_string();
    let filled = node.command(&this).args([FILL, "/var/lib/coracle/pki"]).output()?;
    ensure!(
        filled.status.success(),
        "the cluster was not filled: {}",
        String::from_utf8_lossy(&filled.stderr)
    );
    let pid = *in_namespace_of(node.init(), "coracle")?
        .first()
        .context("no coracle runs in the lab")?;
    figures.add(Figure::at_most(
        "one process with 5,000 pods and 1,000 nodes: RSS",
        Cost::of(pid)?.resident as f64 / f64::from(1 << 20),
        "MiB",
        200.0,
    ));
    node.coracle(&["reset"])?;
    Ok(())
}

/// Fills the cluster that serves on this machine, and keeps its nodes alive until it has settled.
pub(crate) fn fill(pki: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let pki = daemon::pki::Layout::new(pki);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 6443));
        let target = Target::new(address, &pki.cluster_ca(), &pki.certificate("admin"), &pki.key("admin"))?;
        prepare(&target).await?;
        bind(&target, "p", PODS).await?;
        let since = Instant::now();
        while since.elapsed() < SETTLE {
            renew(&target).await?;
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        Ok(())
    })
}

/// Nodes that can take pods, and the account of the pods.
async fn prepare(target: &Target) -> anyhow::Result<()> {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "bench"}});
    let accounts = "/api/v1/namespaces/kube-public/serviceaccounts";
    let account: Bytes = account.to_string().into();
    let mut client = target.connect().await?;
    client.exchange(Method::POST, accounts, account).await?;
    run(target, NODES, |n| send(Method::POST, "/api/v1/nodes".into(), &node(n))).await?;
    // A new node is tainted until a controller sees that it is ready; the hollow ones are from the start.
    run(target, NODES, |n| {
        send(
            Method::PATCH,
            format!("/api/v1/nodes/hollow-{n}"),
            &json!({"spec": {"taints": null}}),
        )
    })
    .await?;
    run(target, NODES, |n| {
        let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases".into();
        send(Method::POST, path, &lease(n))
    })
    .await
}

async fn renew(target: &Target) -> anyhow::Result<()> {
    run(target, NODES, |n| {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/hollow-{n}");
        let renewed = json!({"spec": {"renewTime": lease(n)["spec"]["renewTime"]}});
        send(Method::PATCH, path, &renewed)
    })
    .await
}

type Order = (Method, String, Bytes);

fn send(method: Method, path: String, body: &Value) -> Order {
    (method, path, body.to_string().into())
}

/// Sends `count` requests over several connections.
async fn run(
    target: &Target,
    count: usize,
    order: impl Fn(usize) -> Order + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let (order, next) = (Arc::new(order), Arc::new(AtomicUsize::new(0)));
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    for _ in 0..CLIENTS {
        let (order, next, mut client) = (order.clone(), next.clone(), target.connect().await?);
        let address = target.address;
        tasks.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return Ok(());
                }
                let (method, path, body) = order(n);
                let kind = if method == Method::PATCH {
                    "application/merge-patch+json"
                } else {
                    "application/json"
                };
                let request = http::Request::builder()
                    .method(method)
                    .uri(format!("https://{address}{path}"))
                    .header("content-type", kind)
                    .body(Full::new(body))?;
                client.send(request).await?;
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    Ok(())
}

/// Creates pods and waits until a watch has shown all of them with a node.
async fn bind(target: &Target, name: &'static str, count: usize) -> anyhow::Result<Duration> {
    let label = format!("load%3D{name}");
    let path = format!(
        "/api/v1/namespaces/kube-public/pods?watch=1&resourceVersion=0&labelSelector={label}&fieldSelector=spec.nodeName%21%3D"
    );
    let mut watcher = target.connect().await?;
    let mut body = watcher.open(Method::GET, &path, Bytes::new()).await?.into_body();
    let since = Instant::now();
    let bound = async move {
        let (mut seen, mut rest) = (0, Vec::new());
        while seen < count {
            let frame = body.frame().await.context("the watch ended")??;
            rest.extend_from_slice(frame.data_ref().context("a watch has only data")?);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                seen += usize::from(line.starts_with(b"{\"type\":\"ADDED\""));
            }
        }
        drop(watcher);
        anyhow::Ok(since.elapsed())
    };
    let create = run(target, count, move |n| {
        let path = "/api/v1/namespaces/kube-public/pods".into();
        send(Method::POST, path, &pod(name, n))
    });
    let (bound, created) = tokio::join!(tokio::time::timeout(PATIENCE, bound), create);
    created?;
    bound.context("the pods are not bound")?
}

fn node(n: usize) -> Value {
    let name = format!("hollow-{n}");
    let room = json!({"cpu": "32", "memory": "256Gi", "ephemeral-storage": "1000Gi", "pods": "110"});
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/zone": format!("zone-{}", n % 3), "hollow": "true",
        }},
        "status": {
            "capacity": room, "allocatable": room,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "hollow",
                "lastHeartbeatTime": now(), "lastTransitionTime": now()}],
        },
    })
}

fn lease(n: usize) -> Value {
    let name = format!("hollow-{n}");
    let time = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": time},
    })
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn pod(name: &str, n: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("{name}-{n}"), "labels": {"load": name, "app": "bench", "pod-template-hash": "5c8f9d7b6"}},
        "spec": {
            "automountServiceAccountToken": false, "serviceAccountName": "bench",
            // The machine's own node, where there is one, runs none of them.
            "nodeSelector": {"hollow": "true"},
            "containers": [{
                "name": "app", "image": "registry.example/team/app:1.2.3", "command": ["/bin/app", "--serve", "--port=8080"],
                "env": [{"name": "MODE", "value": "production"}, {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "ports": [{"name": "http", "containerPort": 8080}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 5},
            }],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
        },
    })
}
