//! Where everything of a node lies. Nothing else in this crate spells a path.

use std::path::{Path, PathBuf};

/// The directories and files of one node. The kubelet's are the standard ones, so that tools find them.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// Survives a reboot: keys, the store, images.
    pub data: PathBuf,
    /// Gone after a reboot: sockets, pid files.
    pub run: PathBuf,
    pub log: PathBuf,
    pub kubelet: PathBuf,
    pub pod_logs: PathBuf,
    pub container_logs: PathBuf,
    pub cni_state: PathBuf,
}

impl Default for Layout {
    fn default() -> Self {
        Layout {
            data: "/var/lib/coracle".into(),
            run: "/run/coracle".into(),
            log: "/var/log/coracle".into(),
            kubelet: "/var/lib/kubelet".into(),
            pod_logs: "/var/log/pods".into(),
            container_logs: "/var/log/containers".into(),
            cni_state: "/var/lib/cni".into(),
        }
    }
}

impl Layout {
    pub(crate) fn pki(&self) -> PathBuf {
        self.data.join("pki")
    }
    pub(crate) fn store(&self) -> PathBuf {
        self.data.join("store")
    }
    /// What was there before the first `up`, so that `reset` can put it back.
    pub(crate) fn before(&self) -> PathBuf {
        self.data.join("before.json")
    }
    /// The node's own choices, kept over restarts.
    pub(crate) fn node(&self) -> PathBuf {
        self.data.join("node.json")
    }
    /// How to reach the etcd that holds the cluster's objects, where it is not the embedded store.
    pub(crate) fn etcd(&self) -> PathBuf {
        self.data.join("etcd.json")
    }
    /// A kubeconfig of the cluster's administrator, readable by root alone.
    pub(crate) fn admin_kubeconfig(&self) -> PathBuf {
        self.data.join("admin.kubeconfig")
    }
    /// Programs that the machine lacked.
    pub(crate) fn programs(&self) -> PathBuf {
        self.data.join("programs")
    }
    pub(crate) fn containerd_root(&self) -> PathBuf {
        self.data.join("containerd")
    }
    pub(crate) fn containerd_state(&self) -> PathBuf {
        self.run.join("containerd")
    }
    pub(crate) fn containerd_config(&self) -> PathBuf {
        self.run.join("containerd.toml")
    }
    pub(crate) fn containerd_socket(&self) -> PathBuf {
        self.containerd_state().join("containerd.sock")
    }
    pub(crate) fn containerd_pid(&self) -> PathBuf {
        self.run.join("containerd.pid")
    }
    pub(crate) fn containerd_log(&self) -> PathBuf {
        self.log.join("containerd.log")
    }
    /// Directories that stand behind persistent volumes.
    pub(crate) fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }
    pub(crate) fn cni_config(&self) -> PathBuf {
        self.data.join("cni")
    }
    /// Mirrors and certificates of registries, as containerd reads them; the user's to fill.
    pub(crate) fn registries(&self) -> &Path {
        Path::new("/etc/coracle/certs.d")
    }
    pub(crate) fn control(&self) -> PathBuf {
        self.run.join("control.sock")
    }
    pub(crate) fn pid(&self) -> PathBuf {
        self.run.join("coracle.pid")
    }
    pub(crate) fn server_log(&self) -> PathBuf {
        self.log.join("coracle.log")
    }
    /// Directories that a node makes outside its own, and that others may have made before it.
    pub(crate) fn shared(&self) -> [&Path; 5] {
        // containerd's shims keep their sockets there, wherever containerd has its own.
        [
            &self.kubelet,
            &self.pod_logs,
            &self.container_logs,
            &self.cni_state,
            Path::new("/run/containerd"),
        ]
    }
}
