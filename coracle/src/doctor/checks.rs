//! The checks, one function each.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use super::{Subject, Verdict};
use crate::host;
use crate::runtime::programs::Programs;

pub(crate) fn privileges(_: &Subject<'_>) -> Verdict {
    if nix::unistd::Uid::effective().is_root() {
        Verdict::good("root")
    } else {
        Verdict::bad("containers and packet rules need root", "run it with sudo")
    }
}

pub(crate) fn cgroups(_: &Subject<'_>) -> Verdict {
    if host::unified_cgroups() {
        return Verdict::good("version 2");
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    match missing_controllers(&mounts).as_slice() {
        [] => Verdict::good("version 1"),
        missing => Verdict::bad(
            format!("no cgroup controller {}", missing.join(", ")),
            "mount the unified hierarchy (boot with systemd.unified_cgroup_hierarchy=1) or enable the controllers (cgroup_enable=memory)",
        ),
    }
}

/// Controllers of version 1 that containers need and that `mounts` (as `/proc/self/mounts`) lacks.
fn missing_controllers(mounts: &str) -> Vec<&'static str> {
    let mounted = |controller: &str| {
        mounts.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.get(2) == Some(&"cgroup") && fields.get(3).is_some_and(|o| o.split(',').any(|o| o == controller))
        })
    };
    ["cpu", "cpuacct", "memory", "pids", "devices", "freezer"]
        .into_iter()
        .filter(|c| !mounted(c))
        .collect()
}

pub(crate) fn overlay(_: &Subject<'_>) -> Verdict {
    module("overlay", "/proc/filesystems", |text| {
        text.split_whitespace().any(|word| word == "overlay")
    })
}

/// A feature that is built in, or comes as a module that can be loaded.
fn module(name: &str, evidence: &str, found: impl Fn(&str) -> bool) -> Verdict {
    if std::fs::read_to_string(evidence).is_ok_and(|text| found(&text)) || loadable(name) {
        Verdict::good("")
    } else {
        Verdict::bad(
            format!("the kernel lacks {name}"),
            format!("load it (modprobe {name}) or use a kernel that has it"),
        )
    }
}

/// Whether the running kernel's module folder has `name`, built in or as a file.
fn loadable(name: &str) -> bool {
    let Ok(release) = nix::sys::utsname::uname().map(|names| names.release().to_owned()) else {
        return false;
    };
    let folder = Path::new("/lib/modules").join(release);
    let file = format!("/{name}.ko");
    ["modules.dep", "modules.builtin"]
        .iter()
        .any(|list| std::fs::read_to_string(folder.join(list)).is_ok_and(|text| text.contains(&file)))
}

pub(crate) fn nftables(_: &Subject<'_>) -> Verdict {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    let opened = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    );
    match opened {
        Ok(_) => Verdict::good("nftables"),
        Err(error) => Verdict::bad(
            format!("the kernel's netfilter does not answer ({error})"),
            "load it (modprobe nf_tables) or use a kernel that has it",
        ),
    }
}

pub(crate) fn bridges(_: &Subject<'_>) -> Verdict {
    if Path::new("/proc/sys/net/bridge").exists() || Path::new("/sys/module/bridge").exists() || loadable("bridge") {
        Verdict::good("")
    } else {
        Verdict::bad(
            "the kernel lacks bridge",
            "load it (modprobe bridge br_netfilter) or use a kernel that has it",
        )
    }
}

pub(crate) fn runtime(subject: &Subject<'_>) -> Verdict {
    match Programs::find(subject.layout, subject.path) {
        Ok(programs) => Verdict::good(programs.containerd.display().to_string()),
        Err(missing) if Path::new("/usr/bin/apt-get").exists() => {
            Verdict::good(format!("`up` will fetch {}", missing.join(", ")))
        }
        Err(missing) => Verdict::bad(
            format!("this machine lacks {}", missing.join(", ")),
            "install them with the machine's package manager",
        ),
    }
}

pub(crate) fn ports(subject: &Subject<'_>) -> Verdict {
    if subject.running {
        return Verdict::good("held by Coracle");
    }
    let taken: Vec<String> = [subject.secure_port, crate::serve::KUBELET_PORT]
        .into_iter()
        .filter(|port| TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port))).is_err())
        .map(|port| port.to_string())
        .collect();
    match taken.as_slice() {
        [] => Verdict::good(""),
        taken => Verdict::bad(
            format!("port {} is taken, perhaps by another Kubernetes", taken.join(" and ")),
            "stop what holds it (ss -ltnp shows it), or choose another with --secure-port",
        ),
    }
}

pub(crate) fn addresses(_: &Subject<'_>) -> Verdict {
    match host::address() {
        Ok(Some(address)) => Verdict::good(address.to_string()),
        Ok(None) => Verdict::bad(
            "no interface has an IPv4 address but loopback",
            "connect a network, or name an address with --node-ip",
        ),
        Err(error) => Verdict::bad(format!("the interfaces cannot be listed ({error})"), "run it as root"),
    }
}

pub(crate) fn disk(subject: &Subject<'_>) -> Verdict {
    const NEEDED: u64 = 1 << 30;
    let existing = subject
        .layout
        .data
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    match nix::sys::statvfs::statvfs(existing) {
        Ok(disk) => {
            let free = disk.blocks_available() * disk.fragment_size();
            let detail = format!("{:.1} GiB free", free as f64 / (1u64 << 30) as f64);
            if free >= NEEDED {
                Verdict::good(detail)
            } else {
                Verdict::bad(
                    format!("{detail} at {}", existing.display()),
                    "free at least 1 GiB there",
                )
            }
        }
        Err(error) => Verdict::doubt(
            format!("{} cannot be examined ({error})", existing.display()),
            "check its mount",
        ),
    }
}

pub(crate) fn inotify(_: &Subject<'_>) -> Verdict {
    let read = |name: &str| -> Option<u64> {
        std::fs::read_to_string(format!("/proc/sys/fs/inotify/{name}"))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    match (read("max_user_instances"), read("max_user_watches")) {
        (Some(instances), Some(watches)) if instances >= 128 && watches >= 8192 => Verdict::good(""),
        (Some(instances), Some(watches)) => Verdict::doubt(
            format!("only {instances} instances and {watches} watches"),
            "sysctl -w fs.inotify.max_user_instances=512 fs.inotify.max_user_watches=524288",
        ),
        _ => Verdict::bad("the kernel has no inotify", "use a kernel that has it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_controller_is_named() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu,cpuacct 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
            cgroup /c cgroup rw,devices 0 0\ncgroup /f cgroup rw,freezer 0 0\n";
        assert_eq!(missing_controllers(mounts), ["pids"]);
    }

    #[test]
    fn a_taken_port_is_a_conflict_unless_it_is_ours() {
        let held = TcpListener::bind("0.0.0.0:0").unwrap();
        let layout = crate::layout::Layout::default();
        let mut subject = Subject {
            layout: &layout,
            path: "",
            secure_port: held.local_addr().unwrap().port(),
            running: false,
        };
        assert!(matches!(ports(&subject), Verdict::Bad { .. }));
        subject.running = true;
        assert!(matches!(ports(&subject), Verdict::Good(_)));
    }
}
