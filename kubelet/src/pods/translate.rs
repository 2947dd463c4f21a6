//! From a pod's definition to the configurations that the runtime is given. Pure but for the node's resolv.conf.

use std::{collections::HashMap, path::PathBuf};

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, Pod, PodSpec, SELinuxOptions, SeccompProfile, VolumeMount,
};

use super::{dns, env, plan};
use crate::{config::Config, resources::qos, runtime::*};

/// Texts are what `CreateContainerConfigError` shows.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("container has runAsNonRoot and image will run as root (pod: \"{0}\", container: {1})")]
    Root(String, String),
    #[error("container's runAsUser breaks non-root policy (pod: \"{0}\", container: {1})")]
    RunAsRoot(String, String),
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({0}), cannot verify user is non-root (pod: \"{1}\", container: {2})"
    )]
    Named(String, String, String),
    #[error("cannot find volume \"{0}\" to mount into container \"{1}\"")]
    Volume(String, String),
    #[error("{0}")]
    SubPath(String),
    #[error("volume mount \"{0}\" is recursively read-only, which the container runtime does not support")]
    Recursive(String),
}

/// Who a container is, shared by all that is made for one start of it.
#[derive(Debug)]
pub struct Subject<'a> {
    pub config: &'a Config,
    pub pod: &'a Pod,
    pub uid: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
}

impl<'a> Subject<'a> {
    pub fn new(config: &'a Config, pod: &'a Pod) -> Self {
        let meta = &pod.metadata;
        Subject {
            config,
            pod,
            uid: meta.uid.as_deref().unwrap_or_default(),
            namespace: meta.namespace.as_deref().unwrap_or("default"),
            name: meta.name.as_deref().unwrap_or_default(),
        }
    }

    pub fn spec(&self) -> &'a PodSpec {
        self.pod.spec.as_ref().expect("a pod from the API has a spec")
    }

    /// `name_namespace(uid)`, as messages name pods.
    pub fn display(&self) -> String {
        format!("{}_{}({})", self.name, self.namespace, self.uid)
    }

    fn labels(&self) -> Map {
        let mut labels: Map = self
            .pod
            .metadata
            .labels
            .iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        labels.extend(self.identity());
        labels
    }

    fn identity(&self) -> [(String, String); 3] {
        [
            (label::POD_NAME.to_owned(), self.name.to_owned()),
            (label::POD_NAMESPACE.to_owned(), self.namespace.to_owned()),
            (label::POD_UID.to_owned(), self.uid.to_owned()),
        ]
    }
}

pub fn host_network(spec: &PodSpec) -> bool {
    spec.host_network == Some(true)
}

/// The name that processes in the pod see as their host's.
pub fn hostname(subject: &Subject<'_>) -> (String, Option<String>) {
    let spec = subject.spec();
    if let Some(fixed) = spec.hostname_override.as_deref().filter(|h| !h.is_empty()) {
        return (fixed.to_owned(), None);
    }
    let own = spec
        .hostname
        .as_deref()
        .filter(|h| !h.is_empty())
        .unwrap_or(subject.name);
    let own: String = own
        .chars()
        .take(63)
        .collect::<String>()
        .trim_end_matches(['-', '.'])
        .to_owned();
    let domain = spec
        .subdomain
        .as_deref()
        .filter(|d| !d.is_empty())
        .map(|sub| format!("{sub}.{}.svc.{}", subject.namespace, subject.config.cluster_domain));
    match (&domain, spec.set_hostname_as_fqdn) {
        (Some(suffix), Some(true)) => (format!("{own}.{suffix}"), domain),
        _ => (own, domain),
    }
}

/// The kernel takes no longer name of a host.
pub const MAX_HOSTNAME: usize = 64;

pub fn sandbox(subject: &Subject<'_>, attempt: u32, cgroup_parent: String) -> SandboxConfig {
    let spec = subject.spec();
    let mut annotations: Map = subject
        .pod
        .metadata
        .annotations
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    // Upstream marks where a pod came from; tools read it.
    annotations
        .entry("kubernetes.io/config.source".into())
        .or_insert_with(|| "api".into());
    let host = host_network(spec);
    SandboxConfig {
        metadata: Some(SandboxMetadata {
            name: subject.name.to_owned(),
            uid: subject.uid.to_owned(),
            namespace: subject.namespace.to_owned(),
            attempt,
        }),
        hostname: if host { String::new() } else { hostname(subject).0 },
        log_directory: subject
            .config
            .pod_logs(subject.namespace, subject.name, subject.uid)
            .display()
            .to_string(),
        dns_config: Some(dns::config(subject, &dns::host(&subject.config.resolv_conf)).0),
        port_mappings: if host { Vec::new() } else { port_mappings(spec) },
        labels: subject.labels(),
        annotations,
        linux: Some(LinuxSandboxConfig {
            cgroup_parent,
            security_context: Some(sandbox_security(spec)),
            sysctls: sysctls(spec),
            overhead: spec.overhead.as_ref().map(qos::overhead),
            resources: None,
        }),
    }
}

