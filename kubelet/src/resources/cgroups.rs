//! The cgroup tree of pods: `kubepods[/burstable|/besteffort]/pod<uid>`, under v1 and v2, named for cgroupfs or for systemd.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use api::pod::Qos;

use super::qos::{self, PodResources};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    Cgroupfs,
    Systemd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

#[derive(Debug, Clone)]
pub struct Cgroups {
    mount: PathBuf,
    /// Upstream's cgroupRoot, `/` most of the time.
    root: String,
    driver: Driver,
    version: Version,
}

/// The file or directory that would not be made or written.
#[derive(Debug, thiserror::Error)]
#[error("{}", path.display())]
pub struct Error {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Cgroups {
    pub fn new(mount: impl Into<PathBuf>, root: &str, driver: Driver) -> Self {
        let mount = mount.into();
        // Only a unified hierarchy lists its controllers at its root.
        let version = if mount.join("cgroup.controllers").exists() {
            Version::V2
        } else {
            Version::V1
        };
        Cgroups {
            mount,
            root: root.trim_matches('/').to_owned(),
            driver,
            version,
        }
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub(super) fn mount(&self) -> &Path {
        &self.mount
    }

    /// Of all pods, relative to a hierarchy's mount point.
    pub(super) fn kubepods(&self) -> PathBuf {
        self.path(&["kubepods".to_owned()])
    }

    /// Of one pod, relative to a hierarchy's mount point.
    pub(super) fn pod_path(&self, uid: &str, class: Qos) -> PathBuf {
        self.path(&self.pod_parts(uid, class))
    }

    /// What the runtime is told as the parent of a pod's containers.
    pub fn pod_parent(&self, uid: &str, class: Qos) -> String {
        self.name(&self.pod_parts(uid, class))
    }

    /// Makes `kubepods` and its classes, and bounds them.
    pub fn prepare(&self, milli_cpu: i64, memory: i64) -> Result<(), Error> {
        if self.driver == Driver::Systemd {
            // systemd makes slices as they are named; there is nothing to prepare.
            return Ok(());
        }
        for parts in [
            vec!["kubepods".to_owned()],
            class_parts(Qos::Burstable),
            class_parts(Qos::BestEffort),
        ] {
            self.make(&parts)?;
        }
        let all = PodResources {
            cpu_shares: qos::shares(milli_cpu),
            cpu_quota: None,
            memory: Some(memory),
        };
        self.write(&["kubepods".to_owned()], &all)?;
        self.write(
            &class_parts(Qos::BestEffort),
            &PodResources {
                cpu_shares: 2,
                ..PodResources::default()
            },
        )
    }

    /// The burstable class as a whole weighs what its pods asked for.
    pub fn weigh_burstable(&self, milli_cpu: i64) -> Result<(), Error> {
        let resources = PodResources {
            cpu_shares: qos::shares(milli_cpu),
            ..PodResources::default()
        };
        let parts = class_parts(Qos::Burstable);
        if self.exists(&parts) {
            self.write(&parts, &resources)
        } else {
            Ok(())
        }
    }

    pub fn make_pod(&self, uid: &str, class: Qos, resources: &PodResources, pids: Option<i64>) -> Result<(), Error> {
        let parts = self.pod_parts(uid, class);
        if self.driver == Driver::Cgroupfs {
            self.make(&parts)?;
        } else if !self.exists(&parts) {
            return Ok(());
        }
        self.write(&parts, resources)?;
        if let Some(pids) = pids {
            self.set(&parts, "pids", "pids.max", "pids.max", &pids.to_string())?;
        }
        Ok(())
    }

    /// Removes what is left of a pod whose containers are gone. Absent is fine; in use is an error to be tried again.
    pub fn remove_pod(&self, uid: &str) -> Result<(), Error> {
        for class in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            let path = self.path(&self.pod_parts(uid, class));
            for hierarchy in self.hierarchies() {
                remove_tree(&hierarchy.join(&path))?;
            }
        }
        Ok(())
    }

    /// Processes that are still in the cgroups of pods.
    pub fn processes(&self) -> Vec<i32> {
        let path = self.path(&["kubepods".to_owned()]);
        let mut found = std::collections::BTreeSet::new();
        for hierarchy in self.hierarchies() {
            collect_processes(&hierarchy.join(&path), &mut found);
        }
        found.into_iter().collect()
    }

