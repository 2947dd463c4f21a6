//! Flags and the KubeletConfiguration file, read once, as one set of typed settings.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::core::v1::Taint;
use serde::Deserialize;

use crate::{
    node::{
        eviction::{self, plan::Threshold},
        garbage,
    },
    resources::cgroups::Driver,
};

#[derive(Debug, Clone)]
pub struct Config {
    pub node_name: String,
    /// Empty: the first global address of the interfaces.
    pub node_ips: Vec<IpAddr>,
    pub node_labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub register: bool,
    /// Pods' directories: `/var/lib/kubelet`.
    pub root_dir: PathBuf,
    /// Containers' logs: `/var/log/pods`.
    pub logs_dir: PathBuf,
    pub runtime_endpoint: String,
    pub image_endpoint: Option<String>,
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    /// Empty: pods get no name servers of the node.
    pub resolv_conf: PathBuf,
    pub cgroup_mount: PathBuf,
    pub cgroup_root: String,
    pub cgroup_driver: Driver,
    pub cgroups_per_qos: bool,
    pub max_pods: i64,
    pub pids_limit: Option<i64>,
    /// Folder, or file, of the static pods.
    pub static_pods: Option<PathBuf>,
    /// Names, or prefixes that end with `*`, of sysctls that pods may set beyond the safe ones.
    pub unsafe_sysctls: Vec<String>,
    /// Kept back from pods: resource name to quantity, of `kubeReserved` and `systemReserved` together.
    pub reserved: Vec<BTreeMap<String, String>>,
    pub eviction_hard: BTreeMap<String, String>,
    pub eviction: Eviction,
    pub image_gc: garbage::Policy,
    /// Never removed: the runtime holds every pod's namespaces with it.
    pub sandbox_image: String,
    pub log_max_size: u64,
    pub log_max_files: u32,
    /// Pulls at the same time; 1 is serialised.
    pub parallel_pulls: usize,
    pub lease_duration: Duration,
    pub status_period: Duration,
    pub server: Option<Server>,
    /// Where the default pod network is written when no other network is there; none: never.
    pub cni_dir: Option<PathBuf>,
    /// Route of pods when the API gives the node no range of its own.
    pub pod_cidr: Option<String>,
}

/// Beside the hard thresholds.
#[derive(Debug, Clone)]
pub struct Eviction {
    pub soft: BTreeMap<String, String>,
    pub soft_grace: BTreeMap<String, Duration>,
    pub reclaim: BTreeMap<String, String>,
    /// How long a pressure is told after it was seen last.
    pub transition: Duration,
    /// The longest that a pod may take to end when a soft threshold is met.
    pub max_grace: Option<Duration>,
}

/// The node's own HTTPS endpoint.
#[derive(Debug, Clone)]
pub struct Server {
    pub address: IpAddr,
    pub port: u16,
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Ask the cluster for the certificate, and again before it ends (serverTLSBootstrap).
    pub request_certificate: bool,
    pub client_ca: Option<PathBuf>,
    pub anonymous: bool,
    pub webhook_authentication: bool,
    pub authorization: Authorization,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authorization {
    Webhook,
    AlwaysAllow,
}

impl Config {
    /// Upstream's defaults for a node of this name, without a server.
    pub fn new(node_name: impl Into<String>) -> Self {
        Config {
            node_name: node_name.into(),
            node_ips: Vec::new(),
            node_labels: BTreeMap::new(),
            taints: Vec::new(),
            register: true,
            root_dir: "/var/lib/kubelet".into(),
            logs_dir: "/var/log/pods".into(),
            runtime_endpoint: "unix:///run/containerd/containerd.sock".into(),
            image_endpoint: None,
            cluster_dns: Vec::new(),
            cluster_domain: String::new(),
            resolv_conf: "/etc/resolv.conf".into(),
            cgroup_mount: "/sys/fs/cgroup".into(),
            cgroup_root: "/".into(),
            cgroup_driver: Driver::Cgroupfs,
            cgroups_per_qos: true,
            max_pods: 110,
            pids_limit: None,
            static_pods: None,
            unsafe_sysctls: Vec::new(),
            reserved: Vec::new(),
            eviction_hard: BTreeMap::from([
                ("memory.available".to_owned(), "100Mi".to_owned()),
                ("nodefs.available".to_owned(), "10%".to_owned()),
                ("nodefs.inodesFree".to_owned(), "5%".to_owned()),
                ("imagefs.available".to_owned(), "15%".to_owned()),
                ("imagefs.inodesFree".to_owned(), "5%".to_owned()),
            ]),
            eviction: Eviction {
                soft: BTreeMap::new(),
                soft_grace: BTreeMap::new(),
                reclaim: BTreeMap::new(),
                transition: Duration::from_secs(300),
                max_grace: None,
            },
            image_gc: garbage::Policy {
                limit: garbage::Limit::Share { high: 85, low: 80 },
                min_age: Duration::from_secs(120),
            },
            sandbox_image: "registry.k8s.io/pause:3.10.1".to_owned(),
            log_max_size: 10 << 20,
            log_max_files: 5,
            parallel_pulls: 1,
            lease_duration: Duration::from_secs(40),
            status_period: Duration::from_secs(300),
            server: None,
            cni_dir: None,
            pod_cidr: None,
        }
    }

    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }

