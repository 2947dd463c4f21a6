//! Makes the Node object and keeps its status true: on a change at once, unchanged every five minutes.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use api::{
    names::well_known as names,
    quantity::{Format, Quantity},
};
use daemon::informer::{Informers, Lister, Options};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    cni,
    eviction::{Pressures, plan::Pressure},
    facts,
};
use crate::{
    config::Config,
    pods::{admit::Offer, shared::NodeFacts},
    runtime::Runtime,
};

/// How often pressure is looked for. On the list of things with a period; it costs two reads of /proc and one of the disk.
const PRESSURE: Duration = Duration::from_secs(10);
const MAX_IMAGES: usize = 50;

pub struct Reporter {
    config: Arc<Config>,
    runtime: Arc<dyn Runtime>,
    client: kube::Client,
    node: Lister<Node>,
    facts: watch::Sender<NodeFacts>,
    /// The runtime came, went or changed its images.
    nudge: Arc<Notify>,
    pressures: watch::Receiver<Pressures>,
    machine: facts::Machine,
    seen: RuntimeView,
    written: Option<(Value, Instant)>,
    registered: bool,
}

impl std::fmt::Debug for Reporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reporter")
            .field("node", &self.config.node_name)
            .finish_non_exhaustive()
    }
}

/// What the runtime said last.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct RuntimeView {
    name: String,
    version: String,
    /// Why the node is not ready; empty when it is.
    troubles: Vec<String>,
    images: Vec<(Vec<String>, i64)>,
    handlers: Vec<String>,
}

impl Reporter {
    pub fn new(
        config: Arc<Config>,
        runtime: Arc<dyn Runtime>,
        client: kube::Client,
        informers: &Informers,
        facts: watch::Sender<NodeFacts>,
        nudge: Arc<Notify>,
        pressures: watch::Receiver<Pressures>,
    ) -> Self {
        let fields = format!("metadata.name={}", config.node_name);
        let node = informers.of::<Node>(Options {
            fields,
            ..Options::default()
        });
        let wake = nudge.clone();
        node.on_change(move |_| wake.notify_one());
        let machine = facts::machine(&config.cgroup_mount);
        Reporter {
            config,
            runtime,
            client,
            node,
            facts,
            nudge,
            pressures,
            machine,
            seen: RuntimeView::default(),
            written: None,
            registered: false,
        }
    }

