//! Defaults of the core group: pods and what is in them, services, volumes, nodes.

use serde_json::{Value, json};

use super::{Rules, Tree, empty, has, inner, is_empty, is_true, items, made, put, put_pointer, text};

/// 0644: what files of secrets and config maps get.
const FILE_MODE: i32 = 0o644;

pub(super) const RULES: Rules = &[
    ("core/v1.Pod", pod),
    ("core/v1.PodSpec", pod_spec),
    ("core/v1.Container", container),
    ("core/v1.EphemeralContainer", container),
    ("core/v1.Probe", probe),
    ("core/v1.HTTPGetAction", http_get),
    ("core/v1.ObjectFieldSelector", |s| put(s, "apiVersion", "v1")),
    ("core/v1.Volume", volume),
    ("core/v1.ImageVolumeSource", image_volume),
    ("core/v1.SecretVolumeSource", file_mode),
    ("core/v1.ConfigMapVolumeSource", file_mode),
    ("core/v1.DownwardAPIVolumeSource", file_mode),
    ("core/v1.ProjectedVolumeSource", file_mode),
    ("core/v1.ServiceAccountTokenProjection", |s| {
        put(s, "expirationSeconds", 3600)
    }),
    ("core/v1.HostPathVolumeSource", |s| put_pointer(s, "type", "")),
    ("core/v1.PersistentVolumeClaim", |s| {
        put(made(s, "status"), "phase", "Pending")
    }),
    ("core/v1.PersistentVolumeClaimSpec", |s| {
        put_pointer(s, "volumeMode", "Filesystem")
    }),
    ("core/v1.PersistentVolume", |s| {
        put(made(s, "status"), "phase", "Pending")
    }),
    ("core/v1.PersistentVolumeSpec", persistent_volume),
    ("core/v1.Secret", |s| put(s, "type", "Opaque")),
    ("core/v1.Service", service),
    ("core/v1.Endpoints", endpoints),
    ("core/v1.Namespace", namespace),
    ("core/v1.NamespaceStatus", |s| put(s, "phase", "Active")),
    ("core/v1.NodeSpec", |s| {
        first_of(s, "podCIDR", "podCIDRs", |cidr| cidr.into())
    }),
    ("core/v1.NodeStatus", node_status),
    ("core/v1.PodStatus", |s| {
        first_of(s, "podIP", "podIPs", |ip| json!({"ip": ip}))
    }),
    ("core/v1.LimitRangeItem", limit_range_item),
    ("core/v1.ReplicationController", replication_controller),
];

fn pod(pod: &mut Tree) {
    let Some(spec) = inner(pod, "spec") else { return };
    put(spec, "enableServiceLinks", true);
    let host_network = is_true(spec, "hostNetwork");
    for list in ["containers", "initContainers"] {
        for container in items(spec, list) {
            if host_network {
                host_ports(container);
            }
            limits_are_requests(container);
        }
    }
    pod_requests(spec);
}

/// In the host's network a container port is a host port.
fn host_ports(container: &mut Tree) {
    for port in items(container, "ports") {
        let number = port.get("containerPort").cloned().unwrap_or(Value::Null);
        if !has(port, "hostPort") && number.as_i64() != Some(0) {
            put(port, "hostPort", number);
        }
    }
}

fn limits_are_requests(container: &mut Tree) {
    let Some(resources) = inner(container, "resources") else {
        return;
    };
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else {
        return;
    };
    if limits.is_empty() {
        return;
    }
    let requests = made(resources, "requests");
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
}