    /// Removes everything that this node made for pods, once their containers are gone. systemd takes its own away.
    pub fn remove_all(&self) -> Result<(), Error> {
        let path = self.path(&["kubepods".to_owned()]);
        for hierarchy in self.hierarchies() {
            remove_tree(&hierarchy.join(&path))?;
        }
        Ok(())
    }

    /// UIDs of pods that have a directory here, whatever became of them.
    pub fn pods(&self) -> Vec<String> {
        let Some(hierarchy) = self.hierarchies().into_iter().next() else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for parts in [
            vec!["kubepods".to_owned()],
            class_parts(Qos::Burstable),
            class_parts(Qos::BestEffort),
        ] {
            let Ok(entries) = fs::read_dir(hierarchy.join(self.path(&parts))) else {
                continue;
            };
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let uid = match self.driver {
                    Driver::Cgroupfs => name.strip_prefix("pod").map(str::to_owned),
                    Driver::Systemd => name
                        .strip_suffix(".slice")
                        .and_then(|n| n.rsplit_once("-pod"))
                        .map(|(_, uid)| uid.replace('_', "-")),
                };
                found.extend(uid);
            }
        }
        found
    }

    fn pod_parts(&self, uid: &str, class: Qos) -> Vec<String> {
        let mut parts = class_parts(class);
        parts.push(format!("pod{uid}"));
        parts
    }

    fn name(&self, parts: &[String]) -> String {
        format!("/{}", self.path(parts).display())
    }

    /// Relative to a hierarchy's mount point.
    fn path(&self, parts: &[String]) -> PathBuf {
        let mut path = PathBuf::from(&self.root);
        match self.driver {
            Driver::Cgroupfs => path.extend(parts),
            Driver::Systemd => {
                // A slice repeats the names of those above it; a dash separates levels, so dashes inside become underscores.
                let mut prefix = String::new();
                for part in parts {
                    if !prefix.is_empty() {
                        prefix.push('-');
                    }
                    prefix.push_str(&part.replace('-', "_"));
                    path.push(format!("{prefix}.slice"));
                }
            }
        }
        path
    }

    fn hierarchies(&self) -> Vec<PathBuf> {
        match self.version {
            Version::V2 => vec![self.mount.clone()],
            Version::V1 => {
                let Ok(entries) = fs::read_dir(&self.mount) else {
                    return Vec::new();
                };
                let mut all: Vec<PathBuf> = entries
                    .flatten()
                    // `cpu` is often a link to `cpu,cpuacct`: one directory is enough.
                    .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()) && e.file_name() != "unified")
                    .map(|e| e.path())
                    .collect();
                all.sort();
                all
            }
        }
    }

    fn exists(&self, parts: &[String]) -> bool {
        let path = self.path(parts);
        match self.version {
            Version::V2 => self.mount.join(path).is_dir(),
            Version::V1 => self.mount.join("memory").join(path).is_dir(),
        }
    }

    fn make(&self, parts: &[String]) -> Result<(), Error> {
        let path = self.path(parts);
        match self.version {
            Version::V1 => {
                // The runtime makes the others; cpuset must be filled in by whoever makes it, and the runtime does.
                for controller in ["cpu", "memory", "pids"] {
                    let root = self.mount.join(controller);
                    if root.is_dir() {
                        make_dir(&root.join(&path))?;
                    }
                }
            }
            Version::V2 => {
                let mut at = self.mount.clone();
                for part in path.components() {
                    for controller in ["cpu", "memory", "pids", "cpuset", "io", "hugetlb"] {
                        // A controller that this kernel or container does not have is no error until a limit needs it.
                        drop(fs::write(at.join("cgroup.subtree_control"), format!("+{controller}")));
                    }
                    at.push(part);
                    make_dir(&at)?;
                }
            }
        }
        Ok(())
    }

    fn write(&self, parts: &[String], resources: &PodResources) -> Result<(), Error> {
        let PodResources {
            cpu_shares,
            cpu_quota,
            memory,
        } = *resources;
        if cpu_shares > 0 {
            match self.version {
                Version::V1 => self.set(parts, "cpu", "cpu.shares", "", &cpu_shares.to_string())?,
                Version::V2 => self.set(parts, "cpu", "", "cpu.weight", &qos::weight(cpu_shares).to_string())?,
            }
        }
        if let Some(quota) = cpu_quota {
            match self.version {
                Version::V1 => {
                    self.set(parts, "cpu", "cpu.cfs_period_us", "", &qos::PERIOD.to_string())?;
                    self.set(parts, "cpu", "cpu.cfs_quota_us", "", &quota.to_string())?;
                }
                Version::V2 => self.set(parts, "cpu", "", "cpu.max", &format!("{quota} {}", qos::PERIOD))?,
            }
        }
        if let Some(memory) = memory {
            self.set(
                parts,
                "memory",
                "memory.limit_in_bytes",
                "memory.max",
                &memory.to_string(),
            )?;
        }
        Ok(())
    }

    fn set(&self, parts: &[String], controller: &str, v1: &str, v2: &str, value: &str) -> Result<(), Error> {
        let path = match self.version {
            Version::V1 => {
                let root = self.mount.join(controller);
                if !root.is_dir() {
                    return Ok(());
                }
                root.join(self.path(parts)).join(v1)
            }
            Version::V2 => self.mount.join(self.path(parts)).join(v2),
        };
        fs::write(&path, value).map_err(|source| Error { path, source })
    }
}

