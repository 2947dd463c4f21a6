//! Performs what the plan says: sandboxes, starts and stops. Decides nothing beyond the order of calls.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::{
    core::v1::{ConfigMap, Container, LifecycleHandler, Pod, Secret},
    node::v1::RuntimeClass,
};
use kube::api::Api;
use tokio::time::Instant;

use super::{
    dns, env, hooks,
    images::Failure,
    observed::Seen,
    plan::Start,
    shared::Shared,
    statics::is_static,
    translate::{self, Mounted, Parts, Subject},
};
use crate::{
    resources::qos,
    runtime::{SandboxConfig, label},
};

/// However short the grace period: the runtime's signal needs a moment to be heard.
const MIN_GRACE: Duration = Duration::from_secs(2);

/// Why a container did not start: what its waiting state says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    pub reason: String,
    pub message: String,
    pub retry: Option<Instant>,
}

/// A step that keeps the whole pod from running; already told to its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held;

impl Stuck {
    fn new(reason: &str, message: impl Into<String>) -> Self {
        Stuck {
            reason: reason.to_owned(),
            message: message.into(),
            retry: None,
        }
    }
}

impl From<Failure> for Stuck {
    fn from(failure: Failure) -> Self {
        Stuck {
            reason: failure.reason.to_owned(),
            message: failure.message,
            retry: failure.retry,
        }
    }
}

pub fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    spec.into_iter()
        .flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers))
}

/// The definition by name. Ephemeral ones have the same fields and are read as ordinary ones.
pub fn definition(pod: &Pod, name: &str) -> Option<(Container, Option<String>)> {
    if let Some(found) = containers(pod).find(|c| c.name == name) {
        return Some((found.clone(), None));
    }
    let ephemeral = pod
        .spec
        .as_ref()?
        .ephemeral_containers
        .iter()
        .flatten()
        .find(|c| c.name == name)?;
    let target = ephemeral.target_container_name.clone().filter(|t| !t.is_empty());
    let container = serde_json::to_value(ephemeral).and_then(serde_json::from_value).ok()?;
    Some((container, target))
}

impl Shared {
    /// The world as variables and files of a pod see it, without ConfigMaps and Secrets.
    pub fn world(&self, namespace: &str, pod: &Pod, pod_ips: Vec<String>) -> env::World {
        let node = self.node.borrow();
        let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
        let mut services: Vec<_> = if links {
            self.services.in_namespace(namespace)
        } else {
            Vec::new()
        };
        // One of that name in the pod's own namespace comes after it and wins.
        let first = self.services.get("default", "kubernetes");
        services.splice(0..0, first.filter(|_| !links || namespace != "default"));
        env::World {
            // One that does not decode has no variables; the API server would not have stored it.
            services: services.into_iter().filter_map(|e| e.typed().ok()).collect(),
            pod_ips,
            host_ips: node.host_ips.clone(),
            node_name: self.config.node_name.clone(),
            milli_cpu: node.milli_cpu,
            memory: node.memory,
            ..env::World::default()
        }
    }

    pub fn sandbox_config(&self, subject: &Subject<'_>, attempt: u32) -> SandboxConfig {
        let parent = if self.config.cgroups_per_qos {
            self.cgroups.pod_parent(subject.uid, qos::qos(subject.pod))
        } else {
            String::new()
        };
        translate::sandbox(subject, attempt, parent)
    }

    pub fn make_cgroup(&self, subject: &Subject<'_>) -> Result<(), Held> {
        self.write_cgroup(subject, &qos::pod(subject.pod))
    }

    /// Makes room for what the containers have and for what they are about to get.
    pub fn grow_cgroup(&self, subject: &Subject<'_>) -> Result<(), Held> {
        let Some(allocation) = self.allocations.get(subject.uid).filter(|a| a.applied != a.granted) else {
            return Ok(());
        };
        let (has, gets) = (qos::pod(&allocation.running(subject.pod)), qos::pod(subject.pod));
        let both = |a: Option<i64>, b: Option<i64>| Some(a?.max(b?));
        let most = qos::PodResources {
            cpu_shares: has.cpu_shares.max(gets.cpu_shares),
            cpu_quota: both(has.cpu_quota, gets.cpu_quota),
            memory: both(has.memory, gets.memory),
        };
        self.write_cgroup(subject, &most)
    }

