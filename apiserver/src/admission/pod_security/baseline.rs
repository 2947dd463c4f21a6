//! What no ordinary pod may: ways out of its container that are known and old.

use serde_json::Value;

use super::{Pod, Violation, containers, items, plural, quoted};

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
const SYSCTLS: [&str; 11] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
];
const SELINUX_TYPES: [&str; 5] = [
    "",
    "container_t",
    "container_init_t",
    "container_kvm_t",
    "container_engine_t",
];
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// The checks in upstream's order. `overridden`: without those that the restricted level makes stricter.
pub(super) fn check(pod: &Pod<'_>, overridden: bool) -> Vec<Violation> {
    let mut all = vec![app_armor(pod)];
    if !overridden {
        all.push(capabilities(pod));
    }
    all.extend([
        host_namespaces(pod),
        host_path_volumes(pod),
        host_ports(pod),
        host_probes(pod),
        privileged(pod),
        proc_mount(pod),
        selinux(pod),
    ]);
    if !overridden {
        all.push(seccomp(pod));
    }
    all.extend([sysctls(pod), windows_host_process(pod)]);
    all.into_iter().flatten().collect()
}

fn violation(reason: &'static str, detail: String) -> Option<Violation> {
    Some(Violation { reason, detail })
}

/// The names of containers for which `bad` holds.
fn names<'a>(pod: &Pod<'a>, bad: impl Fn(&Value) -> bool) -> Vec<&'a str> {
    pod.containers().filter(|c| bad(c.security)).map(|c| c.name).collect()
}

fn app_armor(pod: &Pod<'_>) -> Option<Violation> {
    let bad = |security: &Value| security["appArmorProfile"]["type"] == "Unconfined";
    let mut details = Vec::new();
    if bad(pod.security()) {
        details.push("pod must not set AppArmor profile type to \"Unconfined\"".to_owned());
    }
    let found = names(pod, bad);
    if !found.is_empty() {
        details.push(format!(
            "{} must not set AppArmor profile type to \"Unconfined\"",
            containers(&found)
        ));
    }
    let annotations = pod.metadata["annotations"].as_object();
    let mut annotated: Vec<String> = annotations
        .into_iter()
        .flatten()
        .filter(|(key, value)| {
            let value = value.as_str().unwrap_or_default();
            key.starts_with(APPARMOR) && !(matches!(value, "" | "runtime/default") || value.starts_with("localhost/"))
        })
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    annotated.sort();
    if !annotated.is_empty() {
        details.push(format!(
            "{} {}",
            plural("annotation", annotated.len()),
            annotated.join(", ")
        ));
    }
    match details.len() {
        0 => None,
        1 => violation("forbidden AppArmor profile", details.remove(0)),
        _ => violation("forbidden AppArmor profiles", details.join("; ")),
    }
}

fn capabilities(pod: &Pod<'_>) -> Option<Violation> {
    let mut found = Vec::new();
    let mut forbidden = Vec::new();
    for container in pod.containers() {
        let bad: Vec<&str> = items(container.security["capabilities"].get("add"))
            .filter_map(Value::as_str)
            .filter(|capability| !CAPABILITIES.contains(capability))
            .collect();
        if !bad.is_empty() {
            found.push(container.name);
            forbidden.extend(bad);
        }
    }
    if found.is_empty() {
        return None;
    }
    forbidden.sort_unstable();
    forbidden.dedup();
    violation(
        "non-default capabilities",
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&found),
            quoted(forbidden)
        ),
    )
}

fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let used: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| pod.spec[*field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    if used.is_empty() {
        return None;
    }
    violation("host namespaces", used.join(", "))
}

fn host_path_volumes(pod: &Pod<'_>) -> Option<Violation> {
    let found: Vec<&str> = items(pod.spec.get("volumes"))
        .filter(|volume| !volume["hostPath"].is_null())
        .filter_map(|volume| volume["name"].as_str())
        .collect();
    if found.is_empty() {
        return None;
    }
    let detail = format!("{} {}", plural("volume", found.len()), quoted(found.iter().copied()));
    violation("hostPath volumes", detail)
}

fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
    let mut found = Vec::new();
    let mut ports = std::collections::BTreeSet::new();
    for container in pod.containers() {
        let used: Vec<i64> = items(container.whole.get("ports"))
            .filter_map(|port| port["hostPort"].as_i64())
            .filter(|port| *port != 0)
            .collect();
        if !used.is_empty() {
            found.push(container.name);
            ports.extend(used);
        }
    }
    if found.is_empty() {
        return None;
    }
    let verb = if found.len() == 1 { "uses" } else { "use" };
    let list = ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    violation(
        "hostPort",
        format!(
            "{} {verb} {} {list}",
            containers(&found),
            plural("hostPort", ports.len())
        ),
    )
}