/// Requests of the pod as a whole, where it says something about them: what its containers ask together, or its limits.
fn pod_requests(spec: &mut Tree) {
    use api::quantity::Quantity;
    let supported = |name: &str| name == "cpu" || name == "memory" || name.starts_with("hugepages-");
    let Some(Value::Object(resources)) = spec.get("resources") else {
        return;
    };
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else {
        return;
    };
    if limits.is_empty() {
        return;
    }
    let requests_of = |container: &Value, name: &str| -> Option<Quantity> {
        let text = container.get("resources")?.get("requests")?.get(name)?.as_str()?;
        Quantity::parse(text).ok()
    };
    let list = |name: &str| spec.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let (containers, init) = (list("containers"), list("initContainers"));
    let mut asked = Tree::new();
    for name in ["cpu", "memory"] {
        let mut total: Option<Quantity> = None;
        let add = |total: &mut Option<Quantity>, more: Quantity| {
            *total = Some(match total.take() {
                Some(sum) => sum + more,
                None => more,
            });
        };
        for container in &containers {
            if let Some(more) = requests_of(container, name) {
                add(&mut total, more);
            }
        }
        // Init containers run one after the other, beside the sidecars started before them.
        let mut sidecars: Option<Quantity> = None;
        let mut peak: Option<Quantity> = None;
        for container in &init {
            let Some(more) = requests_of(container, name) else {
                continue;
            };
            let sidecar = container.get("restartPolicy").and_then(Value::as_str) == Some("Always");
            let mut at = sidecars;
            add(&mut at, more);
            if sidecar {
                sidecars = at;
                add(&mut total, more);
            }
            if at > peak {
                peak = at;
            }
        }
        if let Some(most) = total.max(peak) {
            asked.insert(name.into(), most.to_string().into());
        }
    }
    let Some(resources) = inner(spec, "resources") else {
        return;
    };
    let requests = made(resources, "requests");
    for (name, value) in asked {
        requests.entry(name).or_insert(value);
    }
    for (name, limit) in limits {
        if supported(&name) {
            requests.entry(name).or_insert(limit);
        }
    }
    if requests.is_empty() {
        resources.remove("requests");
    }
}

fn pod_spec(spec: &mut Tree) {
    put(spec, "dnsPolicy", "ClusterFirst");
    put(spec, "restartPolicy", "Always");
    put(spec, "securityContext", empty());
    put(spec, "terminationGracePeriodSeconds", 30);
    put(spec, "schedulerName", "default-scheduler");
}

fn container(container: &mut Tree) {
    let policy = pull_policy(text(container, "image"));
    put(container, "imagePullPolicy", policy);
    put(container, "terminationMessagePath", "/dev/termination-log");
    put(container, "terminationMessagePolicy", "File");
}

/// `Always` where the image is `latest`, said or not.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let last = name.rsplit('/').next().unwrap_or(name);
    let latest = match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => !digest,
    };
    // What is no image reference has no tag; validation refuses it later.
    const LONGEST: usize = 255;
    let implied = if name.contains('/') {
        0
    } else {
        "docker.io/library/".len()
    };
    let plausible = name.len() + implied <= LONGEST
        && !name.is_empty()
        && !name.contains(|c: char| c.is_whitespace() || c.is_control());
    let lower = |part: &str| !part.chars().any(|c| c.is_ascii_uppercase());
    let path = last.split(':').next().unwrap_or_default();
    if latest && plausible && lower(path) {
        "Always"
    } else {
        "IfNotPresent"
    }
}

fn probe(probe: &mut Tree) {
    put(probe, "timeoutSeconds", 1);
    put(probe, "periodSeconds", 10);
    put(probe, "successThreshold", 1);
    put(probe, "failureThreshold", 3);
}

fn http_get(action: &mut Tree) {
    put(action, "path", "/");
    put(action, "scheme", "HTTP");
}

fn volume(volume: &mut Tree) {
    if volume.iter().all(|(name, value)| name == "name" || value.is_null()) {
        put(volume, "emptyDir", empty());
    }
}

fn image_volume(source: &mut Tree) {
    let policy = pull_policy(text(source, "reference"));
    put(source, "pullPolicy", policy);
}

fn file_mode(source: &mut Tree) {
    put(source, "defaultMode", FILE_MODE);
}

fn persistent_volume(spec: &mut Tree) {
    put(spec, "persistentVolumeReclaimPolicy", "Retain");
    put_pointer(spec, "volumeMode", "Filesystem");
}

