//! The API server alone, as a process of its own with its durable store, under load over TLS from this process.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::Target;
use crate::figures::{Figure, Figures};
use crate::process::Cost;

/// Fresh starts, of which the median counts: this machine's disk is shared.
const STARTS: usize = 5;
/// ConfigMaps that are made.
const CREATES: usize = 20_000;

/// A server of this bench's own: its keys and store lie in a folder that goes with it.
pub(crate) struct Server {
    folder: tempfile::TempDir,
    program: PathBuf,
    port: u16,
    child: Child,
}

impl Server {
    pub(crate) async fn start(program: &Path) -> anyhow::Result<(Self, Duration)> {
        let folder = tempfile::tempdir_in("/var/tmp")?;
        let cluster = daemon::pki::Cluster {
            node_name: "bench".into(),
            node_addresses: vec!["127.0.0.1".into()],
            server_names: vec![],
            service_address: Ipv4Addr::new(10, 96, 0, 1).into(),
            domain: "cluster.local".into(),
        };
        daemon::pki::Layout::new(folder.path().join("pki")).ensure(&cluster, Timestamp::now())?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let since = Instant::now();
        let child = launch(program, folder.path(), port)?;
        let mut server = Server {
            folder,
            program: program.to_path_buf(),
            port,
            child,
        };
        server.ready(since).await?;
        Ok((server, since.elapsed()))
    }

    /// Kills the server and starts it again on what it stored.
    async fn restart(&mut self) -> anyhow::Result<Duration> {
        self.child.kill()?;
        self.child.wait()?;
        let since = Instant::now();
        self.child = launch(&self.program, self.folder.path(), self.port)?;
        self.ready(since).await?;
        Ok(since.elapsed())
    }