fn sysctls(spec: &PodSpec) -> Map {
    let all = spec
        .security_context
        .iter()
        .filter_map(|s| s.sysctls.as_ref())
        .flatten();
    all.map(|s| (s.name.replace('/', "."), s.value.clone())).collect()
}

fn port_mappings(spec: &PodSpec) -> Vec<PortMapping> {
    let ports = spec
        .containers
        .iter()
        .chain(plan::inits(spec))
        .filter_map(|c| c.ports.as_ref())
        .flatten();
    ports
        .filter(|p| p.host_port.is_some_and(|h| h > 0))
        .map(|p| PortMapping {
            protocol: match p.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            } as i32,
            container_port: p.container_port,
            host_port: p.host_port.unwrap_or_default(),
            host_ip: p.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

fn namespaces(spec: &PodSpec) -> NamespaceOption {
    let node = |yes: Option<bool>, other: NamespaceMode| if yes == Some(true) { NamespaceMode::Node } else { other };
    let private = if spec.share_process_namespace == Some(true) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    NamespaceOption {
        network: node(spec.host_network, NamespaceMode::Pod) as i32,
        pid: node(spec.host_pid, private) as i32,
        ipc: node(spec.host_ipc, NamespaceMode::Pod) as i32,
        target_id: String::new(),
    }
}

fn sandbox_security(spec: &PodSpec) -> SandboxSecurityContext {
    let pod = spec.security_context.as_ref();
    let privileged = |c: &Container| c.security_context.as_ref().and_then(|s| s.privileged) == Some(true);
    SandboxSecurityContext {
        namespace_options: Some(namespaces(spec)),
        selinux_options: pod.and_then(|p| p.se_linux_options.as_ref()).map(selinux),
        run_as_user: pod.and_then(|p| p.run_as_user).map(|value| Int64Value { value }),
        run_as_group: pod
            .filter(|p| p.run_as_user.is_some())
            .and_then(|p| p.run_as_group)
            .map(|value| Int64Value { value }),
        readonly_rootfs: false,
        supplemental_groups: supplemental_groups(spec),
        supplemental_groups_policy: groups_policy(spec),
        privileged: spec.containers.iter().chain(plan::inits(spec)).any(privileged),
        seccomp: Some(SecurityProfile {
            profile_type: ProfileType::RuntimeDefault as i32,
            localhost_ref: String::new(),
        }),
        apparmor: None,
    }
}

fn supplemental_groups(spec: &PodSpec) -> Vec<i64> {
    let Some(pod) = &spec.security_context else {
        return Vec::new();
    };
    pod.fs_group
        .into_iter()
        .chain(pod.supplemental_groups.iter().flatten().copied())
        .collect()
}

fn groups_policy(spec: &PodSpec) -> i32 {
    let policy = spec
        .security_context
        .as_ref()
        .and_then(|p| p.supplemental_groups_policy.as_deref());
    i32::from(policy == Some("Strict"))
}

fn selinux(options: &SELinuxOptions) -> SeLinuxOption {
    SeLinuxOption {
        user: options.user.clone().unwrap_or_default(),
        role: options.role.clone().unwrap_or_default(),
        r#type: options.type_.clone().unwrap_or_default(),
        level: options.level.clone().unwrap_or_default(),
    }
}

fn seccomp(config: &Config, profile: Option<&SeccompProfile>) -> SecurityProfile {
    let of = |kind: ProfileType, path: String| SecurityProfile {
        profile_type: kind as i32,
        localhost_ref: path,
    };
    match profile.map(|p| (p.type_.as_str(), p.localhost_profile.as_deref())) {
        Some(("RuntimeDefault", _)) => of(ProfileType::RuntimeDefault, String::new()),
        Some(("Localhost", Some(path))) => of(
            ProfileType::Localhost,
            config.root_dir.join("seccomp").join(path).display().to_string(),
        ),
        _ => of(ProfileType::Unconfined, String::new()),
    }
}

fn apparmor(profile: &AppArmorProfile) -> SecurityProfile {
    let (kind, name) = match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Localhost", Some(name)) => (ProfileType::Localhost, name.clone()),
        ("Unconfined", _) => (ProfileType::Unconfined, String::new()),
        _ => (ProfileType::RuntimeDefault, String::new()),
    };
    SecurityProfile {
        profile_type: kind as i32,
        localhost_ref: name,
    }
}

// ---- names and addresses

/// The text of the pod's own /etc/hosts; `host` is the node's for pods on its network.
pub fn hosts(subject: &Subject<'_>, ips: &[String], host: Option<&str>) -> String {
    let mut text = match host {
        Some(text) => format!("# Kubernetes-managed hosts file (host network).\n{text}"),
        None => {
            let mut text = String::from(
                "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                 fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
            );
            let (name, domain) = hostname(subject);
            for ip in ips {
                let short = name.split('.').next().unwrap_or(&name);
                match &domain {
                    Some(domain) => text.push_str(&format!("{ip}\t{short}.{domain}\t{short}\n")),
                    None => text.push_str(&format!("{ip}\t{name}\n")),
                }
            }
            text
        }
    };
    let aliases = subject.spec().host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            text.push_str(&format!(
                "{}\t{}\n",
                alias.ip,
                alias.hostnames.as_deref().unwrap_or_default().join("\t")
            ));
        }
    }
    text
}

