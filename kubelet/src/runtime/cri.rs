//! The `Runtime` that speaks CRI v1 to containerd or CRI-O.

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use prost::Message;

use super::{client::Client, types::*, *};

/// Upstream's runtimeRequestTimeout.
const TIMEOUT: Option<Duration> = Some(Duration::from_secs(120));

#[derive(Clone, Debug)]
pub struct Cri {
    client: Client,
    images: Client,
}

impl Cri {
    /// `socket` with or without `unix://`; `images` where another process serves them.
    pub fn new(socket: &str, images: Option<&str>) -> Self {
        let client = Client::new(path(socket));
        let images = images.map_or_else(|| client.clone(), |socket| Client::new(path(socket)));
        Cri { client, images }
    }

    async fn quiet<Q: Message>(&self, path: &'static str, request: Q) -> Result<(), Error> {
        self.client.unary::<Empty>(path, request, TIMEOUT).await.map(drop)
    }
}

fn path(socket: &str) -> &str {
    socket.strip_prefix("unix://").unwrap_or(socket)
}

fn id(id: &str) -> Id {
    Id { id: id.to_owned() }
}

fn image(name: &str) -> Option<ImageSpec> {
    Some(ImageSpec {
        image: name.to_owned(),
        ..ImageSpec::default()
    })
}

fn of_pod(uid: &str) -> Map {
    Map::from([(label::POD_UID.to_owned(), uid.to_owned())])
}

fn missing(what: &str) -> Error {
    Error::Refused {
        code: 13,
        message: format!("the runtime answered without {what}"),
    }
}

#[async_trait]
impl Runtime for Cri {
    async fn version(&self) -> Result<Version, Error> {
        let request = VersionRequest {
            version: "0.1.0".into(),
        };
        self.client
            .unary("/runtime.v1.RuntimeService/Version", request, TIMEOUT)
            .await
    }

    async fn status(&self, verbose: bool) -> Result<StatusResponse, Error> {
        self.client
            .unary("/runtime.v1.RuntimeService/Status", StatusRequest { verbose }, TIMEOUT)
            .await
    }

    async fn runtime_config(&self) -> Result<RuntimeConfigResponse, Error> {
        self.client
            .unary("/runtime.v1.RuntimeService/RuntimeConfig", Empty {}, TIMEOUT)
            .await
    }

    async fn set_pod_cidr(&self, cidr: &str) -> Result<(), Error> {
        let network_config = Some(NetworkConfig {
            pod_cidr: cidr.to_owned(),
        });
        let request = UpdateRuntimeConfigRequest {
            runtime_config: Some(RuntimeConfig { network_config }),
        };
        self.quiet("/runtime.v1.RuntimeService/UpdateRuntimeConfig", request)
            .await
    }

    async fn run_sandbox(&self, config: SandboxConfig, handler: &str) -> Result<String, Error> {
        let request = RunSandboxRequest {
            config: Some(config),
            runtime_handler: handler.to_owned(),
        };
        // Twice the usual time, as upstream: the network plug-in may take long.
        let limit = TIMEOUT.map(|t| t * 2);
        let answer: Id = self
            .client
            .unary("/runtime.v1.RuntimeService/RunPodSandbox", request, limit)
            .await?;
        Ok(answer.id)
    }

    async fn stop_sandbox(&self, sandbox: &str) -> Result<(), Error> {
        self.quiet("/runtime.v1.RuntimeService/StopPodSandbox", id(sandbox))
            .await
    }

    async fn remove_sandbox(&self, sandbox: &str) -> Result<(), Error> {
        self.quiet("/runtime.v1.RuntimeService/RemovePodSandbox", id(sandbox))
            .await
    }

    async fn sandbox_status(&self, sandbox: &str) -> Result<SandboxStatus, Error> {
        let request = StatusOfRequest {
            id: sandbox.to_owned(),
            verbose: false,
        };
        let answer: SandboxStatusResponse = self
            .client
            .unary("/runtime.v1.RuntimeService/PodSandboxStatus", request, TIMEOUT)
            .await?;
        answer.status.ok_or_else(|| missing("the sandbox's status"))
    }

    async fn sandboxes(&self, pod: Option<&str>) -> Result<Vec<Sandbox>, Error> {
        let filter = pod.map(|uid| SandboxFilter {
            label_selector: of_pod(uid),
            ..SandboxFilter::default()
        });
        let answer: ListSandboxResponse = self
            .client
            .unary(
                "/runtime.v1.RuntimeService/ListPodSandbox",
                ListSandboxRequest { filter },
                TIMEOUT,
            )
            .await?;
        Ok(answer.items)
    }