    /// Waits for `/readyz`, asked over and over on loopback.
    async fn ready(&mut self, since: Instant) -> anyhow::Result<()> {
        let target = self.target()?;
        loop {
            if let Ok(mut client) = target.connect().await
                && client.exchange(Method::GET, "/readyz", Bytes::new()).await.is_ok()
            {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the API server ended: {status}");
            }
            ensure!(
                since.elapsed() < Duration::from_secs(30),
                "the API server does not get ready"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) fn target(&self) -> anyhow::Result<Target> {
        let pki = daemon::pki::Layout::new(self.folder.path().join("pki"));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        Target::new(address, &pki.cluster_ca(), &pki.certificate("admin"), &pki.key("admin"))
    }

    pub(crate) fn cost(&self) -> anyhow::Result<Cost> {
        Cost::of(self.child.id())
    }

    /// A kubeconfig for one of the cluster's own identities.
    pub(crate) fn kubeconfig(&self, name: &str) -> anyhow::Result<PathBuf> {
        let pki = daemon::pki::Layout::new(self.folder.path().join("pki"));
        let path = self.folder.path().join(format!("{name}.kubeconfig"));
        let server = format!("https://127.0.0.1:{}", self.port);
        pki.write_kubeconfig(name, "bench", &server, &path)?;
        Ok(path)
    }

    /// Where a program of this run may write its log.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    fn mebibytes(&self) -> anyhow::Result<f64> {
        Ok(self.cost()?.resident as f64 / f64::from(1 << 20))
    }
}

fn launch(program: &Path, folder: &Path, port: u16) -> anyhow::Result<Child> {
    let pki = |file: &str| folder.join("pki").join(file).display().to_string();
    Command::new(program)
        .args([
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            &format!("--secure-port={port}"),
        ])
        .arg(format!("--data-dir={}", folder.join("store").display()))
        .arg(format!("--client-ca-file={}", pki("ca.crt")))
        .arg(format!("--tls-cert-file={}", pki("apiserver.crt")))
        .arg(format!("--tls-private-key-file={}", pki("apiserver.key")))
        .arg(format!("--service-account-key-file={}", pki("sa.pub")))
        .arg(format!("--service-account-signing-key-file={}", pki("sa.key")))
        .arg("--service-account-issuer=https://kubernetes.default.svc.cluster.local")
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.join("log"))?)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs all loads and adds their figures.
pub(crate) async fn measure(program: &Path, figures: &mut Figures) -> anyhow::Result<()> {
    let mut starts = Vec::new();
    let mut server = loop {
        let (server, took) = Server::start(program).await?;
        starts.push(took);
        if starts.len() == STARTS {
            break server;
        }
    };
    starts.sort_unstable();
    figures.add(Figure::at_most(
        "API server: exec to /readyz, fresh store",
        starts[STARTS / 2].as_secs_f64(),
        "s",
        0.3,
    ));
    figures.add(Figure::told("API server: RSS when ready", server.mebibytes()?, "MiB"));
    let target = server.target()?;

    let load = run(&server, &target, 64, CREATES, |n| {
        (
            Method::POST,
            "/api/v1/namespaces/default/configmaps".into(),
            config_map(n),
        )
    })
    .await?;
    figures.add(Figure::at_most(
        "durable create, 64 clients: server CPU",
        load.cpu_ms(),
        "ms",
        1.24 / 5.0,
    ));
    figures.add(Figure::told("durable create, 64 clients: rate", load.rate(), "/s"));

    let load = run(&server, &target, 16, 40_000, |n| {
        (
            Method::GET,
            format!("/api/v1/namespaces/default/configmaps/c-{}", n % CREATES),
            Bytes::new(),
        )
    })
    .await?;
    figures.add(Figure::at_most(
        "GET, 16 clients: server CPU",
        load.cpu_ms(),
        "ms",
        0.56 / 5.0,
    ));
    figures.add(Figure::told("GET, 16 clients: rate", load.rate(), "/s"));

    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "bench"}});
    run(&server, &target, 1, 1, move |_| {
        let path = "/api/v1/namespaces/kube-public/serviceaccounts".into();
        (Method::POST, path, account.to_string().into())
    })
    .await?;
    let load = run(&server, &target, 64, 5_000, |n| {
        (Method::POST, "/api/v1/namespaces/kube-public/pods".into(), pod(n))
    })
    .await?;
    figures.add(Figure::told(
        "durable create of a pod, 64 clients: server CPU",
        load.cpu_ms(),
        "ms",
    ));
    let load = run(&server, &target, 4, 100, |_| {
        (Method::GET, "/api/v1/pods".into(), Bytes::new())
    })
    .await?;
    figures.add(Figure::at_most(
        "LIST of 5,000 pods, 4 clients: server CPU",
        load.cpu_ms(),
        "ms",
        250.0 / 5.0,
    ));
    figures.add(Figure::told(
        "LIST of 5,000 pods: bytes",
        load.bytes as f64 / load.count as f64,
        "B",
    ));

    measure_watch(&server, &target, figures).await?;
    figures.add(Figure::told(
        "API server: RSS with 5,000 pods and 20,000 ConfigMaps",
        server.mebibytes()?,
        "MiB",
    ));
    let again = server.restart().await?;
    figures.add(Figure::told(
        "API server: exec to /readyz, that store",
        again.as_secs_f64(),
        "s",
    ));
    Ok(())
}

/// The watch load alone.
pub(crate) async fn measure_watch_alone(program: &Path, figures: &mut Figures) -> anyhow::Result<()> {
    let (server, _) = Server::start(program).await?;
    let target = server.target()?;
    run(&server, &target, 1, 1, |n| {
        let path = "/api/v1/namespaces/default/configmaps".into();
        (Method::POST, path, config_map(n))
    })
    .await?;
    measure_watch(&server, &target, figures).await
}

async fn measure_watch(server: &Server, target: &Target, figures: &mut Figures) -> anyhow::Result<()> {
    let (load, deliveries) = watch(server, target).await?;
    figures.add(Figure::at_most(
        "watch, 100 watchers: server CPU per delivery",
        load.cost.cpu * 1e6 / deliveries as f64,
        "µs",
        33.0 / 5.0,
    ));
    figures.add(Figure::told("watch, 100 watchers: updates", load.rate(), "/s"));
    Ok(())
}

/// What a load cost the server.
struct Load {
    cost: Cost,
    took: Duration,
    count: usize,
    bytes: usize,
}

impl Load {
    fn cpu_ms(&self) -> f64 {
        self.cost.cpu * 1e3 / self.count as f64
    }
    fn rate(&self) -> f64 {
        self.count as f64 / self.took.as_secs_f64()
    }
}