// ---- containers

/// Where a volume lies on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    pub path: PathBuf,
    pub read_only: bool,
}

/// What one start of a container is made of, besides the pod itself.
#[derive(Debug)]
pub struct Parts<'a> {
    pub container: &'a Container,
    pub attempt: u32,
    pub image_ref: String,
    pub image_user: ImageUser,
    pub env: Vec<(String, String)>,
    pub volumes: &'a HashMap<String, Mounted>,
    /// By position among the container's mounts: what of the volume is shown instead of all.
    pub sub_paths: HashMap<usize, PathBuf>,
    /// The runtime can mount read-only what is mounted below, too.
    pub recursive: bool,
    pub hosts_file: Option<PathBuf>,
    pub termination_file: Option<PathBuf>,
    pub resources: LinuxResources,
    /// Ephemeral containers may join another container's processes.
    pub target: Option<String>,
}

/// The user that the image names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageUser {
    pub uid: Option<i64>,
    pub name: String,
}

pub fn log_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

pub fn container(subject: &Subject<'_>, parts: Parts<'_>) -> Result<ContainerConfig, Error> {
    let Parts {
        container,
        attempt,
        image_ref,
        image_user,
        env,
        volumes,
        sub_paths,
        recursive,
        hosts_file,
        termination_file,
        resources,
        target,
    } = parts;
    let lookup: HashMap<&str, &str> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let expand = |text: &String| env::expand(text, |name| lookup.get(name).map(|v| (*v).to_owned()));
    let mut mounts = Vec::new();
    for (position, mount) in container.volume_mounts.iter().flatten().enumerate() {
        mounts.push(volume_mount(
            container,
            mount,
            volumes,
            sub_paths.get(&position),
            recursive,
        )?);
    }
    let covered = |path: &str| container.volume_mounts.iter().flatten().any(|m| m.mount_path == path);
    let file = |host: PathBuf, path: &str| Mount {
        container_path: path.to_owned(),
        host_path: host.display().to_string(),
        ..Mount::default()
    };
    if let Some(hosts) = hosts_file.filter(|_| !covered("/etc/hosts")) {
        mounts.push(file(hosts, "/etc/hosts"));
    }
    let termination_path = container
        .termination_message_path
        .as_deref()
        .unwrap_or("/dev/termination-log");
    if let Some(host) = termination_file.filter(|_| !termination_path.is_empty()) {
        mounts.push(file(host, termination_path));
    }
    let mut labels = Map::from(subject.identity());
    labels.insert(label::CONTAINER_NAME.to_owned(), container.name.clone());
    let security = security(subject, container, &image_user, target)?;
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: container.name.clone(),
            attempt,
        }),
        image: Some(ImageSpec {
            image: image_ref,
            user_specified_image: container.image.clone().unwrap_or_default(),
            runtime_handler: String::new(),
            annotations: Map::new(),
        }),
        command: container.command.iter().flatten().map(expand).collect(),
        args: container.args.iter().flatten().map(expand).collect(),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        labels,
        annotations: annotations(subject, container, attempt, termination_path),
        mounts,
        devices: Vec::new(),
        log_path: log_path(&container.name, attempt),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources),
            security_context: Some(security),
        }),
        stop_signal: container
            .lifecycle
            .as_ref()
            .and_then(|l| l.stop_signal.as_deref())
            .map_or(0, stop_signal),
        envs: {
            drop(lookup);
            env.into_iter().map(|(key, value)| KeyValue { key, value }).collect()
        },
    })
}