fn class_parts(class: Qos) -> Vec<String> {
    let mut parts = vec!["kubepods".to_owned()];
    match class {
        Qos::Guaranteed => {}
        Qos::Burstable => parts.push("burstable".to_owned()),
        Qos::BestEffort => parts.push("besteffort".to_owned()),
    }
    parts
}

fn make_dir(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(|source| Error {
        path: path.to_owned(),
        source,
    })
}

/// cgroup directories hold files that cannot be deleted; only the directories go, from the leaves up.
fn collect_processes(path: &Path, found: &mut std::collections::BTreeSet<i32>) {
    // A directory that goes meanwhile has none.
    let procs = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    found.extend(procs.lines().filter_map(|pid| pid.parse::<i32>().ok()));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_processes(&entry.path(), found);
        }
    }
}

fn remove_tree(path: &Path) -> Result<(), Error> {
    let Ok(entries) = fs::read_dir(path) else { return Ok(()) };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        remove_tree(&entry.path())?;
    }
    match fs::remove_dir(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_driver() {
        let cgroups = |driver| Cgroups::new("/nowhere", "/", driver);
        let uid = "1b-2c";
        assert_eq!(
            cgroups(Driver::Cgroupfs).pod_parent(uid, Qos::Burstable),
            "/kubepods/burstable/pod1b-2c"
        );
        assert_eq!(
            cgroups(Driver::Cgroupfs).pod_parent(uid, Qos::Guaranteed),
            "/kubepods/pod1b-2c"
        );
        assert_eq!(
            cgroups(Driver::Systemd).pod_parent(uid, Qos::BestEffort),
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1b_2c.slice"
        );
    }

    #[test]
    fn a_pod_gets_its_directory_and_numbers_in_v1() {
        let mount = tempfile::tempdir().unwrap();
        for controller in ["cpu", "memory", "pids"] {
            fs::create_dir(mount.path().join(controller)).unwrap();
        }
        let cgroups = Cgroups::new(mount.path(), "/", Driver::Cgroupfs);
        let resources = PodResources {
            cpu_shares: 512,
            cpu_quota: Some(50_000),
            memory: Some(1 << 20),
        };
        cgroups.make_pod("u", Qos::Burstable, &resources, Some(100)).unwrap();
        let read = |file: &str| fs::read_to_string(mount.path().join(file)).unwrap();
        assert_eq!(read("cpu/kubepods/burstable/podu/cpu.shares"), "512");
        assert_eq!(read("cpu/kubepods/burstable/podu/cpu.cfs_quota_us"), "50000");
        assert_eq!(read("memory/kubepods/burstable/podu/memory.limit_in_bytes"), "1048576");
        assert_eq!(read("pids/kubepods/burstable/podu/pids.max"), "100");
        assert_eq!(cgroups.pods(), ["u"]);
    }

    #[test]
    fn v2_writes_the_unified_files() {
        let mount = tempfile::tempdir().unwrap();
        fs::write(mount.path().join("cgroup.controllers"), "cpu memory").unwrap();
        let cgroups = Cgroups::new(mount.path(), "/", Driver::Cgroupfs);
        let resources = PodResources {
            cpu_shares: 1024,
            cpu_quota: Some(50_000),
            memory: Some(1 << 20),
        };
        cgroups.make_pod("u", Qos::Guaranteed, &resources, None).unwrap();
        let read = |file: &str| fs::read_to_string(mount.path().join("kubepods/podu").join(file)).unwrap();
        assert_eq!(read("cpu.weight"), "100");
        assert_eq!(read("cpu.max"), "50000 100000");
        assert_eq!(read("memory.max"), "1048576");
    }
}