/// `count` requests by so many clients, each with a connection of its own.
async fn run(
    server: &Server,
    target: &Target,
    clients: usize,
    count: usize,
    request: impl Fn(usize) -> (Method, String, Bytes) + Send + Sync + 'static,
) -> anyhow::Result<Load> {
    let (request, next) = (Arc::new(request), Arc::new(AtomicUsize::new(0)));
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push(target.connect().await?);
    }
    let (before, since) = (server.cost()?, Instant::now());
    let mut tasks: JoinSet<anyhow::Result<usize>> = JoinSet::new();
    for mut client in connections {
        let (request, next) = (request.clone(), next.clone());
        tasks.spawn(async move {
            let mut bytes = 0;
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return Ok(bytes);
                }
                let (method, path, body) = request(n);
                bytes += client.exchange(method, &path, body).await?;
            }
        });
    }
    let mut bytes = 0;
    while let Some(task) = tasks.join_next().await {
        bytes += task??;
    }
    Ok(Load {
        cost: server.cost()?.since(before),
        took: since.elapsed(),
        count,
        bytes,
    })
}

/// 100 watchers see 1,000 updates of one object, made as fast as one client can.
async fn watch(server: &Server, target: &Target) -> anyhow::Result<(Load, usize)> {
    const WATCHERS: usize = 100;
    const UPDATES: usize = 1_000;
    let path = "/api/v1/namespaces/default/configmaps?watch=1&fieldSelector=metadata.name%3Dc-0&resourceVersion=";
    let mut writer = target.connect().await?;
    let response = writer
        .open(Method::GET, "/api/v1/namespaces/default/configmaps/c-0", Bytes::new())
        .await?;
    let object: serde_json::Value = serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?;
    let revision = object["metadata"]["resourceVersion"]
        .as_str()
        .context("objects have a revision")?
        .to_owned();
    let mut tasks: JoinSet<anyhow::Result<usize>> = JoinSet::new();
    let mut streams = Vec::new();
    for _ in 0..WATCHERS {
        let mut client = target.connect().await?;
        let body = client
            .open(Method::GET, &format!("{path}{revision}"), Bytes::new())
            .await?
            .into_body();
        streams.push((client, body));
    }
    let (before, since) = (server.cost()?, Instant::now());
    for (client, mut body) in streams {
        tasks.spawn(async move {
            let (mut events, mut bytes) = (0, 0);
            while events < UPDATES {
                let frame = body.frame().await.context("a watch ended")??;
                let data = frame.data_ref().context("a watch has only data")?;
                events += data.iter().filter(|byte| **byte == b'\n').count();
                bytes += data.len();
            }
            drop(client);
            Ok(bytes)
        });
    }
    for update in 0..UPDATES {
        let patch = json!({"metadata": {"annotations": {"update": update.to_string()}}});
        let request = http::Request::patch(format!(
            "https://{}/api/v1/namespaces/default/configmaps/c-0",
            target.address
        ))
        .header("content-type", "application/merge-patch+json")
        .body(http_body_util::Full::new(Bytes::from(serde_json::to_vec(&patch)?)))?;
        writer.send(request).await?;
    }
    let mut bytes = 0;
    while let Some(task) = tasks.join_next().await {
        bytes += task??;
    }
    let load = Load {
        cost: server.cost()?.since(before),
        took: since.elapsed(),
        count: UPDATES,
        bytes,
    };
    Ok((load, WATCHERS * UPDATES))
}

fn config_map(n: usize) -> Bytes {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": format!("c-{n}"), "labels": {"app": "bench", "part": (n % 100).to_string()}},
        "data": {"payload": "x".repeat(1024)},
    });
    serde_json::to_vec(&object).expect("a JSON tree serializes").into()
}

/// A pod of about 2.3 KB as the server returns it.
fn pod(n: usize) -> Bytes {
    let container = |name: &str| {
        json!({
            "name": name, "image": "registry.example/team/app:1.2.3", "command": ["/bin/app", "--serve", "--port=8080"],
            "env": [{"name": "MODE", "value": "production"}, {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "ports": [{"name": format!("{name}-http"), "containerPort": 8080}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 5},
        })
    };
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("p-{n}"), "labels": {"app": "bench", "pod-template-hash": "5c8f9d7b6"}},
        "spec": {
            "automountServiceAccountToken": false, "serviceAccountName": "bench",
            "containers": [container("app"), container("side")],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
        },
    });
    serde_json::to_vec(&object).expect("a JSON tree serializes").into()
}
