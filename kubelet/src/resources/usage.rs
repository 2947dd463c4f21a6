//! What a cgroup and the machine have used, read when somebody asks: cumulative CPU time and memory, under v1 and v2.

use std::{fs, path::Path};

use api::pod::Qos;
use jiff::Timestamp;

use super::cgroups::{Cgroups, Version};

/// One reading. CPU is a sum since the cgroup began, so a rate needs two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    pub at: Timestamp,
    /// Nanoseconds.
    pub cpu: Option<u64>,
    pub memory: Option<Memory>,
    pub processes: Option<u64>,
}

/// Bytes, and counts of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    pub used: u64,
    /// Without files that were not looked at lately, which the kernel may drop at once.
    pub working_set: u64,
    pub rss: u64,
    pub faults: u64,
    pub major_faults: u64,
    /// None: as much as there is.
    pub limit: Option<u64>,
    pub swap: Option<u64>,
}

/// A limit above this is none: v1 says "no limit" by the largest multiple of a page.
const UNLIMITED: u64 = 1 << 62;

/// Where a runtime puts a container below its pod's cgroup: by its identifier, or in a scope that systemd made.
const SCOPES: [(&str, &str); 4] = [
    ("", ""),
    ("cri-containerd-", ".scope"),
    ("crio-", ".scope"),
    ("cri-dockerd-", ".scope"),
];

impl Cgroups {
    /// The whole machine, or what the node has of it.
    pub fn node_usage(&self) -> Usage {
        let mut usage = self.usage(Path::new(""));
        if usage.memory.is_none() {
            // The root of a unified hierarchy counts no memory of its own.
            usage.memory = fs::read_to_string("/proc/meminfo").ok().map(|text| {
                let stat = fs::read_to_string(self.mount().join("memory.stat")).unwrap_or_default();
                machine_memory(&text, &stat)
            });
        }
        usage
    }

    /// All pods together.
    pub fn pods_usage(&self) -> Usage {
        self.usage(&self.kubepods())
    }

    /// None where the pod has no cgroup of its own.
    pub fn pod_usage(&self, uid: &str, class: Qos) -> Option<Usage> {
        let usage = self.usage(&self.pod_path(uid, class));
        usage.cpu.map(|_| usage)
    }

    /// None where the runtime put the container elsewhere.
    pub fn container_usage(&self, uid: &str, class: Qos, id: &str) -> Option<Usage> {
        let pod = self.pod_path(uid, class);
        SCOPES.iter().find_map(|(before, after)| {
            let usage = self.usage(&pod.join(format!("{before}{id}{after}")));
            usage.cpu.map(|_| usage)
        })
    }

    /// A process in the pod's cgroup, to see its network by.
    pub fn pod_process(&self, uid: &str, class: Qos) -> Option<i32> {
        let pod = self.pod_path(uid, class);
        let dir = match self.version() {
            Version::V1 => self.mount().join("memory").join(pod),
            Version::V2 => self.mount().join(pod),
        };
        first_process(&dir)
    }

    fn usage(&self, path: &Path) -> Usage {
        let at = Timestamp::now();
        match self.version() {
            Version::V1 => {
                let dir = |controller: &str| self.mount().join(controller).join(path);
                let memory = dir("memory");
                Usage {
                    at,
                    cpu: number(&dir("cpuacct").join("cpuacct.usage")),
                    memory: number(&memory.join("memory.usage_in_bytes")).map(|used| {
                        let stat = fs::read_to_string(memory.join("memory.stat")).unwrap_or_default();
                        let of = |key: &str| field(&stat, key);
                        Memory {
                            used,
                            working_set: used.saturating_sub(of("total_inactive_file")),
                            rss: of("total_rss"),
                            faults: of("total_pgfault"),
                            major_faults: of("total_pgmajfault"),
                            limit: Some(of("hierarchical_memory_limit")).filter(|l| *l > 0 && *l < UNLIMITED),
                            swap: find(&stat, "total_swap"),
                        }
                    }),
                    processes: number(&dir("pids").join("pids.current")),
                }
            }
            Version::V2 => {
                let dir = self.mount().join(path);
                let time = fs::read_to_string(dir.join("cpu.stat")).ok();
                Usage {
                    at,
                    cpu: time.and_then(|text| find(&text, "usage_usec")).map(|usec| usec * 1000),
                    memory: number(&dir.join("memory.current")).map(|used| {
                        let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
                        let of = |key: &str| field(&stat, key);
                        Memory {
                            used,
                            working_set: used.saturating_sub(of("inactive_file")),
                            rss: of("anon"),
                            faults: of("pgfault"),
                            major_faults: of("pgmajfault"),
                            limit: number(&dir.join("memory.max")),
                            swap: number(&dir.join("memory.swap.current")),
                        }
                    }),
                    processes: number(&dir.join("pids.current")),
                }
            }
        }
    }
}

