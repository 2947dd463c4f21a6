//! What a hardened pod must say of itself, beside what no pod may.

use serde_json::Value;

use super::{Pod, Violation, containers, items, plural, quoted};

/// Volume sources that bring nothing of the host.
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
    "image",
];

/// The checks in upstream's order.
pub(super) fn check(pod: &Pod<'_>) -> Vec<Violation> {
    [
        allow_privilege_escalation(pod),
        capabilities(pod),
        volumes(pod),
        run_as_non_root(pod),
        run_as_user(pod),
        seccomp(pod),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn violation(reason: &'static str, detail: String) -> Option<Violation> {
    Some(Violation { reason, detail })
}

fn allow_privilege_escalation(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    let found: Vec<&str> = pod
        .containers()
        .filter(|container| container.security["allowPrivilegeEscalation"] != false)
        .map(|container| container.name)
        .collect();
    if found.is_empty() {
        return None;
    }
    violation(
        "allowPrivilegeEscalation != false",
        format!(
            "{} must set securityContext.allowPrivilegeEscalation=false",
            containers(&found)
        ),
    )
}

fn capabilities(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    let (mut keeping, mut adding, mut added) = (Vec::new(), Vec::new(), Vec::new());
    for container in pod.containers() {
        let capabilities = &container.security["capabilities"];
        if !items(capabilities.get("drop")).any(|capability| capability == "ALL") {
            keeping.push(container.name);
        }
        let bad: Vec<&str> = items(capabilities.get("add"))
            .filter_map(Value::as_str)
            .filter(|capability| *capability != "NET_BIND_SERVICE")
            .collect();
        if !bad.is_empty() {
            adding.push(container.name);
            added.extend(bad);
        }
    }
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            containers(&keeping)
        ));
    }
    if !adding.is_empty() {
        added.sort_unstable();
        added.dedup();
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&adding),
            quoted(added)
        ));
    }
    if details.is_empty() {
        return None;
    }
    violation("unrestricted capabilities", details.join("; "))
}

fn volumes(pod: &Pod<'_>) -> Option<Violation> {
    let mut found = Vec::new();
    let mut types = std::collections::BTreeSet::new();
    for volume in items(pod.spec.get("volumes")) {
        let sources = volume.as_object().into_iter().flatten();
        // A volume that says nothing is an emptyDir.
        let source = sources.map(|(key, _)| key.as_str()).find(|key| *key != "name");
        if let Some(source) = source.filter(|source| !VOLUMES.contains(source)) {
            found.push(volume["name"].as_str().unwrap_or_default());
            types.insert(source);
        }
    }
    if found.is_empty() {
        return None;
    }
    let verb = if found.len() == 1 { "uses" } else { "use" };
    violation(
        "restricted volume types",
        format!(
            "{} {} {verb} restricted volume {} {}",
            plural("volume", found.len()),
            quoted(found.iter().copied()),
            plural("type", types.len()),
            quoted(types)
        ),
    )
}

fn run_as_non_root(pod: &Pod<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    // In a user namespace of its own, root is not the host's.
    if pod.spec["hostUsers"] == false {
        return None;
    }
    let of_pod = pod.security()["runAsNonRoot"].as_bool();
    let mut setters = Vec::new();
    if of_pod == Some(false) {
        setters.push("pod".to_owned());
    }
    let said = |want: Option<bool>| -> Vec<&str> {
        pod.containers()
            .filter(|container| container.security["runAsNonRoot"].as_bool() == want)
            .map(|container| container.name)
            .collect()
    };
    let bad = said(Some(false));
    if !bad.is_empty() {
        setters.push(containers(&bad));
    }
    if !setters.is_empty() {
        let detail = format!(
            "{} must not set securityContext.runAsNonRoot=false",
            setters.join(" and ")
        );
        return violation(REASON, detail);
    }
    let silent = said(None);
    if of_pod.is_some() || silent.is_empty() {
        return None;
    }
    violation(
        REASON,
        format!(
            "pod or {} must set securityContext.runAsNonRoot=true",
            containers(&silent)
        ),
    )
}

fn run_as_user(pod: &Pod<'_>) -> Option<Violation> {
    if pod.spec["hostUsers"] == false {
        return None;
    }
    let mut setters = Vec::new();
    if pod.security()["runAsUser"] == 0 {
        setters.push("pod".to_owned());
    }
    let found: Vec<&str> = pod
        .containers()
        .filter(|container| container.security["runAsUser"] == 0)
        .map(|container| container.name)
        .collect();
    if !found.is_empty() {
        setters.push(containers(&found));
    }
    if setters.is_empty() {
        return None;
    }
    violation(
        "runAsUser=0",
        format!("{} must not set runAsUser=0", setters.join(" and ")),
    )
}

fn seccomp(pod: &Pod<'_>) -> Option<Violation> {
    const REASON: &str = "seccompProfile";
    if pod.is_windows() {
        return None;
    }
    let profile = |security: &Value| security["seccompProfile"]["type"].as_str().map(str::to_owned);
    let is_good = |profile: &str| matches!(profile, "RuntimeDefault" | "Localhost");
    let of_pod = profile(pod.security());
    let mut setters = Vec::new();
    let mut values = std::collections::BTreeSet::new();
    if let Some(bad) = of_pod.as_deref().filter(|profile| !is_good(profile)) {
        setters.push("pod".to_owned());
        values.insert(bad.to_owned());
    }
    let (mut bad, mut silent) = (Vec::new(), Vec::new());
    for container in pod.containers() {
        match profile(container.security) {
            None => silent.push(container.name),
            Some(profile) if is_good(&profile) => {}
            Some(profile) => {
                bad.push(container.name);
                values.insert(profile);
            }
        }
    }
    if !bad.is_empty() {
        setters.push(containers(&bad));
    }
    if !setters.is_empty() {
        let detail = format!(
            "{} must not set securityContext.seccompProfile.type to {}",
            setters.join(" and "),
            quoted(values.iter().map(String::as_str))
        );
        return violation(REASON, detail);
    }
    if of_pod.is_some() || silent.is_empty() {
        return None;
    }
    violation(
        REASON,
        format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            containers(&silent)
        ),
    )
}