    /// Whether one of these containers is or was to have other resources.
    pub fn resizing<'a>(&self, subject: &Subject<'_>, names: impl IntoIterator<Item = &'a String>) -> bool {
        let Some(allocation) = self.allocations.get(subject.uid) else {
            return false;
        };
        names
            .into_iter()
            .any(|n| allocation.granted.get(n) != allocation.applied.get(n))
    }

    /// Gives a running container what it was granted.
    pub async fn update(&self, subject: &Subject<'_>, id: &str, name: &str) -> Result<(), String> {
        let Some((container, _)) = definition(subject.pod, name) else {
            return Err(format!("container {name} is not defined"));
        };
        let (memory, unprivileged) = {
            let node = self.node.borrow();
            (node.memory, node.unprivileged_oom)
        };
        let wanted = translate::resources(subject, &container, memory, unprivileged);
        let limit = wanted.memory_limit_in_bytes;
        let before = self
            .allocations
            .get(subject.uid)
            .and_then(|a| a.applied.get(name).cloned());
        let before = before.and_then(|r| qos::whole(r.limits?.get("memory")));
        if limit > 0 && before.is_none_or(|b| b > limit) {
            // The kernel would end the container to make it fit.
            let stats = self.runtime.stats().await.map_err(|e| e.to_string())?;
            let own = stats.iter().find(|s| s.attributes.as_ref().is_some_and(|a| a.id == id));
            let used = own.and_then(|s| s.memory.as_ref()?.working_set_bytes.as_ref());
            let used = used.map_or(0, |u| i64::try_from(u.value).unwrap_or(i64::MAX));
            if used >= limit {
                return Err(format!(
                    "attempting to set container \"{name}\" memory limit ({limit}) below current usage ({used})"
                ));
            }
        }
        self.runtime
            .update_resources(id, wanted)
            .await
            .map_err(|e| e.to_string())
    }

    fn write_cgroup(&self, subject: &Subject<'_>, resources: &qos::PodResources) -> Result<(), Held> {
        if !self.config.cgroups_per_qos {
            return Ok(());
        }
        let class = qos::qos(subject.pod);
        let made = self
            .cgroups
            .make_pod(subject.uid, class, resources, self.config.pids_limit);
        made.map_err(|error| {
            let text = format!("unable to ensure pod container exists: {}", daemon::chain(&error));
            self.event(subject.pod, None, true, "FailedCreatePodContainer", &text);
            Held
        })
    }

    pub async fn make_sandbox(&self, subject: &Subject<'_>, attempt: u32) -> Result<String, Held> {
        let failed = |text: String| {
            self.event(
                subject.pod,
                None,
                true,
                "FailedCreatePodSandBox",
                &format!("Failed to create pod sandbox: {text}"),
            );
            Held
        };
        let spec = subject.spec();
        let (hostname, _) = translate::hostname(subject);
        if hostname.len() > translate::MAX_HOSTNAME {
            return Err(failed(format!(
                "Failed to construct FQDN from pod hostname and cluster domain, FQDN {hostname} is too long ({} characters is the max, {} characters requested)",
                translate::MAX_HOSTNAME,
                hostname.len()
            )));
        }
        if spec.host_users == Some(false) {
            return Err(failed(
                "can't set `spec.hostUsers: false`, runtime does not support user namespaces".to_owned(),
            ));
        }
        let handler = self.handler(spec.runtime_class_name.as_deref()).await.map_err(failed)?;
        for (reason, text) in dns::config(subject, &dns::host(&self.config.resolv_conf)).1 {
            self.event(subject.pod, None, true, reason, &text);
        }
        let config = self.sandbox_config(subject, attempt);
        fs::create_dir_all(&config.log_directory).map_err(|e| failed(e.to_string()))?;
        self.runtime
            .run_sandbox(config, &handler)
            .await
            .map_err(|e| failed(format!("rpc error: {e}")))
    }

    /// What the runtime calls the class that the pod wants.
    async fn handler(&self, class: Option<&str>) -> Result<String, String> {
        let Some(name) = class.filter(|n| !n.is_empty()) else {
            return Ok(String::new());
        };
        let classes: Api<RuntimeClass> = Api::all(self.client.clone());
        match classes.get_opt(name).await {
            Ok(Some(class)) => Ok(class.handler),
            Ok(None) => Err(format!("RuntimeClass \"{name}\" not found")),
            Err(error) => Err(format!("failed to get RuntimeClass {name}: {}", daemon::chain(&error))),
        }
    }

    /// Pulls, creates and starts one container and runs its postStart hook.
    pub async fn start(
        &self,
        subject: &Subject<'_>,
        start: &Start,
        sandbox: (&str, u32),
        pod_ips: &[String],
        volumes: &HashMap<String, Mounted>,
        target: Option<&Seen>,
    ) -> Result<(), Stuck> {
        let pod = subject.pod;
        let (container, _) = definition(pod, &start.name)
            .ok_or_else(|| Stuck::new("CreateContainerConfigError", "the container is not defined"))?;
        let name = container.name.as_str();
        let event = |warning, reason: &str, text: &str| self.event(pod, Some(name), warning, reason, text);
        let sandbox_config = self.sandbox_config(subject, sandbox.1);
        let note = |n: super::images::Note| event(n.warning, n.reason, &n.message);
        let image = self
            .images
            .ensure(subject, &container, sandbox_config.clone(), &note)
            .await
            .map_err(|failure| {
                event(true, "Failed", &format!("Error: {}", failure.reason));
                Stuck::from(failure)
            })?;
        let config_error = |text: String| {
            event(true, "Failed", &format!("Error: {text}"));
            Stuck::new("CreateContainerConfigError", text)
        };
        // Variables of Services that are only not known yet would be missing for the container's whole life.
        // A static pod may be what the API needs to come up, and waits for nothing of it.
        if !is_static(pod) {
            self.services.synced().await;
        }
        let mut world = self.world(subject.namespace, pod, pod_ips.to_vec());
        self.fetch(subject.namespace, &container, &mut world)
            .await
            .map_err(config_error)?;
        let variables = env::build(pod, &container, &world).map_err(|e| config_error(e.to_string()))?;
        let sub_paths = self
            .sub_paths(subject, &container, &variables, volumes)
            .map_err(config_error)?;
        let hosts_file = self.hosts(subject, pod_ips).map_err(|e| config_error(e.to_string()))?;
        let termination_file = self
            .termination_file(subject, name, start.attempt)
            .map_err(|e| config_error(e.to_string()))?;
        let (memory, unprivileged) = {
            let node = self.node.borrow();
            (node.memory, node.unprivileged_oom)
        };
        let resources = translate::resources(subject, &container, memory, unprivileged);
        let parts = Parts {
            container: &container,
            attempt: start.attempt,
            image_ref: image.reference,
            image_user: image.user,
            env: variables,
            volumes,
            sub_paths,
            recursive: self.recursive(subject, &container).await,
            hosts_file: Some(hosts_file),
            termination_file: Some(termination_file),
            resources,
            target: target.map(|t| t.id.clone()),
        };
        let config = translate::container(subject, parts).map_err(|e| config_error(e.to_string()))?;
        let logs = self
            .config
            .pod_logs(subject.namespace, subject.name, subject.uid)
            .join(name);
        fs::create_dir_all(&logs).map_err(|e| config_error(e.to_string()))?;
        let id = self
            .runtime
            .create_container(sandbox.0, config, sandbox_config)
            .await
            .map_err(|error| {
                event(true, "Failed", &format!("Error: {error}"));
                Stuck::new("CreateContainerError", error.to_string())
            })?;
        event(false, "Created", "Container created");
        self.runtime.start_container(&id).await.map_err(|error| {
            event(true, "Failed", &format!("Error: {error}"));
            Stuck::new("RunContainerError", error.to_string())
        })?;
        event(false, "Started", "Container started");
        let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else {
            return Ok(());
        };
        let ip = pod_ips.first().map(String::as_str);
        if let Err(why) = hooks::run(&*self.runtime, &id, &container, hook, ip, None).await {
            tracing::info!(pod = subject.display(), container = name, why, "postStart hook failed");
            event(true, "FailedPostStartHook", "PostStartHook failed");
            event(false, "Killing", "FailedPostStartHook");
            let grace = Duration::from_secs(grace(pod, None));
            // The container may have ended meanwhile; its state tells.
            drop(self.runtime.stop_container(&id, grace.max(MIN_GRACE)).await);
            return Err(Stuck::new("PostStartHookError", "PostStartHook failed"));
        }
        Ok(())
    }

    /// Whether the runtime mounts read-only what lies below a mount, too. It is only asked where a container wants to know.
    async fn recursive(&self, subject: &Subject<'_>, container: &Container) -> bool {
        let mut mounts = container.volume_mounts.iter().flatten();
        if !mounts.any(|m| m.recursive_read_only.as_deref().is_some_and(|r| r != "Disabled")) {
            return false;
        }
        let class = subject.spec().runtime_class_name.as_deref();
        let (Ok(handler), Ok(status)) = (self.handler(class).await, self.runtime.status(false).await) else {
            return false;
        };
        let own = status.runtime_handlers.into_iter().find(|h| h.name == handler);
        own.and_then(|h| h.features)
            .is_some_and(|f| f.recursive_read_only_mounts)
    }

    fn sub_paths(
        &self,
        subject: &Subject<'_>,
        container: &Container,
        env: &[(String, String)],
        volumes: &HashMap<String, Mounted>,
    ) -> Result<HashMap<usize, PathBuf>, String> {
        let mut made = HashMap::new();
        for (position, mount) in container.volume_mounts.iter().flatten().enumerate() {
            let sub = translate::sub_path(mount, env).map_err(|e| e.to_string())?;
            let (Some(sub), Some(volume)) = (sub, volumes.get(&mount.name)) else {
                continue;
            };
            let whose = (mount.name.as_str(), container.name.as_str(), position);
            made.insert(position, self.volumes.part(subject.uid, &volume.path, whose, &sub)?);
        }
        Ok(made)
    }

    async fn fetch(&self, namespace: &str, container: &Container, world: &mut env::World) -> Result<(), String> {
        for (secret, name) in env::references(container) {
            if secret {
                let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
                if let Some(found) = api.get_opt(&name).await.map_err(|e| e.to_string())? {
                    world.secrets.insert(name, Arc::new(found));
                }
            } else {
                let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
                if let Some(found) = api.get_opt(&name).await.map_err(|e| e.to_string())? {
                    world.config_maps.insert(name, Arc::new(found));
                }
            }
        }
        Ok(())
    }

    /// The pod's /etc/hosts. Its containers may write to it, so it is made once per sandbox and then let be.
    fn hosts(&self, subject: &Subject<'_>, pod_ips: &[String]) -> io::Result<PathBuf> {
        let dir = self.config.pod_dir(subject.uid);
        let path = dir.join("etc-hosts");
        let host = match translate::host_network(subject.spec()) {
            true => Some(fs::read_to_string("/etc/hosts")?),
            false => None,
        };
        let text = translate::hosts(subject, pod_ips, host.as_deref());
        let known = fs::read_to_string(&path).unwrap_or_default();
        let addressed = pod_ips.iter().all(|ip| known.contains(&format!("{ip}\t")));
        if !path.exists() || (host.is_none() && !addressed) {
            fs::create_dir_all(&dir)?;
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        }
        Ok(path)
    }

    fn termination_file(&self, subject: &Subject<'_>, container: &str, attempt: u32) -> io::Result<PathBuf> {
        let dir = self.config.pod_dir(subject.uid).join("containers").join(container);
        fs::create_dir_all(&dir)?;
        let path = dir.join(format!("{attempt}-{:08x}", rand::random::<u32>()));
        fs::write(&path, "")?;
        // Whatever user the container runs as may write its last words.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        Ok(path)
    }

    /// Stops one container: hook first, then the runtime's signals, all within the grace period.
    pub async fn stop(&self, pod: Option<&Pod>, seen: &Seen, grace: Duration, why: &str, pod_ip: Option<&str>) {
        if let Some(pod) = pod {
            self.event(pod, Some(&seen.name), false, "Killing", why);
        }
        let end = Instant::now() + grace;
        let defined = pod.and_then(|p| definition(p, &seen.name)).map(|(c, _)| c);
        let hook = match &defined {
            Some(container) => container.lifecycle.as_ref().and_then(|l| l.pre_stop.clone()),
            // An orphan's hook was written down when it was created.
            None => seen
                .annotation(label::PRE_STOP)
                .and_then(|t| serde_json::from_str::<LifecycleHandler>(t).ok()),
        };
        if let Some(hook) = hook.filter(|_| !grace.is_zero()) {
            let container = defined.unwrap_or_else(|| Container {
                name: seen.name.clone(),
                ..Container::default()
            });
            if let Err(failure) = hooks::run(&*self.runtime, &seen.id, &container, &hook, pod_ip, Some(grace)).await {
                tracing::info!(container = seen.name, failure, "preStop hook failed");
                if let Some(pod) = pod {
                    self.event(pod, Some(&seen.name), true, "FailedPreStopHook", "PreStopHook failed");
                }
            }
        }
        let left = end.saturating_duration_since(Instant::now()).max(MIN_GRACE);
        match self.runtime.stop_container(&seen.id, left).await {
            Ok(()) => {}
            Err(error) if error.is_absent() => {}
            // The worker looks again and stops what still runs.
            Err(error) => tracing::warn!(container = seen.name, %error, "stopping a container failed"),
        }
    }

    /// A container's last words: its termination file, or the end of its log where it asked for that.
    pub fn last_words(&self, subject: &Subject<'_>, seen: &Seen) -> String {
        const MOST: usize = 4096;
        let path = seen
            .annotation(label::TERMINATION_PATH)
            .unwrap_or("/dev/termination-log");
        let host = seen
            .mounts
            .iter()
            .find(|m| m.container_path == path)
            .map(|m| m.host_path.as_str());
        let words = host
            .and_then(|p| read_tail(Path::new(p), MOST).ok())
            .unwrap_or_default();
        let failed = seen.exit().is_some_and(|e| e.code != 0);
        let fallback = seen.annotation(label::TERMINATION_POLICY) == Some("FallbackToLogsOnError");
        if words.is_empty() && fallback && failed {
            let logs = self.config.pod_logs(subject.namespace, subject.name, subject.uid);
            let log =
                read_tail(&logs.join(translate::log_path(&seen.name, seen.attempt)), 2 * MOST).unwrap_or_default();
            return end_of_log(&log);
        }
        words
    }
}

