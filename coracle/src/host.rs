//! Facts of this machine, read where they are asked for.

use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use kubelet::resources::cgroups::Driver;

/// Whether systemd is the init of this machine.
pub(crate) fn systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Whether cgroups are the unified hierarchy with its controllers.
pub(crate) fn unified_cgroups() -> bool {
    std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")
        .is_ok_and(|list| list.split_whitespace().any(|c| c == "memory"))
}

/// Whether systemd owns the cgroup tree, so that pods must be asked of it.
pub(crate) fn systemd_cgroups() -> bool {
    systemd() && unified_cgroups()
}

/// Who makes the pods' cgroups.
pub(crate) fn cgroup_driver() -> Driver {
    if systemd_cgroups() {
        Driver::Systemd
    } else {
        Driver::Cgroupfs
    }
}

pub(crate) fn apparmor() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

/// CAP_SYS_RESOURCE: without it no oom_score_adj may be lowered, and runc fails where it tries.
pub(crate) fn may_lower_oom_score() -> bool {
    const SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|capabilities| capabilities >> SYS_RESOURCE & 1 == 1)
}

/// The resolvers that pods' outside names go to: the real ones, where systemd-resolved stands in front of them on an
/// address that only the host can reach.
pub(crate) fn resolv_conf() -> std::path::PathBuf {
    let behind = Path::new("/run/systemd/resolve/resolv.conf");
    let stub = std::fs::read_to_string("/etc/resolv.conf").is_ok_and(|text| text.contains("127.0.0.53"));
    if stub && behind.exists() {
        behind.to_owned()
    } else {
        "/etc/resolv.conf".into()
    }
}

/// The host's name as a node's name: lower case.
pub(crate) fn name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname()?;
    Ok(name.to_string_lossy().to_lowercase())
}

/// The address that other machines reach this one by: that of the default route's interface, else the first that is no
/// loopback and on no bridge of ours.
pub(crate) fn address() -> anyhow::Result<Option<Ipv4Addr>> {
    let addresses: Vec<(String, Ipv4Addr)> = nix::ifaddrs::getifaddrs()?
        .filter_map(|interface| {
            let address = interface.address?.as_sockaddr_in()?.ip();
            (!address.is_loopback() && !address.is_link_local()).then_some((interface.interface_name, address))
        })
        .collect();
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let default = default_interface(&routes);
    Ok(addresses
        .iter()
        .find(|(name, _)| Some(name.as_str()) == default)
        .or_else(|| addresses.iter().find(|(name, _)| !virtual_link(name)))
        .map(|(_, address)| *address))
}

/// The interface of the default route with the lowest metric.
fn default_interface(routes: &str) -> Option<&str> {
    routes
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let default = fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000");
            default.then(|| Some((fields.get(6)?.parse::<u32>().ok()?, *fields.first()?)))?
        })
        .min()
        .map(|(_, interface)| interface)
}

fn virtual_link(name: &str) -> bool {
    ["cni", "docker", "br-", "virbr", "veth", "flannel", "cali"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Detaches a command from our terminal, session and process group.
pub(crate) fn own_session(command: &mut Command) {
    // SAFETY: setsid is async-signal-safe and touches no memory of ours.
    #[allow(unsafe_code, reason = "code between fork and exec is unsafe by nature")]
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheapest_default_route_wins() {
        let routes = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
            wlan0 00000000 0101A8C0 0003 0 0 600 00000000 0 0 0\n\
            eth0 00000000 0101A8C0 0003 0 0 100 00000000 0 0 0\n\
            eth0 0001A8C0 00000000 0001 0 0 100 00FFFFFF 0 0 0\n";
        assert_eq!(default_interface(routes), Some("eth0"));
        assert_eq!(default_interface("header\n"), None);
    }
}