/// CRI counts signals in the order in which the API lists them; 0 leaves it to the image.
fn stop_signal(name: &str) -> i32 {
    SIGNALS
        .iter()
        .position(|s| *s == name)
        .and_then(|at| i32::try_from(at + 1).ok())
        .unwrap_or(0)
}

fn annotations(subject: &Subject<'_>, container: &Container, attempt: u32, termination_path: &str) -> Map {
    let spec = subject.spec();
    let mut all = Map::from([
        (label::HASH.to_owned(), plan::hash(container)),
        (label::RESTART_COUNT.to_owned(), attempt.to_string()),
        (label::TERMINATION_PATH.to_owned(), termination_path.to_owned()),
        (
            label::TERMINATION_POLICY.to_owned(),
            container
                .termination_message_policy
                .clone()
                .unwrap_or_else(|| "File".to_owned()),
        ),
    ]);
    if let Some(grace) = spec.termination_grace_period_seconds {
        all.insert(label::GRACE.to_owned(), grace.to_string());
    }
    if let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) {
        // A typed hook is plain data, which always has a JSON form.
        all.insert(
            label::PRE_STOP.to_owned(),
            serde_json::to_string(hook).expect("plain data has a JSON form"),
        );
    }
    if let Some(ports) = container.ports.as_ref().filter(|p| !p.is_empty()) {
        all.insert(
            label::PORTS.to_owned(),
            serde_json::to_string(ports).expect("plain data has a JSON form"),
        );
    }
    all
}

fn volume_mount(
    container: &Container,
    mount: &VolumeMount,
    volumes: &HashMap<String, Mounted>,
    below: Option<&PathBuf>,
    recursive: bool,
) -> Result<Mount, Error> {
    let volume = volumes
        .get(&mount.name)
        .ok_or_else(|| Error::Volume(mount.name.clone(), container.name.clone()))?;
    let host = below.unwrap_or(&volume.path);
    let path = if mount.mount_path.starts_with('/') {
        mount.mount_path.clone()
    } else {
        format!("/{}", mount.mount_path)
    };
    let readonly = mount.read_only == Some(true) || volume.read_only;
    Ok(Mount {
        container_path: path,
        host_path: host.display().to_string(),
        readonly,
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => MountPropagation::HostToContainer,
            Some("Bidirectional") => MountPropagation::Bidirectional,
            _ => MountPropagation::Private,
        } as i32,
        recursive_read_only: match mount.recursive_read_only.as_deref() {
            Some("Enabled") if !recursive => return Err(Error::Recursive(mount.name.clone())),
            Some("Enabled" | "IfPossible") => recursive && mount.read_only == Some(true),
            _ => false,
        },
        selinux_relabel: false,
    })
}

/// What of the volume a mount wants to see; none: all of it.
pub fn sub_path(mount: &VolumeMount, env: &[(String, String)]) -> Result<Option<String>, Error> {
    let sub = match (mount.sub_path.as_deref(), mount.sub_path_expr.as_deref()) {
        (Some(path), _) if !path.is_empty() => path.to_owned(),
        (_, Some(expression)) if !expression.is_empty() => {
            let missing = std::cell::RefCell::new(std::collections::BTreeSet::new());
            // A variable that is there and empty would mount the whole volume, or another pod's place in it.
            let value = |name: &str| {
                let found = env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
                let found = found.filter(|value| !value.is_empty());
                if found.is_none() {
                    missing.borrow_mut().insert(name.to_owned());
                }
                found
            };
            let path = env::expand(expression, value);
            let missing: Vec<String> = missing.into_inner().into_iter().collect();
            if !missing.is_empty() {
                return Err(Error::SubPath(format!("missing value for {}", missing.join(", "))));
            }
            path
        }
        _ => return Ok(None),
    };
    if sub.starts_with('/') {
        return Err(Error::SubPath(format!(
            "error SubPath `{sub}` must not be an absolute path"
        )));
    }
    if sub.split('/').any(|part| part == "..") {
        return Err(Error::SubPath(format!(
            "unable to provision SubPath `{sub}`: must not contain '..'"
        )));
    }
    Ok(Some(sub))
}