fn number(path: &Path) -> Option<u64> {
    // A file that is not there, and one that says `max`, hold no number.
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn find(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn field(text: &str, key: &str) -> u64 {
    find(text, key).unwrap_or(0)
}

/// From /proc/meminfo, in the words of a cgroup.
fn machine_memory(meminfo: &str, stat: &str) -> Memory {
    let bytes = |key: &str| {
        let line = meminfo.lines().find_map(|l| l.strip_prefix(key));
        let number = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        number.unwrap_or(0) * 1024
    };
    let used = bytes("MemTotal:").saturating_sub(bytes("MemFree:"));
    Memory {
        used,
        working_set: used.saturating_sub(bytes("Inactive(file):")),
        rss: bytes("AnonPages:"),
        faults: field(stat, "pgfault"),
        major_faults: field(stat, "pgmajfault"),
        limit: None,
        swap: Some(bytes("SwapTotal:").saturating_sub(bytes("SwapFree:"))),
    }
}

fn first_process(dir: &Path) -> Option<i32> {
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    if let Some(pid) = procs.lines().find_map(|pid| pid.parse().ok()) {
        return Some(pid);
    }
    let below = fs::read_dir(dir).ok()?.flatten();
    below
        .filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir()))
        .find_map(|e| first_process(&e.path()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::cgroups::Driver;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn a_container_of_v1_is_read_from_its_hierarchies() {
        let pod = "kubepods/burstable/podu";
        let root = tree(&[
            (&format!("cpuacct/{pod}/c1/cpuacct.usage"), "5000\n"),
            (&format!("memory/{pod}/c1/memory.usage_in_bytes"), "1000\n"),
            (
                &format!("memory/{pod}/c1/memory.stat"),
                "cache 1\ntotal_inactive_file 300\ntotal_rss 200\ntotal_pgfault 7\ntotal_pgmajfault 2\n\
                 hierarchical_memory_limit 9223372036854771712\n",
            ),
            (&format!("pids/{pod}/c1/pids.current"), "3\n"),
        ]);
        let cgroups = Cgroups::new(root.path(), "/", Driver::Cgroupfs);
        let usage = cgroups.container_usage("u", Qos::Burstable, "c1").unwrap();
        let memory = usage.memory.unwrap();
        assert_eq!((usage.cpu, usage.processes), (Some(5000), Some(3)));
        assert_eq!((memory.used, memory.working_set, memory.rss), (1000, 700, 200));
        assert_eq!((memory.faults, memory.major_faults, memory.limit), (7, 2, None));
        assert_eq!(cgroups.container_usage("u", Qos::Burstable, "c2"), None);
    }

    #[test]
    fn a_scope_of_v2_is_read_from_the_unified_files() {
        let pod = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podu.slice";
        let root = tree(&[
            ("cgroup.controllers", "cpu memory"),
            (
                &format!("{pod}/cri-containerd-c1.scope/cpu.stat"),
                "usage_usec 12\nuser_usec 3\n",
            ),
            (&format!("{pod}/cri-containerd-c1.scope/memory.current"), "1000\n"),
            (&format!("{pod}/cri-containerd-c1.scope/memory.max"), "2000\n"),
            (
                &format!("{pod}/cri-containerd-c1.scope/memory.stat"),
                "anon 400\ninactive_file 100\npgfault 9\n",
            ),
            (&format!("{pod}/cri-containerd-c1.scope/cgroup.procs"), "42\n43\n"),
        ]);
        let cgroups = Cgroups::new(root.path(), "/", Driver::Systemd);
        let usage = cgroups.container_usage("u", Qos::Burstable, "c1").unwrap();
        let memory = usage.memory.unwrap();
        assert_eq!(usage.cpu, Some(12_000));
        assert_eq!((memory.working_set, memory.rss, memory.limit), (900, 400, Some(2000)));
        assert_eq!(cgroups.pod_process("u", Qos::Burstable), Some(42));
    }

    #[test]
    fn the_machine_speaks_the_words_of_a_cgroup() {
        let text = "MemTotal: 1000 kB\nMemFree: 400 kB\nInactive(file): 100 kB\nAnonPages: 300 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\n";
        let memory = machine_memory(text, "pgfault 5\n");
        assert_eq!(
            (memory.used, memory.working_set, memory.rss, memory.swap),
            (600 * 1024, 500 * 1024, 300 * 1024, Some(6 * 1024))
        );
        assert_eq!(memory.faults, 5);
    }
}