    pub async fn run(mut self, stop: CancellationToken) {
        let mut failures = 0u32;
        // The first look at the runtime, and each after a nudge, asks it; the ones between look at the machine only.
        let mut ask = true;
        loop {
            if ask {
                self.ask().await;
            }
            self.network();
            let wait = match self.tell().await {
                Ok(()) => {
                    failures = 0;
                    if self.seen.troubles.is_empty() {
                        PRESSURE
                    } else {
                        Duration::from_millis(300)
                    }
                }
                Err(error) => {
                    tracing::debug!(error = daemon::chain(&error), "the node's status was not told");
                    failures += 1;
                    Duration::from_millis(200)
                        .saturating_mul(1 << failures.min(6))
                        .min(PRESSURE)
                }
            };
            ask = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.nudge.notified() => true,
                Ok(()) = self.pressures.changed() => false,
                () = tokio::time::sleep(wait) => !self.seen.troubles.is_empty() || self.due(),
            };
        }
    }

    fn due(&self) -> bool {
        self.written
            .as_ref()
            .is_none_or(|(_, at)| at.elapsed() >= self.config.status_period)
    }

    async fn ask(&mut self) {
        let mut seen = RuntimeView::default();
        match self.runtime.status(false).await {
            Ok(status) => {
                let conditions = status.status.unwrap_or_default().conditions;
                let bad = |kind: &str| conditions.iter().find(|c| c.r#type == kind && !c.status);
                let detail = |kind: &str, c: &crate::runtime::RuntimeCondition| {
                    format!("{kind}=false reason:{} message:{}", c.reason, c.message)
                };
                if let Some(c) = bad("RuntimeReady") {
                    seen.troubles
                        .push(format!("container runtime not ready: {}", detail("RuntimeReady", c)));
                }
                if let Some(c) = bad("NetworkReady") {
                    seen.troubles.push(format!(
                        "container runtime network not ready: {}",
                        detail("NetworkReady", c)
                    ));
                }
                seen.handlers = status.runtime_handlers.into_iter().map(|h| h.name).collect();
            }
            Err(error) => seen.troubles.push(format!("container runtime is down: {error}")),
        }
        if let Ok(version) = self.runtime.version().await {
            seen.name = version.runtime_name;
            seen.version = version.runtime_version;
        } else {
            seen.name.clone_from(&self.seen.name);
            seen.version.clone_from(&self.seen.version);
        }
        match self.runtime.images().await {
            Ok(images) => {
                seen.images = images
                    .into_iter()
                    .map(|i| {
                        (
                            i.repo_digests.into_iter().chain(i.repo_tags).collect(),
                            i64::try_from(i.size).unwrap_or(0),
                        )
                    })
                    .collect();
                seen.images
                    .sort_by(|a: &(Vec<String>, i64), b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
                seen.images.truncate(MAX_IMAGES);
            }
            Err(_) => seen.images.clone_from(&self.seen.images),
        }
        self.seen = seen;
    }

    /// Writes the default pod network once the node's range is known.
    fn network(&self) {
        let Some(dir) = &self.config.cni_dir else { return };
        let ranges = self.ranges();
        if ranges.is_empty() {
            return;
        }
        let ranges: Vec<&str> = ranges.iter().map(String::as_str).collect();
        if let Err(error) = cni::write(dir, &ranges) {
            tracing::error!(dir = %dir.display(), %error, "the pod network's configuration was not written");
        }
    }

    fn ranges(&self) -> Vec<String> {
        if let Some(fixed) = &self.config.pod_cidr {
            return vec![fixed.clone()];
        }
        let Some(node) = self.node.get("", &self.config.node_name) else {
            return Vec::new();
        };
        let Ok(node) = node.typed() else { return Vec::new() };
        let spec = node.spec.as_ref();
        let many = spec.and_then(|s| s.pod_cidrs.clone()).filter(|c| !c.is_empty());
        many.unwrap_or_else(|| spec.and_then(|s| s.pod_cidr.clone()).into_iter().collect())
    }

    async fn tell(&mut self) -> Result<(), kube::Error> {
        let addresses = facts::addresses(&self.config);
        let capacity = self.capacity();
        let allocatable = facts::allocatable(&capacity, &self.config);
        self.publish(&addresses, &allocatable);
        if !self.registered && self.config.register {
            self.register(&addresses).await?;
            self.registered = true;
        }
        let status = self.status(&addresses, &capacity, &allocatable);
        if self.written.as_ref().is_some_and(|(had, _)| *had == status) && !self.due() {
            return Ok(());
        }
        let mut body = json!({"status": status});
        self.stamp(&mut body["status"]["conditions"]);
        if let Some(list) = body["status"]["addresses"].as_array_mut() {
            list.insert(0, json!({"$patch": "replace"}));
        }
        let nodes: Api<Node> = Api::all(self.client.clone());
        match nodes
            .patch_status(
                &self.config.node_name,
                &PatchParams::default(),
                &Patch::Strategic(&body),
            )
            .await
        {
            Ok(_) => {
                self.written = Some((status, Instant::now()));
                Ok(())
            }
            // Somebody deleted the node: it is made again.
            Err(kube::Error::Api(error)) if error.code == 404 => {
                self.registered = false;
                Err(kube::Error::Api(error))
            }
            Err(error) => Err(error),
        }
    }

    fn publish(&self, addresses: &[IpAddr], allocatable: &BTreeMap<String, Quantity>) {
        let known = self.node.get("", &self.config.node_name).and_then(|n| n.typed().ok());
        let labels = known
            .and_then(|n| n.metadata.labels.clone())
            .unwrap_or_else(|| self.labels());
        self.facts.send_replace(NodeFacts {
            host_ips: addresses.iter().map(ToString::to_string).collect(),
            offer: Offer {
                allocatable: allocatable.clone(),
                labels,
                name: self.config.node_name.clone(),
                unsafe_sysctls: self.config.unsafe_sysctls.clone(),
                pressures: self.pressures.borrow().clone(),
            },
            milli_cpu: self.machine.milli_cpu,
            memory: self.machine.memory,
            runtime_name: if self.seen.name.is_empty() {
                "containerd".to_owned()
            } else {
                self.seen.name.clone()
            },
            unprivileged_oom: self.machine.unprivileged_oom,
            ready: self.seen.troubles.is_empty(),
            known: true,
        });
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.config.node_labels.clone();
        let arch = facts::architecture();
        for (key, value) in [
            (names::HOSTNAME, self.config.node_name.as_str()),
            (names::OS, "linux"),
            (names::ARCH, arch),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", arch),
        ] {
            labels.insert(key.to_owned(), value.to_owned());
        }
        labels
    }

    async fn register(&self, addresses: &[IpAddr]) -> Result<(), kube::Error> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let mut taints = self.config.taints.clone();
        // Nothing is placed here before the node says that it is ready; the node lifecycle controller takes this away then.
        taints.push(Taint {
            key: names::TAINT_NOT_READY.to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        });
        let provided = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let body = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": self.config.node_name,
                "labels": self.labels(),
                "annotations": {
                    "volumes.kubernetes.io/controller-managed-attach-detach": "true",
                    "alpha.kubernetes.io/provided-node-ip": provided,
                }
            },
            "spec": {"taints": taints},
        });
        let node: Node = serde_json::from_value(body).map_err(kube::Error::SerdeError)?;
        match nodes.create(&PostParams::default(), &node).await {
            Ok(_) => {
                tracing::info!(node = self.config.node_name, "node registered");
                Ok(())
            }
            Err(kube::Error::Api(error)) if error.code == 409 => {
                // A node that was here before keeps what others gave it; only our own labels are put right.
                let own = json!({"metadata": {"labels": self.labels()}});
                let had = self.node.get("", &self.config.node_name);
                let right = had.is_some_and(|h| self.labels().iter().all(|(k, v)| h.labels.get(k) == Some(v.as_str())));
                if !right {
                    nodes
                        .patch(&self.config.node_name, &PatchParams::default(), &Patch::Merge(&own))
                        .await?;
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn capacity(&self) -> BTreeMap<String, Quantity> {
        let disk = facts::disk(&self.config.root_dir)
            .or_else(|| facts::disk("/".as_ref()))
            .map_or(0, |d| d.0);
        BTreeMap::from([
            (
                "cpu".to_owned(),
                Quantity::new(self.machine.milli_cpu / 1000, Format::DecimalSi),
            ),
            (
                "memory".to_owned(),
                Quantity::new(self.machine.memory / 1024 * 1024, Format::BinarySi),
            ),
            (
                "ephemeral-storage".to_owned(),
                Quantity::new(disk / 1024 * 1024, Format::BinarySi),
            ),
            ("hugepages-1Gi".to_owned(), Quantity::ZERO),
            ("hugepages-2Mi".to_owned(), Quantity::ZERO),
            (
                "pods".to_owned(),
                Quantity::new(self.config.max_pods, Format::DecimalSi),
            ),
        ])
    }

    /// Without times: what is compared with what was written.
    fn status(
        &self,
        addresses: &[IpAddr],
        capacity: &BTreeMap<String, Quantity>,
        allocatable: &BTreeMap<String, Quantity>,
    ) -> Value {
        let text = |all: &BTreeMap<String, Quantity>| -> BTreeMap<String, String> {
            all.iter()
                .map(|(name, amount)| (name.clone(), amount.to_string()))
                .collect()
        };
        let mut shown: Vec<Value> = addresses
            .iter()
            .map(|ip| json!({"type": "InternalIP", "address": ip.to_string()}))
            .collect();
        shown.push(json!({"type": "Hostname", "address": self.config.node_name}));
        let mut info = self.machine.info.clone();
        info.container_runtime_version = format!("{}://{}", self.seen.name, self.seen.version);
        let images: Vec<Value> = self
            .seen
            .images
            .iter()
            .map(|(names, size)| json!({"names": names, "sizeBytes": size}))
            .collect();
        let handlers: Vec<Value> = self.seen.handlers.iter().map(|name| json!({"name": name})).collect();
        let mut status = json!({
            "addresses": shown,
            "allocatable": text(allocatable),
            "capacity": text(capacity),
            "conditions": self.conditions(),
            "images": images,
            "nodeInfo": info,
        });
        if !handlers.is_empty() {
            status["runtimeHandlers"] = handlers.into();
        }
        if let Some(server) = &self.config.server {
            status["daemonEndpoints"] = json!({"kubeletEndpoint": {"Port": server.port}});
        }
        status
    }

    fn conditions(&self) -> Value {
        let pressures = self.pressures.borrow().clone();
        let memory = pressures.contains(&Pressure::Memory);
        let disk = pressures.contains(&Pressure::Disk);
        let pids = pressures.contains(&Pressure::Pid);
        let condition = |kind: &str, status: bool, reason: &str, message: String| json!({"type": kind, "status": if status { "True" } else { "False" }, "reason": reason, "message": message});
        let pressure = |kind: &str, is: bool, yes: (&str, &str), no: (&str, &str)| {
            let (reason, message) = if is { yes } else { no };
            condition(kind, is, reason, message.to_owned())
        };
        let ready = match self.seen.troubles.as_slice() {
            [] => condition(
                "Ready",
                true,
                "KubeletReady",
                "kubelet is posting ready status".to_owned(),
            ),
            [one] => condition("Ready", false, "KubeletNotReady", one.clone()),
            many => condition("Ready", false, "KubeletNotReady", format!("[{}]", many.join(", "))),
        };
        json!([
            pressure(
                "MemoryPressure",
                memory,
                (
                    "KubeletHasInsufficientMemory",
                    "kubelet has insufficient memory available"
                ),
                ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            ),
            pressure(
                "DiskPressure",
                disk,
                ("KubeletHasDiskPressure", "kubelet has disk pressure"),
                ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ),
            pressure(
                "PIDPressure",
                pids,
                ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
                ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ),
            ready,
        ])
    }

    /// Heartbeats now, and transitions where the status differs from what the API has.
    fn stamp(&self, conditions: &mut Value) {
        let known = self.node.get("", &self.config.node_name).and_then(|n| n.typed().ok());
        let had = known
            .as_ref()
            .and_then(|n| n.status.as_ref())
            .and_then(|s| s.conditions.as_deref())
            .unwrap_or_default();
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        for condition in conditions.as_array_mut().into_iter().flatten() {
            let before = had
                .iter()
                .find(|c| condition["type"] == c.type_ && condition["status"] == c.status);
            let transition = before
                .and_then(|c| c.last_transition_time.as_ref())
                .map_or(now, |t| t.0);
            condition["lastHeartbeatTime"] = json!(now.to_string());
            condition["lastTransitionTime"] = json!(transition.to_string());
        }
    }
}
