use serde_json::json;

use super::*;

#[track_caller]
fn check(level: Level, spec: Value, want: &str) {
    let policy = Policy {
        level,
        version: "latest".into(),
    };
    let metadata = json!({"name": "p"});
    let pod = Pod {
        metadata: &metadata,
        spec: &spec,
    };
    let got = policy.judge(&pod).unwrap_or_default();
    let got = got.split_once(": ").map_or("", |(_, list)| list);
    assert_eq!(got, want, "{spec}");
}

/// A container that the restricted level accepts.
fn hardened() -> Value {
    json!({"name": "c", "securityContext": {
        "allowPrivilegeEscalation": false, "runAsNonRoot": true,
        "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
        "seccompProfile": {"type": "RuntimeDefault"}}})
}

fn with(field: &str, value: Value) -> Value {
    let mut container = hardened();
    container["securityContext"][field] = value;
    json!({"containers": [container]})
}

#[test]
fn an_ordinary_pod_is_baseline_and_not_restricted() {
    let spec = json!({"containers": [{"name": "c"}]});
    check(Level::Privileged, spec.clone(), "");
    check(Level::Baseline, spec.clone(), "");
    check(
        Level::Restricted,
        spec,
        "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
         runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
         seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
         \"Localhost\")",
    );
    check(Level::Restricted, json!({"containers": [hardened()]}), "");
}

#[test]
fn what_the_baseline_forbids() {
    for (spec, want) in [
        (
            json!({"hostNetwork": true, "hostPID": true, "containers": []}),
            "host namespaces (hostNetwork=true, hostPID=true)",
        ),
        (
            json!({"volumes": [{"name": "a", "hostPath": {}}, {"name": "b", "hostPath": {}}]}),
            "hostPath volumes (volumes \"a\", \"b\")",
        ),
        (
            json!({"containers": [{"name": "c", "ports": [{"hostPort": 81}, {"hostPort": 80}]}]}),
            "hostPort (container \"c\" uses hostPorts 80, 81)",
        ),
        (
            with("privileged", json!(true)),
            "privileged (container \"c\" must not set securityContext.privileged=true)",
        ),
        (
            with("procMount", json!("Unmasked")),
            "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            with("capabilities", json!({"add": ["SYS_ADMIN", "CHOWN"]})),
            "non-default capabilities (container \"c\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add)",
        ),
        (
            with("seccompProfile", json!({"type": "Unconfined"})),
            "seccompProfile (container \"c\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            json!({"securityContext": {"seLinuxOptions": {"type": "spc_t", "user": "u"}}}),
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set)",
        ),
        (
            json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_syncookies"}]}}),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            with("windowsOptions", json!({"hostProcess": true})),
            "hostProcess (container \"c\" must not set securityContext.windowsOptions.hostProcess=true)",
        ),
    ] {
        check(Level::Baseline, spec, want);
    }
}

#[test]
fn what_the_restricted_level_forbids_beside() {
    for (spec, want) in [
        (
            with("capabilities", json!({"drop": ["ALL"], "add": ["CHOWN"]})),
            "unrestricted capabilities (container \"c\" must not include \"CHOWN\" in securityContext.capabilities.add)",
        ),
        (
            with("runAsNonRoot", json!(false)),
            "runAsNonRoot != true (container \"c\" must not set securityContext.runAsNonRoot=false)",
        ),
        (
            with("runAsUser", json!(0)),
            "runAsUser=0 (container \"c\" must not set runAsUser=0)",
        ),
        (
            json!({"containers": [hardened()], "volumes": [{"name": "v", "nfs": {}}, {"name": "w", "emptyDir": {}}]}),
            "restricted volume types (volume \"v\" uses restricted volume type \"nfs\")",
        ),
    ] {
        check(Level::Restricted, spec, want);
    }
}

#[test]
fn labels_that_do_not_read_are_refused_on_the_namespace_and_strict_otherwise() {
    let namespace = |level: &str, version: &str| {
        let labels = json!({format!("{PREFIX}enforce"): level, format!("{PREFIX}enforce-version"): version});
        let Value::Object(map) = json!({"metadata": {"name": "n", "labels": labels}}) else {
            unreachable!()
        };
        Object(map)
    };
    assert!(labels(&namespace("baseline", "v1.30"), None).is_ok());
    let status = labels(&namespace("strict", "soon"), None).unwrap_err();
    assert_eq!((status.code, status.details.unwrap().causes.len()), (422, 2));
    assert!(labels(&namespace("strict", "soon"), Some(&namespace("strict", "soon"))).is_ok());
    let policy = Policy::of(&namespace("strict", "soon"), "enforce");
    assert_eq!((policy.level, policy.version.as_str()), (Level::Restricted, "latest"));
    assert_eq!(
        Policy::of(&namespace("baseline", "v1.30"), "warn").level,
        Level::Privileged
    );
}
