//! What the machine is: read from /proc, /sys and the interfaces.

use std::{collections::BTreeMap, fs, net::IpAddr, path::Path};

use api::quantity::{Format, Quantity};
use k8s_openapi::api::core::v1::NodeSystemInfo;

use crate::config::Config;

/// Reported as the version of the node agent: tools compare it with the API server's.
pub const VERSION: &str = concat!("v1.36.0+coracle.", env!("CARGO_PKG_VERSION"));

#[derive(Debug, Clone, Default)]
pub struct Machine {
    pub milli_cpu: i64,
    pub memory: i64,
    pub hostname: String,
    pub info: NodeSystemInfo,
    pub unprivileged_oom: bool,
}

fn read(path: &str) -> String {
    // A fact that the machine does not tell is empty in the report.
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

pub fn machine(cgroup_mount: &Path) -> Machine {
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as i64);
    let meminfo = read("/proc/meminfo");
    let total = meminfo.lines().find_map(|l| {
        l.strip_prefix("MemTotal:")?
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<i64>()
            .ok()
    });
    let physical = total.unwrap_or(0) * 1024;
    // A node that is itself in a cgroup has that much and no more.
    let limit = ["memory/memory.limit_in_bytes", "memory.max"].iter().find_map(|f| {
        fs::read_to_string(cgroup_mount.join(f))
            .ok()?
            .trim()
            .parse::<i64>()
            .ok()
    });
    let memory = limit.map_or(physical, |l| l.min(physical));
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = os
        .lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME="))
        .unwrap_or("Linux")
        .trim_matches('"')
        .to_owned();
    let status = read("/proc/self/status");
    let effective = status
        .lines()
        .find_map(|l| u64::from_str_radix(l.strip_prefix("CapEff:")?.trim(), 16).ok());
    const SYS_RESOURCE: u64 = 1 << 24;
    Machine {
        milli_cpu: cpus * 1000,
        memory,
        hostname: read("/proc/sys/kernel/hostname"),
        info: NodeSystemInfo {
            machine_id: read("/etc/machine-id"),
            system_uuid: read("/sys/class/dmi/id/product_uuid"),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            kernel_version: read("/proc/sys/kernel/osrelease"),
            os_image: pretty,
            operating_system: "linux".to_owned(),
            architecture: architecture().to_owned(),
            kubelet_version: VERSION.to_owned(),
            kube_proxy_version: String::new(),
            ..NodeSystemInfo::default()
        },
        unprivileged_oom: effective.is_some_and(|e| e & SYS_RESOURCE == 0),
    }
}

pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The addresses that the node is known by: configured, or the first global one of each family, by interface order.
pub fn addresses(config: &Config) -> Vec<IpAddr> {
    if !config.node_ips.is_empty() {
        return config.node_ips.clone();
    }
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    let mut found: Vec<IpAddr> = Vec::new();
    for interface in interfaces {
        let ours = ["cni", "veth", "docker", "lo", "kube", "coracle"]
            .iter()
            .any(|p| interface.interface_name.starts_with(p));
        let Some(address) = interface.address.filter(|_| !ours) else {
            continue;
        };
        let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::V4(v4.ip()),
            (_, Some(v6)) => IpAddr::V6(v6.ip()),
            _ => continue,
        };
        let global = match ip {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
            // fe80::/10 is link-local.
            IpAddr::V6(v6) => !v6.is_loopback() && v6.segments()[0] & 0xffc0 != 0xfe80,
        };
        if global && found.iter().all(|f| f.is_ipv4() != ip.is_ipv4()) {
            found.push(ip);
        }
    }
    found.sort_by_key(IpAddr::is_ipv6);
    found
}

/// What pods may use: capacity without what is kept back for the system and for eviction.
pub fn allocatable(capacity: &BTreeMap<String, Quantity>, config: &Config) -> BTreeMap<String, Quantity> {
    let mut left = capacity.clone();
    let mut take = |name: &str, amount: Quantity| {
        if let Some(have) = left.get_mut(name) {
            *have = if *have > amount { *have - amount } else { Quantity::ZERO };
        }
    };
    for reserved in &config.reserved {
        for (name, text) in reserved {
            if let Ok(amount) = Quantity::parse(text) {
                take(name, amount);
            }
        }
    }
    for (signal, resource) in [
        ("memory.available", "memory"),
        ("nodefs.available", "ephemeral-storage"),
    ] {
        let Some(text) = config.eviction_hard.get(signal) else {
            continue;
        };
        if let Some(amount) = threshold(text, capacity.get(resource)) {
            take(resource, amount);
        }
    }
    left
}

/// An eviction threshold as an amount: a quantity, or a percentage of what there is.
pub fn threshold(text: &str, whole: Option<&Quantity>) -> Option<Quantity> {
    match text.strip_suffix('%') {
        Some(percent) => {
            let part = whole?.as_f64() * percent.parse::<f64>().ok()? / 100.0;
            Some(Quantity::new(part as i64, Format::DecimalSi))
        }
        None => Quantity::parse(text).ok(),
    }
}

/// Total and free bytes, total and free inodes of the file system that holds the path.
pub fn disk(path: &Path) -> Option<(i64, i64, i64, i64)> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let size = stat.fragment_size() as i64;
    Some((
        stat.blocks() as i64 * size,
        stat.blocks_available() as i64 * size,
        stat.files() as i64,
        stat.files_available() as i64,
    ))
}

/// When the machine started.
pub fn booted() -> jiff::Timestamp {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let second = stat.lines().find_map(|l| l.strip_prefix("btime ")?.trim().parse().ok());
    jiff::Timestamp::from_second(second.unwrap_or(0)).unwrap_or_default()
}

/// Memory that could be had without swapping.
pub fn memory_available() -> Option<i64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<i64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_not_for_pods() {
        let quantity = |text: &str| Quantity::parse(text).unwrap();
        let capacity = BTreeMap::from([
            ("cpu".to_owned(), quantity("2")),
            ("memory".to_owned(), quantity("1Gi")),
            ("ephemeral-storage".to_owned(), quantity("1000")),
        ]);
        let mut config = Config::new("n");
        config
            .reserved
            .push(BTreeMap::from([("cpu".to_owned(), "500m".to_owned())]));
        let left = allocatable(&capacity, &config);
        assert_eq!(left["cpu"], quantity("1500m"));
        assert_eq!(left["memory"], quantity("924Mi"));
        assert_eq!(left["ephemeral-storage"], quantity("900"));
    }
}
