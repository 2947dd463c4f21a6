//! The container runtime: sandboxes, containers and images, asked for and changed through CRI; wake-up hints come out.
//! Nothing here knows pods as the API sees them, decides anything or keeps state that the runtime has.
//! Invariant: what a call returns was true in the runtime after the call began; nothing is answered from memory.

pub mod client;
pub mod cri;
pub mod events;
pub mod fake;
pub mod types;

use std::{fmt::Debug, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;

pub use types::*;

/// Labels and annotations by which every Kubernetes node agent finds its sandboxes and containers again.
pub mod label {
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";

    pub const HASH: &str = "io.kubernetes.container.hash";
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    pub const PORTS: &str = "io.kubernetes.container.ports";
    pub const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
    pub const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
    pub const DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
}

/// `Absent` may be taken as success by whoever wanted the thing gone. `Unavailable` is worth another try, the rest is the runtime's answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Absent(String),
    #[error("{0}")]
    Unimplemented(String),
    #[error("the container runtime does not answer: {0}")]
    Unavailable(String),
    #[error("{0}")]
    Timeout(String),
    #[error("{message}")]
    Refused { code: i32, message: String },
}

impl Error {
    pub fn is_absent(&self) -> bool {
        matches!(self, Error::Absent(_))
    }
}

/// Something may have changed; whoever cares should look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// Everything may have: the stream of hints has just begun, or had a gap.
    All,
    /// A container or sandbox of this identifier changed; `exited` says that its process ended, which CRI may show a little later.
    Container { id: String, exited: bool },
    /// Images came or went.
    Images,
}

/// What the node agent needs of a runtime. Implementors: `cri` (containerd, CRI-O) and `fake` (in memory).
#[async_trait]
pub trait Runtime: Debug + Send + Sync + 'static {
    async fn version(&self) -> Result<Version, Error>;
    async fn status(&self, verbose: bool) -> Result<StatusResponse, Error>;
    /// `Unimplemented` where the runtime leaves the choice to us.
    async fn runtime_config(&self) -> Result<RuntimeConfigResponse, Error>;
    async fn set_pod_cidr(&self, cidr: &str) -> Result<(), Error>;

    async fn run_sandbox(&self, config: SandboxConfig, handler: &str) -> Result<String, Error>;
    async fn stop_sandbox(&self, id: &str) -> Result<(), Error>;
    async fn remove_sandbox(&self, id: &str) -> Result<(), Error>;
    async fn sandbox_status(&self, id: &str) -> Result<SandboxStatus, Error>;
    /// Those of one pod, or all.
    async fn sandboxes(&self, pod: Option<&str>) -> Result<Vec<Sandbox>, Error>;

    async fn create_container(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        sandbox_config: SandboxConfig,
    ) -> Result<String, Error>;
    async fn start_container(&self, id: &str) -> Result<(), Error>;
    /// Asks by signal and kills after the grace period; returns when the container has stopped.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error>;
    async fn remove_container(&self, id: &str) -> Result<(), Error>;
    async fn container_status(&self, id: &str) -> Result<ContainerStatus, Error>;
    async fn containers(&self, pod: Option<&str>) -> Result<Vec<Container>, Error>;
    async fn update_resources(&self, id: &str, resources: LinuxResources) -> Result<(), Error>;
    async fn reopen_log(&self, id: &str) -> Result<(), Error>;
    async fn stats(&self) -> Result<Vec<ContainerStats>, Error>;

    async fn exec_sync(&self, id: &str, command: Vec<String>, timeout: Duration) -> Result<ExecSyncResponse, Error>;
    /// The three that answer with the address of a streaming session that may be opened once.
    async fn exec(&self, request: ExecRequest) -> Result<String, Error>;
    async fn attach(&self, request: AttachRequest) -> Result<String, Error>;
    async fn port_forward(&self, sandbox: &str, ports: Vec<i32>) -> Result<String, Error>;

    /// The reference of what was pulled.
    async fn pull_image(
        &self,
        image: &str,
        auth: Option<AuthConfig>,
        sandbox: Option<SandboxConfig>,
    ) -> Result<String, Error>;
    async fn image_status(&self, image: &str) -> Result<Option<Image>, Error>;
    async fn images(&self) -> Result<Vec<Image>, Error>;
    async fn remove_image(&self, image: &str) -> Result<(), Error>;
    async fn image_fs(&self) -> Result<ImageFsInfo, Error>;

    /// Hints until the connection breaks. `Unimplemented`: the runtime has no events, look by relist.
    fn events(&self) -> BoxStream<'static, Result<Hint, Error>>;
}
