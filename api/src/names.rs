//! Well-known names, and the checks that names of the API must pass.
//!
//! A check returns the complaints about a value, in upstream's words; none means that the value is fine.
//! Callers that only want to know use the `is_*` forms.

/// Labels, annotations, taints, finalizers and user names that several parts must spell alike.
pub mod well_known {
    #![allow(missing_docs, reason = "each constant is its own documentation")]

    pub const HOSTNAME: &str = "kubernetes.io/hostname";
    pub const OS: &str = "kubernetes.io/os";
    pub const ARCH: &str = "kubernetes.io/arch";
    pub const ZONE: &str = "topology.kubernetes.io/zone";
    pub const REGION: &str = "topology.kubernetes.io/region";
    pub const INSTANCE_TYPE: &str = "node.kubernetes.io/instance-type";
    pub const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
    pub const NODE_ROLE_PREFIX: &str = "node-role.kubernetes.io/";
    pub const EXCLUDE_FROM_LOAD_BALANCERS: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
    pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

    pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
    pub const SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
    pub const HEADLESS: &str = "service.kubernetes.io/headless";
    pub const ENDPOINT_SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
    pub const ENDPOINT_SLICE_SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
    pub const ENDPOINTS_LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";
    pub const ENDPOINTS_OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
    pub const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";

    pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";
    pub const CONTROLLER_REVISION_HASH: &str = "controller-revision-hash";
    pub const POD_TEMPLATE_GENERATION: &str = "pod-template-generation";
    pub const STATEFUL_SET_POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
    pub const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
    pub const DEPLOYMENT_REVISION: &str = "deployment.kubernetes.io/revision";
    pub const DEPLOYMENT_REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
    pub const DEPLOYMENT_DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
    pub const DEPLOYMENT_MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
    pub const POD_DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    pub const JOB_NAME: &str = "batch.kubernetes.io/job-name";
    pub const LEGACY_JOB_NAME: &str = "job-name";
    pub const JOB_CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
    pub const LEGACY_JOB_CONTROLLER_UID: &str = "controller-uid";
    pub const JOB_COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";
    pub const JOB_TRACKING: &str = "batch.kubernetes.io/job-tracking";
    pub const CRON_JOB_SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
    pub const DAEMON_SET_TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
    pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
    pub const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

    pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
    pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
    pub const CONFIG_SEEN: &str = "kubernetes.io/config.seen";
    pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
    pub const VOLUMES_ATTACH_DETACH: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
    pub const NODE_TTL: &str = "node.alpha.kubernetes.io/ttl";

    pub const PVC_BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
    pub const PVC_BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
    pub const PV_PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
    pub const PVC_STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
    pub const PVC_SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
    pub const DEFAULT_STORAGE_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
    pub const DEFAULT_INGRESS_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

    pub const TAINT_NOT_READY: &str = "node.kubernetes.io/not-ready";
    pub const TAINT_UNREACHABLE: &str = "node.kubernetes.io/unreachable";
    pub const TAINT_UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
    pub const TAINT_MEMORY_PRESSURE: &str = "node.kubernetes.io/memory-pressure";
    pub const TAINT_DISK_PRESSURE: &str = "node.kubernetes.io/disk-pressure";
    pub const TAINT_PID_PRESSURE: &str = "node.kubernetes.io/pid-pressure";
    pub const TAINT_NETWORK_UNAVAILABLE: &str = "node.kubernetes.io/network-unavailable";
    pub const TAINT_OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
    pub const TAINT_CLOUD_UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";

    pub const FINALIZER_FOREGROUND: &str = "foregroundDeletion";
    pub const FINALIZER_ORPHAN: &str = "orphan";
    pub const FINALIZER_NAMESPACE: &str = "kubernetes";
    pub const FINALIZER_PVC_PROTECTION: &str = "kubernetes.io/pvc-protection";
    pub const FINALIZER_PV_PROTECTION: &str = "kubernetes.io/pv-protection";
    pub const FINALIZER_LOAD_BALANCER: &str = "service.kubernetes.io/load-balancer-cleanup";