/// The last 2 KiB of the last 80 lines that the container wrote, out of the end of its log as the runtime keeps it.
fn end_of_log(log: &str) -> String {
    let mut text = String::new();
    for line in log.lines() {
        let mut fields = line.splitn(4, ' ');
        // The first line may be cut anywhere; then its fields are not the four of a whole one.
        let (Some(_), Some("stdout" | "stderr"), Some(tag), Some(said)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        text.push_str(said);
        if tag != "P" {
            text.push('\n');
        }
    }
    let lines = text.lines().count();
    let last = text
        .split_inclusive('\n')
        .skip(lines.saturating_sub(80))
        .collect::<String>();
    let cut = last.len().saturating_sub(2048);
    let cut = (cut..=last.len()).find(|&at| last.is_char_boundary(at)).unwrap_or(0);
    last[cut..].to_owned()
}

fn read_tail(path: &Path, most: usize) -> io::Result<String> {
    use io::{Read, Seek, SeekFrom};
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most as u64)))?;
    let mut bytes = Vec::new();
    file.take(most as u64).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Seconds that a pod's containers have to stop: the deletion's, a probe's, the definition's.
pub fn grace(pod: &Pod, probe: Option<i64>) -> u64 {
    let deleting = pod.metadata.deletion_grace_period_seconds;
    let defined = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    deleting
        .or(probe)
        .or(defined)
        .and_then(|s| u64::try_from(s).ok())
        .unwrap_or(30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_what_the_container_wrote() {
        let log = "2026-01-01T00:00:00Z stdout F one\nx stderr P tw\nx stderr F o\ncut off\n";
        assert_eq!(end_of_log(log), "one\ntwo\n");
        let long: String = (0..100).map(|n| format!("x stdout F {n}\n")).collect();
        assert_eq!(end_of_log(&long).lines().next(), Some("20"));
        let wide = format!("x stdout F {}\nx stdout F end\n", "ä".repeat(2000));
        assert!(end_of_log(&wide).len() <= 2048 && end_of_log(&wide).ends_with("end\n"));
    }
}
