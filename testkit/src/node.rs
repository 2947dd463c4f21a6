//! A node without containers: it says of its pods what a kubelet would say.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use daemon::informer::Change;
use daemon::{Next, Queue};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Binding, Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::Cluster;
use crate::build;

/// A node that runs what is bound to it, by the name of the first container's image: `succeed` ends well, `fail` ends
/// badly, `broken` never gets ready; anything else serves.
#[derive(Debug, Clone)]
pub struct FakeNode {
    name: String,
    silent: Arc<AtomicBool>,
}

type Key = (Arc<str>, Arc<str>);

struct Kubelet {
    client: kube::Client,
    name: String,
    /// Numbers pods' addresses.
    serial: AtomicU32,
    silent: Arc<AtomicBool>,
    /// Takes pods that have no node yet.
    binds: bool,
}

impl FakeNode {
    /// Registers the node and runs it. It also binds pods that have no node yet, for tests without a scheduler.
    pub async fn start(cluster: &mut Cluster, name: &str) -> FakeNode {
        FakeNode::launch(cluster, name, true).await
    }

    /// The same for tests with a scheduler: pods come when that sends them.
    pub async fn start_scheduled(cluster: &mut Cluster, name: &str) -> FakeNode {
        FakeNode::launch(cluster, name, false).await
    }