    async fn create_container(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        sandbox_config: SandboxConfig,
    ) -> Result<String, Error> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let answer: Id = self
            .client
            .unary("/runtime.v1.RuntimeService/CreateContainer", request, TIMEOUT)
            .await?;
        Ok(answer.id)
    }

    async fn start_container(&self, container: &str) -> Result<(), Error> {
        self.quiet("/runtime.v1.RuntimeService/StartContainer", id(container))
            .await
    }

    async fn stop_container(&self, container: &str, grace: Duration) -> Result<(), Error> {
        let request = StopContainerRequest {
            container_id: container.to_owned(),
            timeout: grace.as_secs() as i64,
        };
        let limit = TIMEOUT.map(|t| t + grace);
        let answer: Result<Empty, Error> = self
            .client
            .unary("/runtime.v1.RuntimeService/StopContainer", request, limit)
            .await;
        answer.map(drop)
    }

    async fn remove_container(&self, container: &str) -> Result<(), Error> {
        self.quiet("/runtime.v1.RuntimeService/RemoveContainer", id(container))
            .await
    }

    async fn container_status(&self, container: &str) -> Result<ContainerStatus, Error> {
        let request = StatusOfRequest {
            id: container.to_owned(),
            verbose: false,
        };
        let answer: ContainerStatusResponse = self
            .client
            .unary("/runtime.v1.RuntimeService/ContainerStatus", request, TIMEOUT)
            .await?;
        answer.status.ok_or_else(|| missing("the container's status"))
    }

    async fn containers(&self, pod: Option<&str>) -> Result<Vec<Container>, Error> {
        let filter = pod.map(|uid| ContainerFilter {
            label_selector: of_pod(uid),
            ..ContainerFilter::default()
        });
        let answer: ListContainersResponse = self
            .client
            .unary(
                "/runtime.v1.RuntimeService/ListContainers",
                ListContainersRequest { filter },
                TIMEOUT,
            )
            .await?;
        Ok(answer.containers)
    }

    async fn update_resources(&self, container: &str, resources: LinuxResources) -> Result<(), Error> {
        let request = UpdateResourcesRequest {
            container_id: container.to_owned(),
            linux: Some(resources),
        };
        self.quiet("/runtime.v1.RuntimeService/UpdateContainerResources", request)
            .await
    }

    async fn reopen_log(&self, container: &str) -> Result<(), Error> {
        self.quiet("/runtime.v1.RuntimeService/ReopenContainerLog", id(container))
            .await
    }

    async fn stats(&self) -> Result<Vec<ContainerStats>, Error> {
        let answer: ListContainerStatsResponse = self
            .client
            .unary("/runtime.v1.RuntimeService/ListContainerStats", Empty {}, TIMEOUT)
            .await?;
        Ok(answer.stats)
    }

    async fn exec_sync(&self, container: &str, cmd: Vec<String>, timeout: Duration) -> Result<ExecSyncResponse, Error> {
        let seconds = timeout.as_secs() as i64;
        let request = ExecSyncRequest {
            container_id: container.to_owned(),
            cmd,
            timeout: seconds,
        };
        let limit = (!timeout.is_zero()).then(|| timeout + Duration::from_secs(120));
        self.client
            .unary("/runtime.v1.RuntimeService/ExecSync", request, limit)
            .await
    }

    async fn exec(&self, request: ExecRequest) -> Result<String, Error> {
        let answer: Id = self
            .client
            .unary("/runtime.v1.RuntimeService/Exec", request, TIMEOUT)
            .await?;
        Ok(answer.id)
    }

    async fn attach(&self, request: AttachRequest) -> Result<String, Error> {
        let answer: Id = self
            .client
            .unary("/runtime.v1.RuntimeService/Attach", request, TIMEOUT)
            .await?;
        Ok(answer.id)
    }

    async fn port_forward(&self, sandbox: &str, port: Vec<i32>) -> Result<String, Error> {
        let request = PortForwardRequest {
            pod_sandbox_id: sandbox.to_owned(),
            port,
        };
        let answer: Id = self
            .client
            .unary("/runtime.v1.RuntimeService/PortForward", request, TIMEOUT)
            .await?;
        Ok(answer.id)
    }

    async fn pull_image(
        &self,
        name: &str,
        auth: Option<AuthConfig>,
        sandbox_config: Option<SandboxConfig>,
    ) -> Result<String, Error> {
        let request = PullImageRequest {
            image: image(name),
            auth,
            sandbox_config,
        };
        let answer: Id = self
            .images
            .unary("/runtime.v1.ImageService/PullImage", request, None)
            .await?;
        Ok(answer.id)
    }

    async fn image_status(&self, name: &str) -> Result<Option<Image>, Error> {
        let request = ImageStatusRequest {
            image: image(name),
            verbose: false,
        };
        let answer: ImageStatusResponse = self
            .images
            .unary("/runtime.v1.ImageService/ImageStatus", request, TIMEOUT)
            .await?;
        Ok(answer.image)
    }

    async fn images(&self) -> Result<Vec<Image>, Error> {
        let request = ListImagesRequest { filter: None };
        let answer: ListImagesResponse = self
            .images
            .unary("/runtime.v1.ImageService/ListImages", request, TIMEOUT)
            .await?;
        Ok(answer.images)
    }

    async fn remove_image(&self, name: &str) -> Result<(), Error> {
        let request = RemoveImageRequest { image: image(name) };
        let answer: Result<Empty, Error> = self
            .images
            .unary("/runtime.v1.ImageService/RemoveImage", request, TIMEOUT)
            .await;
        answer.map(drop)
    }

    async fn image_fs(&self) -> Result<ImageFsInfo, Error> {
        self.images
            .unary("/runtime.v1.ImageService/ImageFsInfo", Empty {}, TIMEOUT)
            .await
    }

    fn events(&self) -> BoxStream<'static, Result<Hint, Error>> {
        let own = self.client.clone();
        // 2 stopped, 3 deleted; what is created or started was created and started by us.
        let told = |e: &ContainerEvent| e.container_event_type >= 2;
        let cri = self
            .client
            .stream::<ContainerEvent>("/runtime.v1.RuntimeService/GetContainerEvents", Empty {})
            .filter(move |event| std::future::ready(event.as_ref().map_or(true, told)))
            .map(|event| {
                event.map(|e| Hint::Container {
                    id: e.container_id,
                    exited: e.container_event_type == 2,
                })
            });
        futures::stream::unfold((cri.boxed(), Some(own)), |(mut stream, mut other)| async move {
            loop {
                match (stream.next().await, other.take()) {
                    // containerd before 1.7 has the method in its definition only; its own event service says the same.
                    (Some(Err(Error::Unimplemented(_))), Some(client)) => stream = containerd(&client),
                    (item, other) => return item.map(|item| (item, (stream, other))),
                }
            }
        })
        .boxed()
    }
}

