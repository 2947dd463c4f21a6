//! Each part as this node runs it: its identity, its configuration, its life.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::Context;
use apiserver::assemble::Server;
use clap::Parser;
use daemon::pki;
use daemon::tasks::Tasks;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::clients::Gateway;
use super::{KUBELET_PORT, Node, born};
use crate::host;

/// Pods of the whole cluster.
const CLUSTER_CIDR: &str = "10.244.0.0/16";
const SERVICE_CIDR: &str = "10.96.0.0/16";
/// The `kubernetes` Service.
const SERVICE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
pub(crate) const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const DOMAIN: &str = "cluster.local";
/// The group that every authenticated user is in.
const AUTHENTICATED: &str = "system:authenticated";

fn pki(node: &Node) -> pki::Layout {
    pki::Layout::new(node.layout.pki())
}

/// Makes what keys and certificates are missing or no longer fit, and the administrator's kubeconfig.
pub(crate) fn keys(node: &Node) -> anyhow::Result<()> {
    let cluster = pki::Cluster {
        node_name: node.settings.node_name.clone(),
        node_addresses: vec![node.settings.node_ip.to_string()],
        server_names: Vec::new(),
        service_address: SERVICE_ADDRESS.into(),
        domain: DOMAIN.to_owned(),
    };
    let pki = pki(node);
    pki.ensure(&cluster, Timestamp::now())
        .context("cannot make the cluster's keys")?;
    let server = format!("https://127.0.0.1:{}", node.settings.secure_port);
    let name = crate::kubeconfig::NAME;
    let read = |path: std::path::PathBuf| {
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let pair = pki::Pair {
        certificate: read(pki.certificate("admin"))?,
        key: read(pki.key("admin"))?,
    };
    let kubeconfig = pki::kubeconfig(name, &server, &read(pki.cluster_ca())?, name, &pair);
    pki::write_file(&node.layout.admin_kubeconfig(), kubeconfig.as_bytes(), 0o600)
        .context("cannot write the kubeconfig")
}

/// The API over the store that was chosen. Other parts find each new life of it by themselves.
pub(crate) async fn apiserver(node: Node, stop: CancellationToken) -> anyhow::Result<()> {
    let server = Server::open(server_config(&node)?).await?;
    let (router, ready) = (server.api().router(), server.ready());
    // What asks while no server runs waits for the next one.
    let _closing = node.gateway.closing();
    let mut tasks = Tasks::under(&stop);
    tasks.spawn("serve", |stop| server.run(stop));
    tasks.spawn("born", move |stop| async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = ready.cancelled() => {}
        }
        // The roles of our own parts must be there before those parts ask.
        let early = Gateway::opened(router.clone());
        born::ensure(
            &early
                .clients("system:coracle", &["system:masters", AUTHENTICATED])
                .own(),
        )
        .await?;
        node.gateway.open(router);
        let address = format!("https://127.0.0.1:{}", node.settings.secure_port);
        node.board.done("API server answers", address);
        stop.cancelled().await;
        anyhow::Ok(())
    });
    Ok(tasks.run(stop.cancelled()).await?)
}

fn server_config(node: &Node) -> anyhow::Result<apiserver::config::Config> {
    let pki = pki(node);
    let file = |name: &str, path: PathBuf| format!("--{name}={}", path.display());
    let mut flags = vec![
        "apiserver".to_owned(),
        format!("--secure-port={}", node.settings.secure_port),
        format!("--advertise-address={}", node.settings.node_ip),
        format!("--service-cluster-ip-range={SERVICE_CIDR}"),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        file("client-ca-file", pki.cluster_ca()),
        file("tls-cert-file", pki.certificate("apiserver")),
        file("tls-private-key-file", pki.key("apiserver")),
        file("service-account-key-file", pki.service_account_public_key()),
        file("service-account-signing-key-file", pki.service_account_key()),
        file("requestheader-client-ca-file", pki.certificate("front-proxy-ca")),
        file(
            "kubelet-client-certificate",
            pki.certificate("apiserver-kubelet-client"),
        ),
        file("kubelet-client-key", pki.key("apiserver-kubelet-client")),
        file("kubelet-certificate-authority", pki.cluster_ca()),
        file("data-dir", node.layout.store()),
    ];
    if let Some(etcd) = crate::store::Choice::kept(&node.layout)? {
        flags.extend(etcd.flags());
    }
    Ok(apiserver::config::Flags::try_parse_from(flags)?.try_into()?)
}