    pub fn pod_logs(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.logs_dir.join(format!("{namespace}_{name}_{uid}"))
    }

    /// Puts what a KubeletConfiguration file says over what is there. Fields that this node agent has no use for are let be.
    pub fn apply(&mut self, file: KubeletConfiguration) -> Result<(), Error> {
        let bad = |field: &'static str| move |_| Error::Value { field };
        if let Some(dns) = file.cluster_dns {
            self.cluster_dns = dns;
        }
        if let Some(domain) = file.cluster_domain {
            self.cluster_domain = domain;
        }
        if let Some(path) = file.resolv_conf {
            self.resolv_conf = path.into();
        }
        if let Some(endpoint) = file.container_runtime_endpoint.filter(|e| !e.is_empty()) {
            self.runtime_endpoint = endpoint;
        }
        self.image_endpoint = file
            .image_service_endpoint
            .filter(|e| !e.is_empty())
            .or(self.image_endpoint.take());
        if let Some(root) = file.cgroup_root.filter(|r| !r.is_empty()) {
            self.cgroup_root = root;
        }
        if let Some(driver) = file.cgroup_driver {
            self.cgroup_driver = driver_of(&driver).ok_or(Error::Value { field: "cgroupDriver" })?;
        }
        self.cgroups_per_qos = file.cgroups_per_qos.unwrap_or(self.cgroups_per_qos);
        self.max_pods = file.max_pods.unwrap_or(self.max_pods);
        self.pids_limit = file.pod_pids_limit.filter(|&n| n > 0).or(self.pids_limit);
        self.static_pods = file
            .static_pod_path
            .filter(|p| !p.as_os_str().is_empty())
            .or(self.static_pods.take());
        self.unsafe_sysctls = file
            .allowed_unsafe_sysctls
            .unwrap_or(std::mem::take(&mut self.unsafe_sysctls));
        self.reserved
            .extend([file.kube_reserved, file.system_reserved].into_iter().flatten());
        if let Some(eviction) = file.eviction_hard {
            self.eviction_hard = eviction;
        }
        let lasts = |text: &str, field: &'static str| daemon::args::duration(text).map_err(|_| Error::Value { field });
        self.eviction.soft = file.eviction_soft.unwrap_or_default();
        for (signal, text) in file.eviction_soft_grace_period.unwrap_or_default() {
            let grace = lasts(&text, "evictionSoftGracePeriod")?;
            self.eviction.soft_grace.insert(signal, grace);
        }
        self.eviction.reclaim = file.eviction_minimum_reclaim.unwrap_or_default();
        if let Some(text) = file.eviction_pressure_transition_period {
            self.eviction.transition = lasts(&text, "evictionPressureTransitionPeriod")?;
        }
        let most = file.eviction_max_pod_grace_period.filter(|seconds| *seconds > 0);
        self.eviction.max_grace = most.map(Duration::from_secs).or(self.eviction.max_grace);
        if let Some(text) = file.image_minimum_gc_age {
            self.image_gc.min_age = lasts(&text, "imageMinimumGCAge")?;
        }
        let (high, low) = (
            file.image_gc_high_threshold_percent,
            file.image_gc_low_threshold_percent,
        );
        if high.is_some() || low.is_some() {
            let (high, low) = (high.unwrap_or(85), low.unwrap_or(80));
            if high > 100 || low > high {
                return Err(Error::Value {
                    field: "imageGCHighThresholdPercent",
                });
            }
            self.image_gc.limit = garbage::Limit::Share { high, low };
        }
        self.thresholds()?;
        if let Some(size) = file.container_log_max_size {
            let size = api::quantity::Quantity::parse(&size).map_err(|_| Error::Value {
                field: "containerLogMaxSize",
            })?;
            self.log_max_size = u64::try_from(size.as_i64()).map_err(bad("containerLogMaxSize"))?;
        }
        self.log_max_files = file.container_log_max_files.unwrap_or(self.log_max_files);
        self.parallel_pulls = match (file.serialize_image_pulls, file.max_parallel_image_pulls) {
            (Some(false), None) => 8,
            (_, Some(n)) => n.max(1),
            _ => self.parallel_pulls,
        };
        if let Some(seconds) = file.node_lease_duration_seconds {
            self.lease_duration = Duration::from_secs(seconds);
        }
        if let Some(taints) = file.register_with_taints {
            self.taints = taints;
        }
        self.register = file.register_node.unwrap_or(self.register);
        if let Some(cidr) = file.pod_cidr.filter(|c| !c.is_empty()) {
            self.pod_cidr = Some(cidr);
        }
        if let Some(dir) = file.pod_logs_dir.filter(|d| !d.is_empty()) {
            self.logs_dir = dir.into();
        }
        let server = self.server.take();
        let own = |path: &str| self.root_dir.join("pki").join(path);
        let authentication = file.authentication.unwrap_or_default();
        let authorization = match file.authorization.and_then(|a| a.mode).as_deref() {
            Some("AlwaysAllow") => Authorization::AlwaysAllow,
            None | Some("Webhook") => Authorization::Webhook,
            Some(_) => {
                return Err(Error::Value {
                    field: "authorization.mode",
                });
            }
        };
        self.server = match server {
            None if file.port == Some(0) => None,
            server => {
                let base = server.unwrap_or_else(|| Server {
                    address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                    port: 10250,
                    certificate: own("kubelet.crt"),
                    key: own("kubelet.key"),
                    request_certificate: false,
                    client_ca: None,
                    anonymous: false,
                    webhook_authentication: true,
                    authorization,
                });
                let address = file
                    .address
                    .map(|a| a.parse().map_err(|_| Error::Value { field: "address" }))
                    .transpose()?;
                Some(Server {
                    address: address.unwrap_or(base.address),
                    port: file.port.unwrap_or(base.port),
                    certificate: file.tls_cert_file.map_or(base.certificate, PathBuf::from),
                    key: file.tls_private_key_file.map_or(base.key, PathBuf::from),
                    request_certificate: file.server_tls_bootstrap.unwrap_or(base.request_certificate),
                    client_ca: authentication
                        .x509
                        .and_then(|x| x.client_ca_file)
                        .map(PathBuf::from)
                        .or(base.client_ca),
                    anonymous: authentication
                        .anonymous
                        .and_then(|a| a.enabled)
                        .unwrap_or(base.anonymous),
                    webhook_authentication: authentication
                        .webhook
                        .and_then(|w| w.enabled)
                        .unwrap_or(base.webhook_authentication),
                    authorization,
                })
            }
        };
        Ok(())
    }
}