    pub const USER_ANONYMOUS: &str = "system:anonymous";
    pub const USER_NODE_PREFIX: &str = "system:node:";
    pub const USER_SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
    pub const GROUP_MASTERS: &str = "system:masters";
    pub const GROUP_NODES: &str = "system:nodes";
    pub const GROUP_AUTHENTICATED: &str = "system:authenticated";
    pub const GROUP_UNAUTHENTICATED: &str = "system:unauthenticated";
    pub const GROUP_SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
    pub const GROUP_SERVICE_ACCOUNTS_PREFIX: &str = "system:serviceaccounts:";

    pub const NAMESPACE_DEFAULT: &str = "default";
    pub const NAMESPACE_SYSTEM: &str = "kube-system";
    pub const NAMESPACE_PUBLIC: &str = "kube-public";
    pub const NAMESPACE_NODE_LEASE: &str = "kube-node-lease";
}

/// Longest DNS label, and longest label value and name part of a qualified name.
pub const LABEL_MAX: usize = 63;
/// Longest DNS name.
pub const SUBDOMAIN_MAX: usize = 253;

const LABEL_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const SUBDOMAIN_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const QUALIFIED_FORMAT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_MESSAGE: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

fn regex_error(message: &str, format: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{format}')");
    }
    let mut text = format!("{message} (e.g. ");
    for (n, example) in examples.iter().enumerate() {
        if n > 0 {
            text.push_str(" or ");
        }
        text.push_str(&format!("'{example}', "));
    }
    text.push_str(&format!("regex used for validation is '{format}')"));
    text
}

/// The complaint about a value that is too long.
pub fn too_long(limit: usize) -> String {
    format!("must be no more than {limit} bytes")
}

/// The complaint about a value that is missing.
pub fn empty() -> String {
    "must be non-empty".to_owned()
}

/// The complaint about a number outside its range.
pub fn out_of_range(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// Starts and ends with `edge`, and consists of `inner` (which includes `edge`).
fn framed(value: &str, edge: fn(u8) -> bool, inner: fn(u8) -> bool) -> bool {
    match value.as_bytes() {
        [] => false,
        [only] => edge(*only),
        [first, middle @ .., last] => edge(*first) && edge(*last) && middle.iter().all(|b| inner(*b)),
    }
}

fn lower(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn lower_dash(b: u8) -> bool {
    lower(b) || b == b'-'
}

fn label_shape(value: &str) -> bool {
    framed(value, lower, lower_dash)
}

fn subdomain_shape(value: &str) -> bool {
    value.split('.').all(label_shape)
}

fn qualified_shape(value: &str) -> bool {
    framed(
        value,
        |b| b.is_ascii_alphanumeric(),
        |b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'),
    )
}

/// A DNS label in lower case: names of Namespaces, containers, ports of pods.
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_MAX {
        errors.push(too_long(LABEL_MAX));
    }
    if !label_shape(value) {
        // The order of the two tests is upstream's: a name that would do as a subdomain is told about the dot.
        if subdomain_shape(value) {
            errors.push("must not contain dots".to_owned());
        } else {
            errors.push(regex_error(LABEL_MESSAGE, LABEL_FORMAT, &["my-name", "123-abc"]));
        }
    }
    errors
}

/// A DNS name in lower case: names of most objects.
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        errors.push(too_long(SUBDOMAIN_MAX));
    }
    if !subdomain_shape(value) {
        errors.push(regex_error(SUBDOMAIN_MESSAGE, SUBDOMAIN_FORMAT, &["example.com"]));
    }
    errors
}

/// A DNS label that does not begin with a digit: names of Services before 1.34.
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_MAX {
        errors.push(too_long(LABEL_MAX));
    }
    if !label_shape(value) || !value.as_bytes()[0].is_ascii_lowercase() {
        errors.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    errors
}

