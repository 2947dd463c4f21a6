//! What a cluster is born with beside its roles: namespaces, classes, the `kubernetes` Service, configuration for others.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Parameters, Wanted};

/// Upstream's system namespaces; `default` holds the `kubernetes` Service.
pub const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];
const SERVICE: &str = "kubernetes";

pub(super) fn wanted(parameters: &Parameters) -> Vec<Wanted> {
    let mut out: Vec<Wanted> = NAMESPACES.iter().map(|name| namespace(name)).collect();
    out.extend([
        priority_class(
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        priority_class(
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        service_cidr(parameters),
        service(parameters),
        authentication(parameters),
        token_tracking(parameters),
    ]);
    out.extend(endpoints(parameters));
    out
}

fn namespace(name: &str) -> Wanted {
    Wanted::new(
        "",
        "namespaces",
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"},
        }),
    )
}

fn priority_class(name: &str, value: i64, description: &str) -> Wanted {
    Wanted::new(
        "scheduling.k8s.io",
        "priorityclasses",
        json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value, "description": description, "preemptionPolicy": "PreemptLowerPriority",
        }),
    )
}

fn service_cidr(parameters: &Parameters) -> Wanted {
    Wanted::new(
        "networking.k8s.io",
        "servicecidrs",
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": {"name": SERVICE, "finalizers": ["networking.k8s.io/service-cidr-finalizer"]},
            "spec": {"cidrs": parameters.service_cidrs},
            "status": {"conditions": [{
                "type": "Ready", "status": "True", "reason": "", "lastTransitionTime": parameters.now.to_string(),
                "message": "Kubernetes Service CIDR is ready",
            }]},
        }),
    )
}

fn service(parameters: &Parameters) -> Wanted {
    let address = parameters.service_address.to_string();
    Wanted::new(
        "",
        "services",
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": SERVICE, "namespace": "default",
                "labels": {"component": "apiserver", "provider": "kubernetes"},
            },
            "spec": {
                "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
                "ipFamilies": [family(parameters.service_address)], "ipFamilyPolicy": "SingleStack",
                "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": parameters.port}],
            },
            "status": {"loadBalancer": {}},
        }),
    )
}

/// Where the `kubernetes` Service leads: this server. Kept as it is now, not as it was at birth.
fn endpoints(parameters: &Parameters) -> [Wanted; 2] {
    let address = parameters.advertise_address.to_string();
    let ports = json!([{"name": "https", "port": parameters.port, "protocol": "TCP"}]);
    let metadata = |labels: Value| json!({"name": SERVICE, "namespace": "default", "labels": labels});
    [
        Wanted::kept(
            "",
            "endpoints",
            json!({
                "apiVersion": "v1", "kind": "Endpoints",
                "metadata": metadata(json!({"endpointslice.kubernetes.io/skip-mirror": "true"})),
                "subsets": [{"addresses": [{"ip": address}], "ports": ports}],
            }),
        ),
        Wanted::kept(
            "discovery.k8s.io",
            "endpointslices",
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": metadata(json!({"kubernetes.io/service-name": SERVICE})),
                "addressType": family(parameters.advertise_address),
                "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
                "ports": ports,
            }),
        ),
    ]
}

fn family(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}

/// How an extension API server knows our users: read by every one of them.
fn authentication(parameters: &Parameters) -> Wanted {
    let list = |values: &[String]| Value::from(values).to_string();
    let mut data = serde_json::Map::new();
    if let Some(bundle) = &parameters.client_ca {
        data.insert("client-ca-file".into(), bundle.as_str().into());
    }
    if let Some(bundle) = &parameters.front_proxy_ca {
        let proxy = &parameters.front_proxy;
        data.insert("requestheader-client-ca-file".into(), bundle.as_str().into());
        for (key, values) in [
            ("requestheader-allowed-names", &proxy.allowed_names),
            ("requestheader-extra-headers-prefix", &proxy.extra_prefixes),
            ("requestheader-group-headers", &proxy.group_headers),
            ("requestheader-username-headers", &proxy.username_headers),
        ] {
            data.insert(key.into(), list(values).into());
        }
    }
    Wanted::kept(
        "",
        "configmaps",
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
            "data": data,
        }),
    )
}

fn token_tracking(parameters: &Parameters) -> Wanted {
    let day = parameters.now.strftime("%Y-%m-%d").to_string();
    Wanted::new(
        "",
        "configmaps",
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "kube-apiserver-legacy-service-account-token-tracking", "namespace": "kube-system"},
            "data": {"since": day},
        }),
    )
}