fn host_probes(pod: &Pod<'_>) -> Option<Violation> {
    let mut found = Vec::new();
    let mut hosts = std::collections::BTreeSet::new();
    for container in pod.containers() {
        let whole = container.whole;
        let handlers = [
            &whole["livenessProbe"],
            &whole["readinessProbe"],
            &whole["startupProbe"],
            &whole["lifecycle"]["postStart"],
            &whole["lifecycle"]["preStop"],
        ];
        let used: Vec<&str> = handlers
            .into_iter()
            .flat_map(|handler| [&handler["httpGet"]["host"], &handler["tcpSocket"]["host"]])
            .filter_map(Value::as_str)
            .filter(|host| !host.is_empty())
            .collect();
        if !used.is_empty() {
            found.push(container.name);
            hosts.extend(used);
        }
    }
    if found.is_empty() {
        return None;
    }
    let verb = if found.len() == 1 { "uses" } else { "use" };
    violation(
        "probe or lifecycle host",
        format!(
            "{} {verb} probe or lifecycle {} {}",
            containers(&found),
            plural("host", hosts.len()),
            quoted(hosts)
        ),
    )
}

fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let found = names(pod, |security| security["privileged"] == true);
    if found.is_empty() {
        return None;
    }
    let detail = format!("{} must not set securityContext.privileged=true", containers(&found));
    violation("privileged", detail)
}

fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    // In a user namespace of its own a pod may see its own /proc as it is.
    if pod.spec["hostUsers"] == false {
        return None;
    }
    let found = names(pod, |security| {
        !matches!(security["procMount"].as_str().unwrap_or_default(), "" | "Default")
    });
    if found.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not set securityContext.procMount to \"Unmasked\"",
        containers(&found)
    );
    violation("procMount", detail)
}

fn selinux(pod: &Pod<'_>) -> Option<Violation> {
    let mut types = std::collections::BTreeSet::new();
    let (mut user, mut role) = (false, false);
    let mut bad = |security: &Value| {
        let options = &security["seLinuxOptions"];
        let text = |field: &str| options[field].as_str().unwrap_or_default().to_owned();
        let is_bad_type = !SELINUX_TYPES.contains(&text("type").as_str());
        if is_bad_type {
            types.insert(text("type"));
        }
        user |= !text("user").is_empty();
        role |= !text("role").is_empty();
        is_bad_type || !text("user").is_empty() || !text("role").is_empty()
    };
    let mut setters = Vec::new();
    if bad(pod.security()) {
        setters.push("pod".to_owned());
    }
    let mut found = Vec::new();
    for container in pod.containers() {
        if bad(container.security) {
            found.push(container.name);
        }
    }
    if !found.is_empty() {
        setters.push(containers(&found));
    }
    if setters.is_empty() {
        return None;
    }
    let mut what = Vec::new();
    if !types.is_empty() {
        what.push(format!(
            "{} {}",
            plural("type", types.len()),
            quoted(types.iter().map(String::as_str))
        ));
    }
    if user {
        what.push("user may not be set".to_owned());
    }
    if role {
        what.push("role may not be set".to_owned());
    }
    violation(
        "seLinuxOptions",
        format!(
            "{} set forbidden securityContext.seLinuxOptions: {}",
            setters.join(" and "),
            what.join("; ")
        ),
    )
}

fn seccomp(pod: &Pod<'_>) -> Option<Violation> {
    let bad = |security: &Value| security["seccompProfile"]["type"] == "Unconfined";
    let mut setters = Vec::new();
    if bad(pod.security()) {
        setters.push("pod".to_owned());
    }
    let found = names(pod, bad);
    if !found.is_empty() {
        setters.push(containers(&found));
    }
    if setters.is_empty() {
        return None;
    }
    violation(
        "seccompProfile",
        format!(
            "{} must not set securityContext.seccompProfile.type to \"Unconfined\"",
            setters.join(" and ")
        ),
    )
}

fn sysctls(pod: &Pod<'_>) -> Option<Violation> {
    let found: Vec<&str> = items(pod.security().get("sysctls"))
        .filter_map(|sysctl| sysctl["name"].as_str())
        .filter(|name| !SYSCTLS.contains(name) && *name != "net.ipv4.tcp_wmem")
        .collect();
    if found.is_empty() {
        return None;
    }
    violation("forbidden sysctls", found.join(", "))
}

fn windows_host_process(pod: &Pod<'_>) -> Option<Violation> {
    let bad = |security: &Value| security["windowsOptions"]["hostProcess"] == true;
    let mut setters = Vec::new();
    if bad(pod.security()) {
        setters.push("pod".to_owned());
    }
    let found = names(pod, bad);
    if !found.is_empty() {
        setters.push(containers(&found));
    }
    if setters.is_empty() {
        return None;
    }
    violation(
        "hostProcess",
        format!(
            "{} must not set securityContext.windowsOptions.hostProcess=true",
            setters.join(" and ")
        ),
    )
}
