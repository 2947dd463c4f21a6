//! The node agent as a process of its own: flags and configuration file, then the library.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context;
use clap::Parser;
use daemon::{args::Logging, clients::KubeconfigClients, process};
use k8s_openapi::api::core::v1::Taint;
use kubelet::config::{Config, KubeletConfiguration, driver_of};

/// Runs the pods that the API assigns to this node.
#[derive(Debug, Parser)]
#[command(name = "kubelet", version)]
struct Flags {
    /// Kubeconfig file that tells how to reach the API server.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// File with a KubeletConfiguration.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Name of the node; the host's name without it.
    #[arg(long)]
    hostname_override: Option<String>,
    /// Addresses of the node, one or one of each family.
    #[arg(long, value_delimiter = ',')]
    node_ip: Vec<IpAddr>,
    /// Labels that the node registers with, key=value.
    #[arg(long, value_delimiter = ',')]
    node_labels: Vec<String>,
    /// Taints that the node registers with, key=value:effect.
    #[arg(long, value_delimiter = ',')]
    register_with_taints: Vec<String>,
    /// Directory of pods and volumes.
    #[arg(long)]
    root_dir: Option<PathBuf>,
    /// Socket of the container runtime.
    #[arg(long)]
    container_runtime_endpoint: Option<String>,
    /// Socket of the image service, where that is another.
    #[arg(long)]
    image_service_endpoint: Option<String>,
    /// cgroupfs or systemd, where the runtime does not tell.
    #[arg(long)]
    cgroup_driver: Option<String>,
    /// Parent of the pods' cgroups.
    #[arg(long)]
    cgroup_root: Option<String>,
    /// Folder of the static pods.
    #[arg(long)]
    pod_manifest_path: Option<PathBuf>,
    /// Addresses of the cluster's DNS.
    #[arg(long, value_delimiter = ',')]
    cluster_dns: Vec<String>,
    /// Domain of the cluster.
    #[arg(long)]
    cluster_domain: Option<String>,
    /// Most pods that run here.
    #[arg(long)]
    max_pods: Option<i64>,
    /// Certificate and key of the node's endpoint, and the CA of its clients.
    #[arg(long)]
    tls_cert_file: Option<PathBuf>,
    #[arg(long)]
    tls_private_key_file: Option<PathBuf>,
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
    /// Where the default pod network is written when there is no other.
    #[arg(long)]
    cni_conf_dir: Option<PathBuf>,
    #[command(flatten)]
    logging: Logging,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if let Err(error) = flags.logging.init() {
        tracing::error!(%error, "logging");
    }
    process::run("kubelet", |stop| async move {
        let clients = KubeconfigClients::new(&flags.kubeconfig, "kubelet").await?;
        kubelet::run(config(flags)?, Arc::new(clients), stop).await?;
        Ok::<(), anyhow::Error>(())
    })
}

fn config(flags: Flags) -> anyhow::Result<Config> {
    let name = flags.hostname_override.unwrap_or_else(process::host_name);
    let mut config = Config::new(name);
    if let Some(root) = flags.root_dir {
        config.root_dir = root;
    }
    let file = flags.config.as_deref().map(KubeletConfiguration::read).transpose()?;
    config.apply(file.unwrap_or_default())?;
    config.node_ips = flags.node_ip;
    config.node_labels = flags
        .node_labels
        .iter()
        .map(|l| l.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())))
        .collect::<Option<BTreeMap<_, _>>>()
        .context("--node-labels: each is key=value")?;
    if !flags.register_with_taints.is_empty() {
        let taints: Option<Vec<Taint>> = flags.register_with_taints.iter().map(|t| taint(t)).collect();
        config.taints = taints.context("--register-with-taints: each is key=value:effect")?;
    }
    if let Some(endpoint) = flags.container_runtime_endpoint {
        config.runtime_endpoint = endpoint;
    }
    config.image_endpoint = flags.image_service_endpoint.or(config.image_endpoint);
    if let Some(driver) = flags.cgroup_driver {
        config.cgroup_driver = driver_of(&driver).context("--cgroup-driver is cgroupfs or systemd")?;
    }
    if let Some(root) = flags.cgroup_root {
        config.cgroup_root = root;
    }
    if !flags.cluster_dns.is_empty() {
        config.cluster_dns = flags.cluster_dns;
    }
    if let Some(domain) = flags.cluster_domain {
        config.cluster_domain = domain;
    }
    config.static_pods = flags.pod_manifest_path.or(config.static_pods);
    config.max_pods = flags.max_pods.unwrap_or(config.max_pods);
    config.cni_dir = flags.cni_conf_dir.or(config.cni_dir);
    if let Some(server) = &mut config.server {
        server.certificate = flags.tls_cert_file.unwrap_or_else(|| server.certificate.clone());
        server.key = flags.tls_private_key_file.unwrap_or_else(|| server.key.clone());
        server.client_ca = flags.client_ca_file.or(server.client_ca.take());
    }
    Ok(config)
}

fn taint(text: &str) -> Option<Taint> {
    let (rest, effect) = text.rsplit_once(':')?;
    let (key, value) = rest.split_once('=').map_or((rest, None), |(k, v)| (k, Some(v)));
    Some(Taint {
        key: key.to_owned(),
        value: value.filter(|v| !v.is_empty()).map(str::to_owned),
        effect: effect.to_owned(),
        ..Taint::default()
    })
}