fn security(
    subject: &Subject<'_>,
    container: &Container,
    image: &ImageUser,
    target: Option<String>,
) -> Result<ContainerSecurityContext, Error> {
    let spec = subject.spec();
    let (pod, own) = (spec.security_context.as_ref(), container.security_context.as_ref());
    let user = own.and_then(|s| s.run_as_user).or(pod.and_then(|p| p.run_as_user));
    let group = own.and_then(|s| s.run_as_group).or(pod.and_then(|p| p.run_as_group));
    let non_root = own
        .and_then(|s| s.run_as_non_root)
        .or(pod.and_then(|p| p.run_as_non_root))
        == Some(true);
    if non_root {
        let whose = (subject.display(), container.name.clone());
        match (user, image.uid) {
            (Some(0), _) => return Err(Error::RunAsRoot(whose.0, whose.1)),
            (Some(_), _) => {}
            (None, Some(0)) => return Err(Error::Root(whose.0, whose.1)),
            (None, Some(_)) => {}
            (None, None) if !image.name.is_empty() => return Err(Error::Named(image.name.clone(), whose.0, whose.1)),
            (None, None) => return Err(Error::Root(whose.0, whose.1)),
        }
    }
    let effective = user.or(image.uid);
    let mut namespaces = namespaces(spec);
    if let Some(target) = target {
        namespaces.pid = NamespaceMode::Target as i32;
        namespaces.target_id = target;
    }
    let strings = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    let unmasked = own.and_then(|s| s.proc_mount.as_deref()) == Some("Unmasked");
    let paths = |list: &[&str]| {
        if unmasked {
            Vec::new()
        } else {
            list.iter().map(|p| (*p).to_owned()).collect()
        }
    };
    Ok(ContainerSecurityContext {
        capabilities: own.and_then(|s| s.capabilities.as_ref()).map(|c| Capability {
            add_capabilities: strings(c.add.as_ref()),
            drop_capabilities: strings(c.drop.as_ref()),
        }),
        privileged: own.and_then(|s| s.privileged) == Some(true),
        namespace_options: Some(namespaces),
        selinux_options: own
            .and_then(|s| s.se_linux_options.as_ref())
            .or(pod.and_then(|p| p.se_linux_options.as_ref()))
            .map(selinux),
        run_as_user: effective.map(|value| Int64Value { value }),
        run_as_group: group
            .filter(|_| effective.is_some() || !image.name.is_empty())
            .map(|value| Int64Value { value }),
        run_as_username: if effective.is_none() {
            image.name.clone()
        } else {
            String::new()
        },
        readonly_rootfs: own.and_then(|s| s.read_only_root_filesystem) == Some(true),
        supplemental_groups: supplemental_groups(spec),
        supplemental_groups_policy: groups_policy(spec),
        no_new_privs: own.and_then(|s| s.allow_privilege_escalation) == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READONLY),
        seccomp: Some(seccomp(
            subject.config,
            own.and_then(|s| s.seccomp_profile.as_ref())
                .or(pod.and_then(|p| p.seccomp_profile.as_ref())),
        )),
        apparmor: own
            .and_then(|s| s.app_armor_profile.as_ref())
            .or(pod.and_then(|p| p.app_armor_profile.as_ref()))
            .map(apparmor),
    })
}

const SIGNALS: [&str; 65] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGRTMIN",
    "SIGRTMIN+1",
    "SIGRTMIN+2",
    "SIGRTMIN+3",
    "SIGRTMIN+4",
    "SIGRTMIN+5",
    "SIGRTMIN+6",
    "SIGRTMIN+7",
    "SIGRTMIN+8",
    "SIGRTMIN+9",
    "SIGRTMIN+10",
    "SIGRTMIN+11",
    "SIGRTMIN+12",
    "SIGRTMIN+13",
    "SIGRTMIN+14",
    "SIGRTMIN+15",
    "SIGRTMAX-14",
    "SIGRTMAX-13",
    "SIGRTMAX-12",
    "SIGRTMAX-11",
    "SIGRTMAX-10",
    "SIGRTMAX-9",
    "SIGRTMAX-8",
    "SIGRTMAX-7",
    "SIGRTMAX-6",
    "SIGRTMAX-5",
    "SIGRTMAX-4",
    "SIGRTMAX-3",
    "SIGRTMAX-2",
    "SIGRTMAX-1",
    "SIGRTMAX",
];

const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What the container gets of the node.
pub fn resources(
    subject: &Subject<'_>,
    container: &Container,
    node_memory: i64,
    unprivileged_oom: bool,
) -> LinuxResources {
    let mut resources = qos::container(subject.pod, container, node_memory);
    if unprivileged_oom {
        resources.oom_score_adj = resources.oom_score_adj.max(0);
    }
    resources
}

#[cfg(test)]
#[path = "translate_tests.rs"]
mod tests;
