//! A runtime in memory that behaves: sandboxes have addresses, containers run until told otherwise, signals are obeyed or not.
//!
//! For tests of everything above the runtime; what it was asked for is kept in `calls`.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Mutex,
    time::Duration,
};

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use tokio::sync::broadcast;

use super::{types::*, *};

#[derive(Debug)]
pub struct Fake {
    state: Mutex<State>,
    hints: broadcast::Sender<Hint>,
}

#[derive(Debug, Default)]
struct State {
    next: u32,
    clock: i64,
    sandboxes: BTreeMap<String, (SandboxConfig, SandboxStatus)>,
    containers: BTreeMap<String, Running>,
    images: BTreeMap<String, Image>,
    behaviours: HashMap<String, Behaviour>,
    failures: HashMap<&'static str, VecDeque<Error>>,
    execs: HashMap<String, ExecSyncResponse>,
    calls: Vec<String>,
    down: bool,
}

#[derive(Debug)]
struct Running {
    sandbox: String,
    config: ContainerConfig,
    status: ContainerStatus,
}

/// What a container does once started; by the container's name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// Runs until stopped and obeys the signal.
    #[default]
    Serves,
    /// Runs until killed.
    Ignores,
    /// Ends at once.
    Exits(i32),
}

impl Default for Fake {
    fn default() -> Self {
        Fake {
            state: Mutex::default(),
            hints: broadcast::channel(256).0,
        }
    }
}

impl Fake {
    pub fn image(&self, name: &str) {
        let image = Image {
            id: format!("sha256:{name}"),
            repo_tags: vec![name.to_owned()],
            size: 1 << 20,
            ..Image::default()
        };
        self.lock().images.insert(name.to_owned(), image);
    }

    pub fn behave(&self, container: &str, behaviour: Behaviour) {
        self.lock().behaviours.insert(container.to_owned(), behaviour);
    }

    /// The next call of this name fails so.
    pub fn fail(&self, call: &'static str, error: Error) {
        self.lock().failures.entry(call).or_default().push_back(error);
    }

    pub fn answer_exec(&self, container: &str, exit_code: i32, stdout: &str) {
        let answer = ExecSyncResponse {
            stdout: stdout.as_bytes().to_vec(),
            stderr: Vec::new(),
            exit_code,
        };
        self.lock().execs.insert(container.to_owned(), answer);
    }

    /// Ends the running container of this name by itself. False when none runs.
    pub fn exit(&self, container: &str, code: i32) -> bool {
        let id = {
            let mut state = self.lock();
            let Some(id) = state.running(container) else {
                return false;
            };
            state.end(&id, code);
            id
        };
        self.tell(Hint::Container { id, exited: true });
        true
    }

    /// The runtime goes away or comes back; what runs goes on.
    pub fn down(&self, down: bool) {
        self.lock().down = down;
    }

    pub fn running_count(&self) -> usize {
        self.lock()
            .containers
            .values()
            .filter(|c| c.status.state == ContainerState::Running as i32)
            .count()
    }

    /// Everything that was asked for and changed something, oldest first, as `verb what`.
    pub fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }

    pub fn sandbox_configs(&self) -> Vec<SandboxConfig> {
        self.lock()
            .sandboxes
            .values()
            .map(|(config, _)| config.clone())
            .collect()
    }

    pub fn container_configs(&self) -> Vec<ContainerConfig> {
        self.lock().containers.values().map(|c| c.config.clone()).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while holding the fake's lock")
    }

    fn tell(&self, hint: Hint) {
        // No subscriber is no error: hints are for who listens.
        let _ = self.hints.send(hint);
    }

    fn enter(&self, call: &'static str) -> Result<std::sync::MutexGuard<'_, State>, Error> {
        let mut state = self.lock();
        if state.down {
            return Err(Error::Unavailable("the runtime is down".into()));
        }
        if let Some(error) = state.failures.get_mut(call).and_then(VecDeque::pop_front) {
            return Err(error);
        }
        Ok(state)
    }
}

impl State {
    fn id(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}{}", self.next)
    }

    /// Stamps only need an order, so they are counted, not read.
    fn now(&mut self) -> i64 {
        self.clock += 1;
        1_700_000_000_000_000_000 + self.clock * 1_000_000_000
    }

    fn running(&self, name: &str) -> Option<String> {
        let named = |c: &Running| {
            c.status.state == ContainerState::Running as i32
                && c.status.metadata.as_ref().is_some_and(|m| m.name == name)
        };
        self.containers.iter().find(|(_, c)| named(c)).map(|(id, _)| id.clone())
    }

    fn end(&mut self, id: &str, code: i32) {
        let now = self.now();
        if let Some(container) = self.containers.get_mut(id) {
            container.status.state = ContainerState::Exited as i32;
            container.status.finished_at = now;
            container.status.exit_code = code;
            container.status.reason = if code == 0 { "Completed" } else { "Error" }.to_owned();
        }
    }
}

fn absent(id: &str) -> Error {
    Error::Absent(format!("{id}: not found"))
}

fn has(labels: &Map, pod: Option<&str>) -> bool {
    pod.is_none_or(|uid| labels.get(label::POD_UID).is_some_and(|have| have == uid))
}