fn containerd(client: &Client) -> BoxStream<'static, Result<Hint, Error>> {
    let topics = ["/tasks/exit", "/images/create", "/images/update", "/images/delete"];
    let filters = topics
        .map(|topic| format!("namespace==k8s.io,topic==\"{topic}\""))
        .to_vec();
    client
        .stream::<Envelope>(
            "/containerd.services.events.v1.Events/Subscribe",
            SubscribeRequest { filters },
        )
        .filter_map(|event| std::future::ready(event.map(|e| hint(&e)).transpose()))
        .boxed()
}

/// It names the container in field 1 and the process in field 2; an exec'd process that ends is not the container's end.
#[derive(Clone, PartialEq, Message)]
struct TaskExit {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(string, tag = "2")]
    id: String,
}

fn hint(event: &Envelope) -> Option<Hint> {
    let body = event.event.as_ref()?.value.as_slice();
    match event.topic.as_str() {
        "/tasks/exit" => {
            let exit = TaskExit::decode(body).ok()?;
            (exit.id == exit.container_id).then_some(Hint::Container {
                id: exit.container_id,
                exited: true,
            })
        }
        _ => Some(Hint::Images),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(container: &str, process: &str) -> Envelope {
        let value = TaskExit {
            container_id: container.into(),
            id: process.into(),
        }
        .encode_to_vec();
        let event = Some(Any {
            type_url: "containerd.events.TaskExit".into(),
            value,
        });
        Envelope {
            namespace: "k8s.io".into(),
            topic: "/tasks/exit".into(),
            event,
        }
    }

    #[test]
    fn the_end_of_a_containers_first_process_is_a_hint() {
        assert_eq!(
            hint(&exit("c", "c")),
            Some(Hint::Container {
                id: "c".into(),
                exited: true
            })
        );
    }

    #[test]
    fn the_end_of_an_execd_process_is_not() {
        assert_eq!(hint(&exit("c", "probe-1")), None);
    }

    #[test]
    fn a_socket_is_a_path_with_or_without_its_scheme() {
        assert_eq!(path("unix:///run/x.sock"), "/run/x.sock");
        assert_eq!(path("/run/x.sock"), "/run/x.sock");
    }
}