/// A DNS name whose first label is `*`: hosts of Ingresses.
pub fn wildcard_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        errors.push(too_long(SUBDOMAIN_MAX));
    }
    if !value.strip_prefix("*.").is_some_and(subdomain_shape) {
        errors.push(regex_error(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!("\\*\\.{SUBDOMAIN_FORMAT}"),
            &["*.example.com"],
        ));
    }
    errors
}

/// The name of a label, annotation, taint, finalizer or resource: `[prefix/]name`.
pub fn qualified_name(value: &str) -> Vec<String> {
    const EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];
    let mut errors = Vec::new();
    let name = match value.split('/').collect::<Vec<_>>()[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push(format!("prefix part {}", empty()));
            } else {
                errors.extend(
                    dns1123_subdomain(prefix)
                        .into_iter()
                        .map(|e| format!("prefix part {e}")),
                );
            }
            name
        }
        _ => {
            errors.push(format!(
                "a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                regex_error(QUALIFIED_MESSAGE, QUALIFIED_FORMAT, EXAMPLES)
            ));
            return errors;
        }
    };
    if name.is_empty() {
        errors.push(format!("name part {}", empty()));
    } else if name.len() > LABEL_MAX {
        errors.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !qualified_shape(name) {
        errors.push(format!(
            "name part {}",
            regex_error(QUALIFIED_MESSAGE, QUALIFIED_FORMAT, EXAMPLES)
        ));
    }
    errors
}

/// The value of a label; empty is allowed.
pub fn label_value(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_MAX {
        errors.push(too_long(LABEL_MAX));
    }
    if !value.is_empty() && !qualified_shape(value) {
        errors.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            &format!("({QUALIFIED_FORMAT})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    errors
}

/// The strict form of an environment variable's name; `envFrom` keys and old objects.
pub fn env_var_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if value.is_empty() || value.as_bytes()[0].is_ascii_digit() || !value.bytes().all(ok) {
        errors.push(regex_error(
            "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit",
            "[-._a-zA-Z][-._a-zA-Z0-9]*",
            &["my.env-name", "MY_ENV.NAME", "MyEnvName1"],
        ));
    }
    errors.extend(dots(value));
    errors
}

/// The form of an environment variable's name that 1.34 and later accept: printable ASCII without `=`.
pub fn relaxed_env_var_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.is_empty() {
        errors.push(format!("environment variable name {}", empty()));
    }
    if value.chars().any(|c| !(' '..='~').contains(&c) || c == '=') {
        errors.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_owned(),
        );
    }
    errors
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        errors.push(too_long(SUBDOMAIN_MAX));
    }
    if value.is_empty()
        || !value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    {
        errors.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    errors.extend(dots(value));
    errors
}