#[async_trait]
impl Runtime for Fake {
    async fn version(&self) -> Result<Version, Error> {
        drop(self.enter("version")?);
        Ok(Version {
            version: "0.1.0".into(),
            runtime_name: "fake".into(),
            runtime_version: "1".into(),
            runtime_api_version: "v1".into(),
        })
    }

    async fn status(&self, _verbose: bool) -> Result<StatusResponse, Error> {
        drop(self.enter("status")?);
        let condition = |kind: &str| RuntimeCondition {
            r#type: kind.into(),
            status: true,
            ..Default::default()
        };
        let conditions = vec![condition("RuntimeReady"), condition("NetworkReady")];
        Ok(StatusResponse {
            status: Some(RuntimeStatus { conditions }),
            ..Default::default()
        })
    }

    async fn runtime_config(&self) -> Result<RuntimeConfigResponse, Error> {
        drop(self.enter("runtime_config")?);
        Err(Error::Unimplemented("unknown method RuntimeConfig".into()))
    }

    async fn set_pod_cidr(&self, _cidr: &str) -> Result<(), Error> {
        self.enter("set_pod_cidr").map(drop)
    }

    async fn run_sandbox(&self, config: SandboxConfig, handler: &str) -> Result<String, Error> {
        let mut state = self.enter("run_sandbox")?;
        let (id, created_at) = (state.id("s"), state.now());
        let metadata = config.metadata.clone();
        let name = metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default();
        let status = SandboxStatus {
            id: id.clone(),
            metadata,
            state: SandboxState::Ready as i32,
            created_at,
            network: Some(NetworkStatus {
                ip: format!("10.244.0.{}", state.next),
                additional_ips: Vec::new(),
            }),
            linux: None,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            runtime_handler: handler.to_owned(),
        };
        state.calls.push(format!("run-sandbox {name}"));
        state.sandboxes.insert(id.clone(), (config, status));
        Ok(id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        let mut state = self.enter("stop_sandbox")?;
        let running: Vec<String> = state
            .containers
            .iter()
            .filter(|(_, c)| c.sandbox == id && c.status.state == ContainerState::Running as i32)
            .map(|(id, _)| id.clone())
            .collect();
        for container in running {
            state.end(&container, 137);
        }
        state.calls.push(format!("stop-sandbox {id}"));
        // Idempotent, as CRI asks: stopping what is gone succeeds.
        if let Some((_, status)) = state.sandboxes.get_mut(id) {
            status.state = SandboxState::NotReady as i32;
        }
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        let mut state = self.enter("remove_sandbox")?;
        state.sandboxes.remove(id);
        state.containers.retain(|_, c| c.sandbox != id);
        state.calls.push(format!("remove-sandbox {id}"));
        Ok(())
    }

    async fn sandbox_status(&self, id: &str) -> Result<SandboxStatus, Error> {
        let state = self.enter("sandbox_status")?;
        state
            .sandboxes
            .get(id)
            .map(|(_, status)| status.clone())
            .ok_or_else(|| absent(id))
    }

    async fn sandboxes(&self, pod: Option<&str>) -> Result<Vec<Sandbox>, Error> {
        let state = self.enter("sandboxes")?;
        let all = state.sandboxes.values().filter(|(_, s)| has(&s.labels, pod));
        Ok(all
            .map(|(_, s)| Sandbox {
                id: s.id.clone(),
                metadata: s.metadata.clone(),
                state: s.state,
                created_at: s.created_at,
                labels: s.labels.clone(),
                annotations: s.annotations.clone(),
                runtime_handler: s.runtime_handler.clone(),
            })
            .collect())
    }

    async fn create_container(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        _sandbox_config: SandboxConfig,
    ) -> Result<String, Error> {
        let mut state = self.enter("create_container")?;
        if !state.sandboxes.contains_key(sandbox) {
            return Err(absent(sandbox));
        }
        let (id, created_at) = (state.id("c"), state.now());
        let metadata = config.metadata.clone();
        let name = metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default();
        state.calls.push(format!("create {name}"));
        let status = ContainerStatus {
            id: id.clone(),
            metadata,
            state: ContainerState::Created as i32,
            created_at,
            image: config.image.clone(),
            image_ref: config.image.as_ref().map(|i| i.image.clone()).unwrap_or_default(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            ..ContainerStatus::default()
        };
        state.containers.insert(
            id.clone(),
            Running {
                sandbox: sandbox.to_owned(),
                config,
                status,
            },
        );
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<(), Error> {
        let exited = {
            let mut state = self.enter("start_container")?;
            let now = state.now();
            let container = state.containers.get_mut(id).ok_or_else(|| absent(id))?;
            container.status.state = ContainerState::Running as i32;
            container.status.started_at = now;
            let name = container
                .status
                .metadata
                .as_ref()
                .map(|m| m.name.clone())
                .unwrap_or_default();
            state.calls.push(format!("start {name}"));
            match state.behaviours.get(&name).copied().unwrap_or_default() {
                Behaviour::Exits(code) => {
                    state.end(id, code);
                    true
                }
                Behaviour::Serves | Behaviour::Ignores => false,
            }
        };
        self.tell(Hint::Container {
            id: id.to_owned(),
            exited,
        });
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let ignores = {
            let mut state = self.enter("stop_container")?;
            let container = state.containers.get(id).ok_or_else(|| absent(id))?;
            if container.status.state != ContainerState::Running as i32 {
                return Ok(());
            }
            let name = container
                .status
                .metadata
                .as_ref()
                .map(|m| m.name.clone())
                .unwrap_or_default();
            state.calls.push(format!("stop {name} {}", grace.as_secs()));
            state.behaviours.get(&name) == Some(&Behaviour::Ignores)
        };
        if ignores {
            tokio::time::sleep(grace).await;
        }
        self.lock().end(id, if ignores { 137 } else { 0 });
        self.tell(Hint::Container {
            id: id.to_owned(),
            exited: true,
        });
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let mut state = self.enter("remove_container")?;
        if let Some(gone) = state.containers.remove(id) {
            let name = gone.status.metadata.map(|m| m.name).unwrap_or_default();
            state.calls.push(format!("remove {name}"));
        }
        Ok(())
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus, Error> {
        let state = self.enter("container_status")?;
        state
            .containers
            .get(id)
            .map(|c| c.status.clone())
            .ok_or_else(|| absent(id))
    }

    async fn containers(&self, pod: Option<&str>) -> Result<Vec<Container>, Error> {
        let state = self.enter("containers")?;
        let all = state.containers.values().filter(|c| has(&c.status.labels, pod));
        Ok(all
            .map(|c| Container {
                id: c.status.id.clone(),
                pod_sandbox_id: c.sandbox.clone(),
                metadata: c.status.metadata.clone(),
                image: c.status.image.clone(),
                image_ref: c.status.image_ref.clone(),
                state: c.status.state,
                created_at: c.status.created_at,
                labels: c.status.labels.clone(),
                annotations: c.status.annotations.clone(),
                image_id: String::new(),
            })
            .collect())
    }

    async fn update_resources(&self, id: &str, resources: LinuxResources) -> Result<(), Error> {
        let mut state = self.enter("update_resources")?;
        let container = state.containers.get_mut(id).ok_or_else(|| absent(id))?;
        container.status.resources = Some(ContainerResources { linux: Some(resources) });
        Ok(())
    }

    async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        let state = self.enter("reopen_log")?;
        state.containers.get(id).map(drop).ok_or_else(|| absent(id))
    }

    async fn stats(&self) -> Result<Vec<ContainerStats>, Error> {
        drop(self.enter("stats")?);
        Ok(Vec::new())
    }

    async fn exec_sync(&self, id: &str, command: Vec<String>, _timeout: Duration) -> Result<ExecSyncResponse, Error> {
        let mut state = self.enter("exec_sync")?;
        let container = state.containers.get(id).ok_or_else(|| absent(id))?;
        let name = container
            .status
            .metadata
            .as_ref()
            .map(|m| m.name.clone())
            .unwrap_or_default();
        state.calls.push(format!("exec {name} {}", command.join(" ")));
        Ok(state.execs.get(&name).cloned().unwrap_or_default())
    }

    async fn exec(&self, _request: ExecRequest) -> Result<String, Error> {
        drop(self.enter("exec")?);
        Err(Error::Unimplemented("the fake has no streams".into()))
    }

    async fn attach(&self, _request: AttachRequest) -> Result<String, Error> {
        drop(self.enter("attach")?);
        Err(Error::Unimplemented("the fake has no streams".into()))
    }

    async fn port_forward(&self, _sandbox: &str, _ports: Vec<i32>) -> Result<String, Error> {
        drop(self.enter("port_forward")?);
        Err(Error::Unimplemented("the fake has no streams".into()))
    }

    async fn pull_image(
        &self,
        image: &str,
        _auth: Option<AuthConfig>,
        _sandbox: Option<SandboxConfig>,
    ) -> Result<String, Error> {
        self.enter("pull_image")?.calls.push(format!("pull {image}"));
        self.image(image);
        self.tell(Hint::Images);
        Ok(format!("sha256:{image}"))
    }

    async fn image_status(&self, image: &str) -> Result<Option<Image>, Error> {
        Ok(self.enter("image_status")?.images.get(image).cloned())
    }

    async fn images(&self) -> Result<Vec<Image>, Error> {
        Ok(self.enter("images")?.images.values().cloned().collect())
    }

    async fn remove_image(&self, image: &str) -> Result<(), Error> {
        self.enter("remove_image")?.images.remove(image);
        self.tell(Hint::Images);
        Ok(())
    }

    async fn image_fs(&self) -> Result<ImageFsInfo, Error> {
        drop(self.enter("image_fs")?);
        Ok(ImageFsInfo::default())
    }

    fn events(&self) -> BoxStream<'static, Result<Hint, Error>> {
        let seen = self.hints.subscribe();
        futures::stream::unfold(seen, |mut seen| async move {
            match seen.recv().await {
                Ok(hint) => Some((Ok(hint), seen)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((Ok(Hint::All), seen)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        })
        .boxed()
    }
}