    async fn launch(cluster: &mut Cluster, name: &str, binds: bool) -> FakeNode {
        cluster.create_global(build::node(name).node()).await;
        let silent = Arc::new(AtomicBool::new(false));
        let kubelet = Arc::new(Kubelet {
            client: cluster.client(),
            name: name.to_owned(),
            serial: AtomicU32::new(0),
            silent: silent.clone(),
            binds,
        });
        let pods = cluster.lister::<Pod>();
        let queue: Queue<Key> = Queue::new();
        let into = queue.clone();
        pods.on_change(move |change| {
            if let Change::Applied { new, .. } = change {
                into.add((new.namespace.clone(), new.name.clone()));
            }
        });
        kubelet.report().await.expect("the node reports");
        let heart = kubelet.clone();
        cluster.spawn(|stop| heart.beat(stop));
        cluster.spawn(move |stop| {
            daemon::work(queue, 4, stop, move |key| {
                let (kubelet, pods) = (kubelet.clone(), pods.clone());
                async move {
                    match pods.get(&key.0, &key.1) {
                        Some(entry) => kubelet.sync(&entry.typed().expect("a pod is readable")).await,
                        None => Ok(Next::Done),
                    }
                }
            })
        });
        FakeNode {
            name: name.to_owned(),
            silent,
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// From now on nothing is heard of the node and its pods do not change.
    pub fn fall_silent(&self) {
        self.silent.store(true, Ordering::SeqCst);
    }

    /// The end of the silence.
    pub fn wake(&self) {
        self.silent.store(false, Ordering::SeqCst);
    }
}

impl Kubelet {
    async fn report(&self) -> Result<(), kube::Error> {
        let now = daemon::clock::now();
        let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = json!({
            "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        });
        let nodes: Api<Node> = Api::all(self.client.clone());
        let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
        nodes.patch_status(&self.name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Renews the node's Lease, which is how a node says that it lives.
    async fn beat(self: Arc<Self>, stop: CancellationToken) -> Result<(), kube::Error> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        let lease = |at: String| {
            json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": self.name},
                "spec": {"holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": at},
            })
        };
        let stamp = || daemon::clock::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
        let first: Lease = serde_json::from_value(lease(stamp())).map_err(kube::Error::SerdeError)?;
        leases.create(&PostParams::default(), &first).await?;
        let mut was_silent = false;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(Duration::from_secs(10)) => {}
            }
            let silent = self.silent.load(Ordering::SeqCst);
            if !silent {
                let patch = Patch::Merge(lease(stamp()));
                leases.patch(&self.name, &PatchParams::default(), &patch).await?;
                if was_silent {
                    self.report().await?;
                }
            }
            was_silent = silent;
        }
    }

    async fn sync(&self, pod: &Pod) -> Result<Next, kube::Error> {
        if self.silent.load(Ordering::SeqCst) {
            return Ok(Next::After(Duration::from_secs(1)));
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let done = settled(match api::pod::node_name(pod) {
            None if api::pod::is_deleting(pod) || !self.binds || !self.is_meant_by(pod) => Ok(()),
            None => {
                let binding: Binding = serde_json::from_value(json!({
                    "metadata": {"name": name, "namespace": namespace},
                    "target": {"apiVersion": "v1", "kind": "Node", "name": self.name},
                }))
                .map_err(kube::Error::SerdeError)?;
                let params = PostParams::default();
                let answer = pods.create_subresource::<_, Value>("binding", name, &params, &binding);
                answer.await.map(drop)
            }
            Some(node) if node != self.name => Ok(()),
            Some(_) if api::pod::is_deleting(pod) => {
                let params = DeleteParams {
                    grace_period_seconds: Some(0),
                    preconditions: Some(kube::api::Preconditions {
                        uid: pod.metadata.uid.clone(),
                        resource_version: None,
                    }),
                    ..DeleteParams::default()
                };
                self.end(&pods, pod).await?;
                pods.delete(name, &params).await.map(drop)
            }
            Some(_) if api::pod::phase(pod) == "Pending" || api::pod::phase(pod).is_empty() => {
                let status = self.status(pod);
                let patch = Patch::Merge(json!({"status": status}));
                pods.patch_status(name, &PatchParams::default(), &patch).await.map(drop)
            }
            Some(_) => Ok(()),
        });
        done.map(|()| Next::Done)
    }

    /// Whether a pod that has no node yet may come here: the pod of a daemon is for one node.
    fn is_meant_by(&self, pod: &Pod) -> bool {
        let mut spec = pod.spec.clone().unwrap_or_default();
        // Labels are the scheduler's affair.
        spec.node_selector = None;
        api::node::is_wanted_by(&spec, &self.name, &std::collections::BTreeMap::new())
    }

    /// Says that a pod that is being deleted has ended, as a kubelet does before it lets go of it.
    async fn end(&self, pods: &Api<Pod>, pod: &Pod) -> Result<(), kube::Error> {
        if api::pod::is_terminal(pod) {
            return Ok(());
        }
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let patch = Patch::Merge(json!({
            "metadata": {"uid": pod.metadata.uid},
            "status": {"phase": "Failed", "conditions": conditions(false)},
        }));
        settled(pods.patch_status(name, &PatchParams::default(), &patch).await.map(drop))
    }

    fn status(&self, pod: &Pod) -> Value {
        let containers = pod
            .spec
            .as_ref()
            .map(|spec| spec.containers.as_slice())
            .unwrap_or_default();
        let image = containers
            .first()
            .and_then(|container| container.image.as_deref())
            .unwrap_or_default();
        let now = daemon::clock::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let number = self.serial.fetch_add(1, Ordering::SeqCst) + 1;
        let ip = format!("10.244.{}.{}", number / 250, number % 250 + 1);
        let (phase, state, ready) = match image {
            "succeed" => (
                "Succeeded",
                json!({"terminated": {"exitCode": 0, "finishedAt": now}}),
                false,
            ),
            "fail" => (
                "Failed",
                json!({"terminated": {"exitCode": 1, "finishedAt": now}}),
                false,
            ),
            "broken" => ("Running", json!({"running": {"startedAt": now}}), false),
            _ => ("Running", json!({"running": {"startedAt": now}}), true),
        };
        let statuses: Vec<_> = containers
            .iter()
            .map(|container| {
                json!({
                    "name": container.name, "image": image, "imageID": image, "ready": ready, "restartCount": 0,
                    "started": ready, "state": state,
                })
            })
            .collect();
        json!({
            "phase": phase, "podIP": ip, "podIPs": [{"ip": ip}], "startTime": now,
            "conditions": conditions(ready), "containerStatuses": statuses,
        })
    }
}

fn conditions(ready: bool) -> Value {
    let now = daemon::clock::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = |kind: &str, status: bool| {
        let status = if status { "True" } else { "False" };
        json!({"type": kind, "status": status, "lastTransitionTime": now})
    };
    json!([
        condition("PodScheduled", true),
        condition("Initialized", true),
        condition("ContainersReady", ready),
        condition("Ready", ready),
    ])
}

/// Another was faster, or the pod is gone: the next change tells.
fn settled(answer: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match answer {
        Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(()),
        answer => answer,
    }
}