impl Config {
    /// What eviction goes by.
    pub fn thresholds(&self) -> Result<Vec<Threshold>, Error> {
        let Eviction {
            soft,
            soft_grace,
            reclaim,
            ..
        } = &self.eviction;
        let read = eviction::plan::thresholds(&self.eviction_hard, soft, soft_grace, reclaim);
        read.map_err(Error::Threshold)
    }
}

pub fn driver_of(text: &str) -> Option<Driver> {
    match text {
        "cgroupfs" => Some(Driver::Cgroupfs),
        "systemd" => Some(Driver::Systemd),
        _ => None,
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}: {message}", path.display())]
    Parse { path: PathBuf, message: String },
    #[error("an eviction threshold is not understood: {0}")]
    Threshold(String),
    #[error("{field} has a value that is not understood")]
    Value { field: &'static str },
}

/// kubelet.config.k8s.io/v1beta1, the fields that are used here.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeletConfiguration {
    pub kind: Option<String>,
    pub address: Option<String>,
    pub port: Option<u16>,
    pub tls_cert_file: Option<String>,
    pub tls_private_key_file: Option<String>,
    #[serde(rename = "serverTLSBootstrap")]
    pub server_tls_bootstrap: Option<bool>,
    pub authentication: Option<Authentication>,
    pub authorization: Option<AuthorizationMode>,
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Option<Vec<String>>,
    pub cluster_domain: Option<String>,
    pub resolv_conf: Option<String>,
    pub container_runtime_endpoint: Option<String>,
    pub image_service_endpoint: Option<String>,
    pub cgroup_root: Option<String>,
    pub cgroup_driver: Option<String>,
    #[serde(rename = "cgroupsPerQOS")]
    pub cgroups_per_qos: Option<bool>,
    pub max_pods: Option<i64>,
    pub pod_pids_limit: Option<i64>,
    pub static_pod_path: Option<PathBuf>,
    pub allowed_unsafe_sysctls: Option<Vec<String>>,
    pub kube_reserved: Option<BTreeMap<String, String>>,
    pub system_reserved: Option<BTreeMap<String, String>>,
    pub eviction_hard: Option<BTreeMap<String, String>>,
    pub eviction_soft: Option<BTreeMap<String, String>>,
    pub eviction_soft_grace_period: Option<BTreeMap<String, String>>,
    pub eviction_minimum_reclaim: Option<BTreeMap<String, String>>,
    pub eviction_pressure_transition_period: Option<String>,
    pub eviction_max_pod_grace_period: Option<u64>,
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: Option<u64>,
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: Option<u64>,
    #[serde(rename = "imageMinimumGCAge")]
    pub image_minimum_gc_age: Option<String>,
    pub container_log_max_size: Option<String>,
    pub container_log_max_files: Option<u32>,
    pub serialize_image_pulls: Option<bool>,
    pub max_parallel_image_pulls: Option<usize>,
    pub node_lease_duration_seconds: Option<u64>,
    pub register_with_taints: Option<Vec<Taint>>,
    pub register_node: Option<bool>,
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Option<String>,
    pub pod_logs_dir: Option<String>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub struct Authentication {
    pub anonymous: Option<Enabled>,
    pub webhook: Option<Enabled>,
    pub x509: Option<X509>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub struct Enabled {
    pub enabled: Option<bool>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct X509 {
    #[serde(rename = "clientCAFile")]
    pub client_ca_file: Option<String>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub struct AuthorizationMode {
    pub mode: Option<String>,
}

impl KubeletConfiguration {
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        let parse = |message: String| Error::Parse {
            path: path.to_owned(),
            message,
        };
        let file: KubeletConfiguration = serde_saphyr::from_str(&text).map_err(|e| parse(e.to_string()))?;
        match file.kind.as_deref() {
            None | Some("KubeletConfiguration") => Ok(file),
            Some(kind) => Err(parse(format!("is a {kind}, not a KubeletConfiguration"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_file_of_upstream_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubelet.yaml");
        std::fs::write(
            &path,
            "kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\nclusterDNS: [10.96.0.10]\n\
             clusterDomain: cluster.local\ncgroupDriver: systemd\nmaxPods: 50\ncontainerLogMaxSize: 1Mi\n\
             authentication:\n  x509: {clientCAFile: /pki/ca.crt}\nshutdownGracePeriod: 0s\n",
        )
        .unwrap();
        let mut config = Config::new("n1");
        config.apply(KubeletConfiguration::read(&path).unwrap()).unwrap();
        assert_eq!(config.cluster_dns, ["10.96.0.10"]);
        assert_eq!(config.cgroup_driver, Driver::Systemd);
        assert_eq!((config.max_pods, config.log_max_size), (50, 1 << 20));
        let server = config.server.unwrap();
        assert_eq!(server.client_ca.as_deref(), Some(Path::new("/pki/ca.crt")));
        assert_eq!((server.port, server.authorization), (10250, Authorization::Webhook));
    }

    #[test]
    fn another_kind_of_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.yaml");
        std::fs::write(&path, "kind: ConfigMap\n").unwrap();
        assert!(matches!(KubeletConfiguration::read(&path), Err(Error::Parse { .. })));
    }
}