fn service(service: &mut Tree) {
    let spec = made(service, "spec");
    put(spec, "sessionAffinity", "None");
    put(spec, "type", "ClusterIP");
    match text(spec, "sessionAffinity") {
        "None" => drop(spec.remove("sessionAffinityConfig")),
        "ClientIP" => {
            let config = made(spec, "sessionAffinityConfig");
            if is_empty(config, "clientIP") || !has(made(config, "clientIP"), "timeoutSeconds") {
                put(made(config, "clientIP"), "timeoutSeconds", 10800);
            }
        }
        _ => {}
    }
    for port in items(spec, "ports") {
        put(port, "protocol", "TCP");
        let unset = match port.get("targetPort") {
            None | Some(Value::Null) => true,
            Some(Value::Number(number)) => number.as_i64() == Some(0),
            Some(Value::String(text)) => text.is_empty(),
            Some(_) => false,
        };
        if unset {
            let number = port.get("port").cloned().unwrap_or(json!(0));
            port.insert("targetPort".into(), number);
        }
    }
    let kind = text(spec, "type").to_owned();
    let outside =
        matches!(kind.as_str(), "NodePort" | "LoadBalancer") || kind == "ClusterIP" && !is_empty(spec, "externalIPs");
    if outside {
        put(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        put_pointer(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        put(spec, "allocateLoadBalancerNodePorts", true);
        if let Some(balancer) = inner(service, "status").and_then(|s| inner(s, "loadBalancer")) {
            for ingress in items(balancer, "ingress") {
                if !text(ingress, "ip").is_empty() {
                    put_pointer(ingress, "ipMode", "VIP");
                }
            }
        }
    }
}

fn endpoints(endpoints: &mut Tree) {
    for subset in items(endpoints, "subsets") {
        for port in items(subset, "ports") {
            put(port, "protocol", "TCP");
        }
    }
}

/// Every namespace carries its name as a label, so that selectors can name it.
fn namespace(namespace: &mut Tree) {
    const LABEL: &str = "kubernetes.io/metadata.name";
    let metadata = made(namespace, "metadata");
    let name = text(metadata, "name").to_owned();
    if !name.is_empty() {
        made(metadata, "labels").insert(LABEL.into(), name.into());
    }
}

/// A field that came before the list of its kind is the list's first value. Where they differ the older one counts,
/// because who writes it may not know the list.
fn first_of(object: &mut Tree, single: &str, list: &str, item: fn(&str) -> Value) {
    let value = text(object, single).to_owned();
    if !value.is_empty() && object.get(list).and_then(|l| l.get(0)) != Some(&item(&value)) {
        object.insert(list.to_owned(), json!([item(&value)]));
    }
    let first = object.get(list).and_then(|l| l.get(0)).cloned();
    let first = first.map(|first| first.get("ip").cloned().unwrap_or(first));
    if let Some(Value::String(first)) = first
        && !first.is_empty()
    {
        object.insert(single.to_owned(), first.into());
    }
}

fn node_status(status: &mut Tree) {
    if !has(status, "allocatable")
        && let Some(capacity @ Value::Object(_)) = status.get("capacity").cloned()
    {
        status.insert("allocatable".into(), capacity);
    }
}

/// For containers a maximum is also the default limit, a default limit also the default request.
fn limit_range_item(item: &mut Tree) {
    if text(item, "type") != "Container" {
        return;
    }
    for (from, to) in [
        ("max", "default"),
        ("default", "defaultRequest"),
        ("min", "defaultRequest"),
    ] {
        if let Some(Value::Object(given)) = item.get(from).cloned() {
            let target = made(item, to);
            for (name, value) in given {
                target.entry(name).or_insert(value);
            }
        }
    }
}

fn replication_controller(controller: &mut Tree) {
    labels_from_template(controller, true);
}

/// Objects without labels take those of their pod template; a missing selector too, where `selector` asks for it.
pub(super) fn labels_from_template(object: &mut Tree, selector: bool) {
    let Some(spec) = inner(object, "spec") else { return };
    let labels = spec
        .get("template")
        .and_then(|t| t.get("metadata"))
        .and_then(|m| m.get("labels"))
        .filter(|l| l.as_object().is_some_and(|l| !l.is_empty()))
        .cloned();
    let Some(labels) = labels else { return };
    if selector && is_empty(spec, "selector") {
        spec.insert("selector".into(), labels.clone());
    }
    let metadata = made(object, "metadata");
    if is_empty(metadata, "labels") {
        metadata.insert("labels".into(), labels);
    }
}
