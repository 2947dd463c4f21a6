//! What a host looks like from outside: everything that a cluster could leave behind, as lines that can be compared.
//! Addresses of the kernel's own making (fe80::) come and go by themselves and are left out.

use std::collections::BTreeSet;

use crate::lab::Node;

/// One line a fact. Two snapshots of an unchanged host are equal.
pub fn take(node: &Node) -> anyhow::Result<BTreeSet<String>> {
    let script = r#"
        ip -o link | sed -E 's/^[0-9]+: /link /; s/ qlen [0-9]+//'
        ip -o address | grep -v fe80: | sed -E 's/^[0-9]+: /address /; s/valid_lft.*//'
        ip route show table all | grep -v fe80: | sed 's/^/route /'
        ip rule | sed 's/^/rule /'
        nft list ruleset | sed 's/^/nft /'
        sed 's/^/mount /' /proc/self/mounts
        for process in /proc/[0-9]*; do
          [ "$(readlink "$process/exe" 2>/dev/null)" ] && echo "process $(tr '\0' ' ' < "$process/cmdline")"
        done
        find /sys/fs/cgroup -type d | sed 's/^/cgroup /'
        find /var/lib/coracle /var/lib/kubelet /var/lib/cni /run /var/log /etc/cni /etc/coracle 2>/dev/null | sed 's/^/file /'
        [ ! -e "$HOME/.kube/config" ] || echo "file kubeconfig"
        for setting in net.ipv4.ip_forward net.ipv4.conf.all.route_localnet net.ipv4.conf.all.rp_filter; do
          echo "setting $setting $(cat "/proc/sys/$(echo "$setting" | tr . /)")"
        done
    "#;
    let text = crate::run(node.command("sh").args(["-c", script]))?;
    let passing = |line: &&str| {
        // The shell that takes the snapshot, and what belongs to it.
        !(line.starts_with("process ")
            && ["sh -c", "tr \\0", "readlink", "find /", "sed "]
                .iter()
                .any(|own| line.contains(own)))
    };
    Ok(text.lines().filter(passing).map(str::to_owned).collect())
}