pub(crate) async fn scheduler(node: Node, stop: CancellationToken) -> anyhow::Result<()> {
    let clients = node.gateway.clients("system:kube-scheduler", &[AUTHENTICATED]);
    Ok(scheduler::run(scheduler::Config::default(), clients, stop).await?)
}

pub(crate) async fn kubelet(node: Node, stop: CancellationToken) -> anyhow::Result<()> {
    let Node {
        layout,
        settings,
        gateway,
        ..
    } = &node;
    let pki = pki(&node);
    let clients = gateway.clients(
        &format!("system:node:{}", settings.node_name),
        &["system:nodes", AUTHENTICATED],
    );
    let mut config = kubelet::Config::new(&settings.node_name);
    config.node_ips = vec![settings.node_ip.into()];
    config.root_dir = layout.kubelet.clone();
    config.logs_dir = layout.pod_logs.clone();
    config.runtime_endpoint = format!("unix://{}", layout.containerd_socket().display());
    config.static_pods = Some(layout.kubelet.join("manifests"));
    config.cluster_dns = vec![DNS_ADDRESS.to_string()];
    config.cluster_domain = DOMAIN.to_owned();
    config.resolv_conf = host::resolv_conf();
    config.cgroup_driver = host::cgroup_driver();
    // A share of a large disk is many gigabytes: a laptop would be told that it is full while it is far from it.
    config.eviction_hard = [("memory.available", "100Mi"), ("nodefs.available", "1Gi")]
        .map(|(signal, threshold)| (signal.to_owned(), threshold.to_owned()))
        .into();
    // Before that, images that nobody uses go: many of them were loaded by hand and cannot be pulled again.
    config.image_gc.limit = kubelet::node::garbage::Limit::Free(2 << 30);
    config.sandbox_image = crate::image::pause::NAME.to_owned();
    config.cni_dir = Some(layout.cni_config());
    config.server = Some(kubelet::config::Server {
        address: Ipv4Addr::UNSPECIFIED.into(),
        port: KUBELET_PORT,
        certificate: pki.certificate("kubelet"),
        key: pki.key("kubelet"),
        request_certificate: true,
        client_ca: Some(pki.cluster_ca()),
        anonymous: false,
        webhook_authentication: true,
        authorization: kubelet::config::Authorization::Webhook,
    });
    Ok(kubelet::run(config, clients, stop).await?)
}

pub(crate) async fn proxy(node: Node, stop: CancellationToken) -> anyhow::Result<()> {
    let clients = node.gateway.clients("system:kube-proxy", &[AUTHENTICATED]);
    Ok(proxy::run(proxy::Config::new(&node.settings.node_name), clients, stop).await?)
}
pub(crate) async fn controllers(node: Node, stop: CancellationToken) -> anyhow::Result<()> {
    let clients = node.gateway.clients("system:kube-controller-manager", &[AUTHENTICATED]);
    let root_ca = std::fs::read_to_string(pki(&node).cluster_ca())?;
    let signing = pki::Pair {
        certificate: root_ca.clone(),
        key: std::fs::read_to_string(pki(&node).key("ca"))?,
    };
    let config = controllers::Config {
        cluster_cidr: Some(CLUSTER_CIDR.parse().context("a literal network")?),
        root_ca: Some(root_ca),
        signing: Some(signing),
        ..controllers::Config::default()
    };
    Ok(controllers::run(config, clients, stop).await?)
}

pub(crate) async fn dns(node: Node, stop: CancellationToken) -> anyhow::Result<()> {
    let clients = node.gateway.clients(
        "system:serviceaccount:kube-system:dns",
        &["system:serviceaccounts", AUTHENTICATED],
    );
    Ok(dns::run(dns::Config::default(), clients, stop).await?)
}

pub(crate) async fn provisioner(node: Node, stop: CancellationToken) -> anyhow::Result<()> {
    let clients = node.gateway.clients(
        "system:serviceaccount:kube-system:provisioner",
        &["system:serviceaccounts", AUTHENTICATED],
    );
    let config = provisioner::Config {
        node_name: node.settings.node_name.clone(),
        directory: node.layout.volumes(),
    };
    Ok(provisioner::run(config, clients, stop).await?)
}
