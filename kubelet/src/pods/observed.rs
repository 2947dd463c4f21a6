//! What the runtime has of one pod, as the planner and the status want to see it.

use std::{net::IpAddr, time::Duration};

use tokio::time::Instant;

use crate::runtime::{self, ContainerState, ContainerStatus, Runtime, Sandbox, SandboxState, label};

#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Newest first.
    pub sandboxes: Vec<PodSandbox>,
    /// Newest first within a name.
    pub containers: Vec<Seen>,
}

#[derive(Debug, Clone)]
pub struct PodSandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    pub created: i64,
    /// Only of the newest, while it is ready; empty with the host's network.
    pub ips: Vec<String>,
}

/// One container of the pod, running or not.
#[derive(Debug, Clone)]
pub struct Seen {
    pub id: String,
    pub sandbox: String,
    pub name: String,
    pub attempt: u32,
    pub state: State,
    pub created: i64,
    pub started: i64,
    pub image: String,
    pub image_ref: String,
    pub image_id: String,
    pub annotations: runtime::Map,
    pub mounts: Vec<runtime::Mount>,
    pub user: Option<runtime::LinuxContainerUser>,
    pub resources: Option<runtime::LinuxResources>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Created,
    Running,
    Exited(Exit),
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub code: i32,
    pub finished: i64,
    /// `finished` on the clock that back-offs are counted on.
    pub at: Instant,
    pub reason: String,
    pub message: String,
}

impl Seen {
    pub fn running(&self) -> bool {
        self.state == State::Running
    }

    pub fn exit(&self) -> Option<&Exit> {
        match &self.state {
            State::Exited(exit) => Some(exit),
            State::Created | State::Running | State::Unknown => None,
        }
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }
}

impl Observed {
    /// The sandbox that containers are started in.
    pub fn current(&self) -> Option<&PodSandbox> {
        self.sandboxes.first().filter(|s| s.ready)
    }

    pub fn latest(&self, name: &str) -> Option<&Seen> {
        self.containers.iter().find(|c| c.name == name)
    }

    pub fn latest_in(&self, sandbox: &str, name: &str) -> Option<&Seen> {
        self.containers.iter().find(|c| c.name == name && c.sandbox == sandbox)
    }

    /// The one before the latest: what `lastState` tells of.
    pub fn previous(&self, name: &str) -> Option<&Seen> {
        self.containers.iter().filter(|c| c.name == name).nth(1)
    }

    pub fn any_running(&self) -> bool {
        self.containers.iter().any(Seen::running)
    }

    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }
}

/// Looks at everything of the pod. `wall` is now in nanoseconds since the epoch, for turning the runtime's stamps into instants.
pub async fn observe(runtime: &dyn Runtime, uid: &str, wall: i64) -> Result<Observed, runtime::Error> {
    let now = Instant::now();
    let mut sandboxes = runtime.sandboxes(Some(uid)).await?;
    sandboxes.sort_by_key(|s| std::cmp::Reverse((s.metadata.as_ref().map_or(0, |m| m.attempt), s.created_at)));
    let mut found = Observed::default();
    for (position, sandbox) in sandboxes.into_iter().enumerate() {
        let ready = sandbox.state == SandboxState::Ready as i32;
        let ips = match position {
            0 if ready => ips(runtime, &sandbox).await?,
            _ => Vec::new(),
        };
        let attempt = sandbox.metadata.as_ref().map_or(0, |m| m.attempt);
        found.sandboxes.push(PodSandbox {
            id: sandbox.id,
            attempt,
            ready,
            created: sandbox.created_at,
            ips,
        });
    }
    for container in runtime.containers(Some(uid)).await? {
        match runtime.container_status(&container.id).await {
            Ok(status) => found.containers.push(seen(container.pod_sandbox_id, status, now, wall)),
            // Removed between the two calls.
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(error),
        }
    }
    found
        .containers
        .sort_by_key(|c| std::cmp::Reverse((c.attempt, c.created)));
    Ok(found)
}

async fn ips(runtime: &dyn Runtime, sandbox: &Sandbox) -> Result<Vec<String>, runtime::Error> {
    let status = match runtime.sandbox_status(&sandbox.id).await {
        Ok(status) => status,
        Err(error) if error.is_absent() => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let Some(network) = status.network else {
        return Ok(Vec::new());
    };
    let all = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|a| a.ip));
    Ok(all.filter(|ip| ip.parse::<IpAddr>().is_ok()).collect())
}

fn seen(sandbox: String, status: ContainerStatus, now: Instant, wall: i64) -> Seen {
    let state = match ContainerState::try_from(status.state) {
        Ok(ContainerState::Created) => State::Created,
        Ok(ContainerState::Running) => State::Running,
        Ok(ContainerState::Exited) => {
            let ago = Duration::from_nanos(u64::try_from(wall - status.finished_at).unwrap_or(0));
            State::Exited(Exit {
                code: status.exit_code,
                finished: status.finished_at,
                at: now.checked_sub(ago).unwrap_or(now),
                reason: status.reason,
                message: status.message,
            })
        }
        Ok(ContainerState::Unknown) | Err(_) => State::Unknown,
    };
    let metadata = status.metadata.unwrap_or_default();
    let counted = status
        .annotations
        .get(label::RESTART_COUNT)
        .and_then(|n| n.parse().ok());
    let name = status
        .labels
        .get(label::CONTAINER_NAME)
        .cloned()
        .unwrap_or(metadata.name);
    Seen {
        id: status.id,
        sandbox,
        name,
        attempt: counted.unwrap_or(metadata.attempt),
        state,
        created: status.created_at,
        started: status.started_at,
        image: status
            .image
            .map(|i| {
                if i.user_specified_image.is_empty() {
                    i.image
                } else {
                    i.user_specified_image
                }
            })
            .unwrap_or_default(),
        image_ref: status.image_ref,
        image_id: status.image_id,
        annotations: status.annotations,
        mounts: status.mounts,
        user: status.user.and_then(|u| u.linux),
        resources: status.resources.and_then(|r| r.linux),
    }
}