/// Names that become file names must not climb.
fn dots(value: &str) -> Option<String> {
    match value {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if value.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// The name of a port that an endpoint or container gives (IANA service name).
pub fn port_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 15 {
        errors.push(too_long(15));
    }
    if value.is_empty() || !value.bytes().all(lower_dash) {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// A port number.
pub fn port_number(value: i64) -> Vec<String> {
    if (1..=65535).contains(&value) {
        Vec::new()
    } else {
        vec![out_of_range(1, 65535)]
    }
}

/// A name that stands between two slashes of a URL: names of RBAC objects, IPAddresses and the like.
pub fn path_segment(value: &str) -> Vec<String> {
    match value {
        "." => return vec!["may not be '.'".to_owned()],
        ".." => return vec!["may not be '..'".to_owned()],
        _ => {}
    }
    ["/", "%"]
        .iter()
        .filter(|c| value.contains(**c))
        .map(|c| format!("may not contain '{c}'"))
        .collect()
}

/// Whether [`dns1123_label`] has no complaint.
pub fn is_dns1123_label(value: &str) -> bool {
    value.len() <= LABEL_MAX && label_shape(value)
}

/// Whether [`dns1123_subdomain`] has no complaint.
pub fn is_dns1123_subdomain(value: &str) -> bool {
    value.len() <= SUBDOMAIN_MAX && subdomain_shape(value)
}

/// Whether [`qualified_name`] has no complaint.
pub fn is_qualified_name(value: &str) -> bool {
    qualified_name(value).is_empty()
}

/// Whether [`label_value`] has no complaint.
pub fn is_label_value(value: &str) -> bool {
    value.len() <= LABEL_MAX && (value.is_empty() || qualified_shape(value))
}

/// Whether [`env_var_name`] has no complaint.
pub fn is_env_var_name(value: &str) -> bool {
    env_var_name(value).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(complaints: Vec<String>, want: &[&str]) {
        assert_eq!(
            complaints
                .iter()
                .map(|c| c.split(" (").next().unwrap_or(c))
                .collect::<Vec<_>>(),
            want
        );
    }

    #[test]
    fn labels_and_subdomains() {
        for good in ["a", "0", "a-b", "123-abc", &"a".repeat(63)] {
            check(dns1123_label(good), &[]);
            check(dns1123_subdomain(good), &[]);
        }
        for good in ["a.b", "example.com", "1.2.3"] {
            check(dns1123_subdomain(good), &[]);
            check(dns1123_label(good), &["must not contain dots"]);
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a b", "ä"] {
            check(dns1123_label(bad), &[LABEL_MESSAGE]);
            check(dns1123_subdomain(bad), &[SUBDOMAIN_MESSAGE]);
        }
        for bad in ["a..b", ".a", "a."] {
            check(dns1123_subdomain(bad), &[SUBDOMAIN_MESSAGE]);
        }
        check(dns1123_label(&"a".repeat(64)), &["must be no more than 63 bytes"]);
        check(dns1123_subdomain(&"a".repeat(254)), &["must be no more than 253 bytes"]);
        assert!(!dns1035_label("1a").is_empty() && !dns1035_label("").is_empty() && dns1035_label("a1").is_empty());
        assert!(wildcard_dns1123_subdomain("*.a.b").is_empty() && !wildcard_dns1123_subdomain("*a.b").is_empty());
    }

    #[test]
    fn messages_are_upstreams_to_the_letter() {
        assert_eq!(
            dns1123_label("A"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(
            dns1123_subdomain("A"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
    }

    #[test]
    fn qualified_names() {
        for good in ["a", "A.b_c-1", "example.com/name", "1.2.3/4"] {
            check(qualified_name(good), &[]);
        }
        check(qualified_name("/a"), &["prefix part must be non-empty"]);
        assert_eq!(qualified_name("a/").len(), 2);
        assert_eq!(qualified_name("A/b").len(), 1);
        assert_eq!(qualified_name("a/b/c").len(), 1);
        check(
            qualified_name(&"a".repeat(64)),
            &["name part must be no more than 63 bytes"],
        );
    }

    #[test]
    fn other_names() {
        assert!(is_label_value("") && is_label_value("a_B.1") && !is_label_value("-a") && !is_label_value("a b"));
        assert!(
            is_env_var_name("A_b.c-1") && !is_env_var_name("1A") && !is_env_var_name("..a") && !is_env_var_name("")
        );
        assert!(relaxed_env_var_name("1 a:b").is_empty() && !relaxed_env_var_name("a=b").is_empty());
        assert!(config_map_key("a.b").is_empty() && config_map_key(".").len() == 1 && config_map_key("a/b").len() == 1);
        assert!(port_name("http").is_empty() && port_name("80").len() == 1 && port_name("a--b").len() == 1);
        assert!(path_segment("a:b").is_empty() && path_segment("..").len() == 1 && path_segment("a/%").len() == 2);
        assert!(port_number(1).is_empty() && port_number(65536).len() == 1);
    }
}
