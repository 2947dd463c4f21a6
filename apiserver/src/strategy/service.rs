//! Services and Endpoints (kubernetes/pkg/apis/core/validation/validation.go, ValidateService and ValidateEndpoints, 1.36).
//! Addresses and node ports come from admission, before any of this.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Map, Value};

use super::field::{Field, same};
use super::{Context, Shape, Strategy, format, meta, pod, template};
use crate::object::Object;
use crate::status::Errors;

const KUBELET_PORT: i64 = 10250;

#[derive(Debug)]
pub struct Services;

impl Strategy for Services {
    fn shape(&self) -> Shape {
        Shape::STATUS
    }
    fn prepare_update(&self, context: &Context<'_>, new: &mut Object, old: &Object) {
        self.shape().prepare_update(context, new, old);
        if context.subresource.is_empty() {
            drop_what_the_type_does_not_have(new, old);
        }
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        service(new, errors);
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        if context.subresource == "status" {
            return balancer(new, errors);
        }
        let (spec, was) = (Field::root(new, "spec"), Field::root(old, "spec"));
        let external = |spec: &Field| spec.get("type").str() == "ExternalName";
        if !external(&spec) && !external(&was) {
            // Addresses may be added and the second taken away, but the first stays.
            let (ips, before) = (spec.get("clusterIPs"), was.get("clusterIPs"));
            for (index, (now, then)) in ips.items().zip(before.items()).enumerate() {
                if now.str() != then.str() && (index == 0 || ips.len() == before.len()) {
                    now.invalid_as(errors, ips.shown().clone(), "may not change once set");
                }
            }
            let (families, before) = (spec.get("ipFamilies"), was.get("ipFamilies"));
            if let (Some(now), Some(then)) = (families.items().next(), before.items().next())
                && now.str() != then.str()
            {
                now.invalid_as(errors, families.shown().clone(), "may not change once set");
            }
        }
        let balancer = |spec: &Field| spec.get("type").str() == "LoadBalancer";
        let class = spec.get("loadBalancerClass");
        if balancer(&spec) && balancer(&was) && !same(class.value(), was.get("loadBalancerClass").value()) {
            class.invalid(errors, "may not change once set");
        }
        service(new, errors);
    }
    fn warnings(&self, _context: &Context<'_>, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let spec = Field::root(new, "spec");
        let (kind, outside) = (spec.get("type").str(), !spec.get("externalIPs").is_empty());
        let headless = kind == "ClusterIP" && spec.get("clusterIP").str() == "None";
        let by_name = kind == "ExternalName";
        let mut out = Vec::new();
        let mut warn = |when: bool, text: &str| {
            if when {
                out.push(text.to_owned());
            }
        };
        let annotations = Field::root(new, "metadata.annotations");
        warn(
            annotations.key("service.kubernetes.io/topology-aware-hints").present(),
            "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead",
        );
        warn(
            headless && !spec.get("loadBalancerIP").str().is_empty(),
            "spec.loadBalancerIP is ignored for headless services",
        );
        warn(headless && outside, "spec.externalIPs is ignored for headless services");
        warn(
            headless && spec.get("sessionAffinity").str() != "None",
            "spec.SessionAffinity is ignored for headless services",
        );
        warn(
            outside && !headless && !by_name,
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
        );
        warn(
            by_name && outside,
            "spec.externalIPs is ignored when spec.type is \"ExternalName\"",
        );
        warn(
            !by_name && !spec.get("externalName").str().is_empty(),
            "spec.externalName is ignored when spec.type is not \"ExternalName\"",
        );
        warn(
            spec.get("trafficDistribution").str() == "PreferClose",
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
        );
        out
    }
}

fn needs_cluster_ip(spec: &Map<String, Value>) -> bool {
    spec.get("type").is_some_and(|t| t != "ExternalName")
}
fn needs_node_port(spec: &Map<String, Value>) -> bool {
    match spec.get("type").and_then(Value::as_str) {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec.get("allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)),
        _ => false,
    }
}
fn is_balancer(spec: &Map<String, Value>) -> bool {
    spec.get("type").is_some_and(|t| t == "LoadBalancer")
}
fn is_external(spec: &Map<String, Value>) -> bool {
    match spec.get("type").and_then(Value::as_str) {
        Some("NodePort" | "LoadBalancer") => true,
        Some("ClusterIP") => spec
            .get("externalIPs")
            .and_then(Value::as_array)
            .is_some_and(|ips| !ips.is_empty()),
        _ => false,
    }
}
fn needs_health_check(spec: &Map<String, Value>) -> bool {
    is_balancer(spec) && spec.get("externalTrafficPolicy").is_some_and(|p| p == "Local")
}

/// Whoever changes the type need not know what the old one brought with it: it goes unless it was changed too.
fn drop_what_the_type_does_not_have(new: &mut Object, old: &Object) {
    let empty = Map::new();
    let was = old.0.get("spec").and_then(Value::as_object).unwrap_or(&empty);
    let spec = new.entry("spec");
    let unchanged = |spec: &Map<String, Value>, name: &str| same(spec.get(name), was.get(name));
    if needs_cluster_ip(was) && !needs_cluster_ip(spec) {
        if unchanged(spec, "clusterIP") && unchanged(spec, "clusterIPs") {
            spec.remove("clusterIP");
            spec.remove("clusterIPs");
        }
        for name in ["ipFamilies", "ipFamilyPolicy"] {
            if unchanged(spec, name) {
                spec.remove(name);
            }
        }
    }
    if needs_node_port(was) && !needs_node_port(spec) {
        let ports = |spec: &Map<String, Value>| -> BTreeSet<i64> {
            let list = spec.get("ports").and_then(Value::as_array).into_iter().flatten();
            list.filter_map(|port| port.get("nodePort")?.as_i64()).collect()
        };
        if ports(spec) == ports(was) {
            for port in template::objects(spec, "ports") {
                port.remove("nodePort");
            }
        }
    }
    type Has = fn(&Map<String, Value>) -> bool;
    let of_types: [(&str, Has); 4] = [
        ("healthCheckNodePort", needs_health_check),
        ("allocateLoadBalancerNodePorts", is_balancer),
        ("loadBalancerClass", is_balancer),
        ("externalTrafficPolicy", is_external),
    ];
    for (name, has) in of_types {
        if has(was) && !has(spec) && unchanged(spec, name) {
            spec.remove(name);
        }
    }
}

fn service(new: &Object, errors: &mut Errors) {
    let spec = Field::root(new, "spec");
    let empty = Map::new();
    let map = spec.map().unwrap_or(&empty);
    let headless = spec.get("clusterIP").str() == "None";
    let kind = spec.get("type");
    let ports = spec.get("ports");
    if ports.is_empty() && !headless && kind.str() != "ExternalName" {
        ports.required(errors, "");
    }
    let ips = spec.get("clusterIPs");
    match kind.str() {
        "LoadBalancer" => {
            for port in ports.items() {
                if port.get("port").number() == KUBELET_PORT {
                    port.invalid_as(
                        errors,
                        KUBELET_PORT,
                        &format!("may not expose port {KUBELET_PORT} externally since it is used by kubelet"),
                    );
                }
            }
            if headless && let Some(first) = ips.items().next() {
                first.invalid(errors, "may not be set to 'None' for LoadBalancer services");
            }
        }
        "NodePort" if headless => {
            if let Some(first) = ips.items().next() {
                first.invalid(errors, "may not be set to 'None' for NodePort services");
            }
        }
        "ExternalName" => {
            for name in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if !spec.get(name).is_zero() {
                    spec.get(name)
                        .forbidden(errors, "may not be set for ExternalName services");
                }
            }
            let name = spec.get("externalName");
            match name.str().strip_suffix('.').unwrap_or(name.str()) {
                "" => name.required(errors, ""),
                host => name.each_invalid(errors, format::dns_subdomain(host)),
            }
        }
        _ => {}
    }
    service_ports(&ports, kind.str(), errors);
    meta::labels(&spec.get("selector"), errors);
    affinity(&spec, errors);
    addresses(&spec, headless, errors);
    for ip in spec.get("externalIPs").items() {
        let problems = format::ip(ip.str());
        if problems.is_empty() {
            not_special(&ip, errors);
        }
        ip.each_invalid(errors, problems);
    }
    if kind.str().is_empty() {
        kind.required(errors, "");
    } else {
        kind.one_of(errors, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    }
    balancer_fields(&spec, errors);

    let policy = spec.get("externalTrafficPolicy");
    if is_external(map) {
        if policy.str().is_empty() {
            policy.required(errors, "");
        } else {
            policy.one_of(errors, &["Cluster", "Local"]);
        }
    } else if !policy.str().is_empty() {
        policy.invalid(errors, "may only be set for externally-accessible services");
    }
    let check = spec.get("healthCheckNodePort");
    match (needs_health_check(map), check.number()) {
        (false, 0) => {}
        (false, _) => check.invalid(
            errors,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ),
        (true, 0) => check.required(errors, ""),
        (true, port) => check.each_invalid(errors, format::port_number(port)),
    }
    let internal = spec.get("internalTrafficPolicy");
    if internal.present() {
        internal.one_of(errors, &["Cluster", "Local"]);
    } else if matches!(kind.str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        internal.required(errors, "");
    }
    let distribution = spec.get("trafficDistribution");
    if distribution.present() {
        distribution.one_of(errors, &["PreferClose", "PreferSameNode", "PreferSameZone"]);
    }
}

fn service_ports(ports: &Field, kind: &str, errors: &mut Errors) {
    let (mut names, mut numbers, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for port in ports.items() {
        let (name, number, protocol, node) = (
            port.get("name"),
            port.get("port"),
            port.get("protocol"),
            port.get("nodePort"),
        );
        if name.str().is_empty() {
            if ports.len() > 1 {
                name.required(errors, "");
            }
        } else {
            name.each_invalid(errors, format::dns_label(name.str()));
            if !names.insert(name.str()) {
                name.duplicate(errors);
            }
        }
        for message in format::port_number(number.number()) {
            number.invalid_as(errors, number.number(), &message);
        }
        if protocol.str().is_empty() {
            protocol.required(errors, "");
        } else {
            protocol.one_of(errors, &["SCTP", "TCP", "UDP"]);
        }
        pod::port_or_name(&port.get("targetPort"), errors);
        application(&port.get("appProtocol"), errors);
        if !numbers.insert((protocol.str(), number.number())) {
            let key = serde_json::json!({"protocol": protocol.str(), "port": number.number()});
            port.duplicate_as(errors, key);
        }
        if node.number() != 0 {
            if kind == "ClusterIP" {
                node.forbidden(errors, "may not be used when `type` is 'ClusterIP'");
            }
            if !node_ports.insert((protocol.str(), node.number())) {
                node.duplicate(errors);
            }
        }
    }
}

/// The protocol above TCP.
fn application(field: &Field, errors: &mut Errors) {
    if field.present() {
        field.each_invalid(errors, format::qualified_name(field.str()));
    }
}

fn affinity(spec: &Field, errors: &mut Errors) {
    const DAY: i64 = 86400;
    let (affinity, config) = (spec.get("sessionAffinity"), spec.get("sessionAffinityConfig"));
    match affinity.str() {
        "" => affinity.required(errors, ""),
        "ClientIP" => {
            let seconds = config.get("clientIP.timeoutSeconds");
            if !config.present() {
                config.required(errors, "when session affinity type is ClientIP");
            } else if !config.get("clientIP").present() {
                config
                    .get("clientIP")
                    .required(errors, "when session affinity type is ClientIP");
            } else if !seconds.present() {
                seconds.required(errors, "when session affinity type is ClientIP");
            } else if !(1..=DAY).contains(&seconds.number()) {
                seconds.invalid(errors, &format!("must be greater than 0 and less than {DAY}"));
            }
        }
        "None" => {
            if config.present() {
                config.forbidden(errors, "must not be set when session affinity is None");
            }
        }
        _ => affinity.unsupported(errors, &["ClientIP", "None"]),
    }
}

fn addresses(spec: &Field, headless: bool, errors: &mut Errors) {
    if spec.get("type").str() == "ExternalName" {
        return;
    }
    let (one, all, families, policy) = (
        spec.get("clusterIP"),
        spec.get("clusterIPs"),
        spec.get("ipFamilies"),
        spec.get("ipFamilyPolicy"),
    );
    match all.strings().next() {
        Some(_) if one.str().is_empty() => {
            all.invalid(errors, "must be empty when `clusterIP` is not specified");
        }
        Some(first) if first != one.str() => all.invalid(errors, "first value must match `clusterIP`"),
        None if !one.str().is_empty() => all.required(errors, "must be set when `clusterIP` is specified"),
        _ => {}
    }
    let mut seen = BTreeSet::new();
    for family in families.items() {
        if family.one_of(errors, &["IPv4", "IPv6"]) && !seen.insert(family.str()) {
            family.duplicate(errors);
        }
    }
    if policy.present() {
        policy.one_of(errors, &["PreferDualStack", "RequireDualStack", "SingleStack"]);
    }
    let mut good = true;
    for (index, ip) in all.items().enumerate() {
        if index == 0 && ip.str() == "None" {
            if all.len() > 1 {
                good = false;
                all.invalid(errors, "'None' must be the first and only value");
            }
            continue;
        }
        let problems = format::ip(ip.str());
        good &= problems.is_empty();
        ip.each_invalid(errors, problems);
    }
    if all.len() > 2 {
        all.invalid(errors, "may only hold up to 2 values");
    }
    if !good || headless {
        return;
    }
    let is_v4 = |text: &str| text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4());
    let ips: Vec<&str> = all.strings().collect();
    if ips.len() > 1 && is_v4(ips[0]) == is_v4(ips[1]) {
        all.invalid(errors, "may specify no more than one IP for each IP family");
    }
    for (index, (ip, family)) in all.items().zip(families.strings()).enumerate() {
        if is_v4(ip.str()) != (family == "IPv4") {
            ip.invalid(
                errors,
                &format!("expected an {family} value as indicated by `ipFamilies[{index}]`"),
            );
        }
    }
}

fn balancer_fields(spec: &Field, errors: &mut Errors) {
    let is_balancer = spec.get("type").str() == "LoadBalancer";
    let ranges = spec.get("loadBalancerSourceRanges");
    if !ranges.is_empty() {
        if is_balancer {
            for range in ranges.items() {
                range.each_invalid(errors, format::cidr(range.str().trim()));
            }
        } else {
            spec.get("LoadBalancerSourceRanges")
                .forbidden(errors, "may only be used when `type` is 'LoadBalancer'");
        }
    }
    let allocate = spec.get("allocateLoadBalancerNodePorts");
    if is_balancer && !allocate.present() {
        allocate.required(errors, "");
    } else if !is_balancer && allocate.present() {
        allocate.forbidden(errors, "may only be used when `type` is 'LoadBalancer'");
    }
    let class = spec.get("loadBalancerClass");
    if class.present() {
        if is_balancer {
            class.each_invalid(errors, format::qualified_name(class.str()));
        } else {
            class.forbidden(errors, "may only be used when `type` is 'LoadBalancer'");
        }
    }
}

/// `status.loadBalancer`.
fn balancer(service: &Object, errors: &mut Errors) {
    let points = Field::root(service, "status.loadBalancer.ingress");
    if !points.is_empty() && service.str_at(&["spec", "type"]) != "LoadBalancer" {
        points.forbidden(errors, "may only be used when `spec.type` is 'LoadBalancer'");
    }
    for point in points.items() {
        let (ip, mode, host) = (point.get("ip"), point.get("ipMode"), point.get("hostname"));
        if !ip.str().is_empty() {
            ip.each_invalid(errors, format::ip(ip.str()));
            if !mode.present() {
                mode.required(errors, "must be specified when `ip` is set");
            }
        } else if mode.present() {
            mode.forbidden(errors, "may not be specified when `ip` is not set");
        }
        if mode.present() {
            mode.one_of(errors, &["Proxy", "VIP"]);
        }
        if !host.str().is_empty() {
            host.each_invalid(errors, format::dns_subdomain(host.str()));
            if host.str().parse::<IpAddr>().is_ok() {
                host.invalid(errors, "must be a DNS name, not an IP address");
            }
        }
    }
}

/// Addresses that mean the host itself or its link are no endpoints.
pub fn not_special(field: &Field, errors: &mut Errors) {
    let Ok(ip) = field.str().parse::<IpAddr>() else { return };
    if ip.is_unspecified() {
        field.invalid(errors, &format!("may not be unspecified ({})", field.str()));
    }
    if ip.is_loopback() {
        field.invalid(errors, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let (local, multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.segments()[0] & 0xff0f == 0xff02),
    };
    if local {
        field.invalid(errors, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if multicast {
        field.invalid(
            errors,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        );
    }
}

#[derive(Debug)]
pub struct Endpoints;

impl Strategy for Endpoints {
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        for subset in Field::root(new, "subsets").items() {
            let (ready, not_ready, ports) = (
                subset.get("addresses"),
                subset.get("notReadyAddresses"),
                subset.get("ports"),
            );
            if ready.is_empty() && not_ready.is_empty() {
                subset.required(errors, "must specify `addresses` or `notReadyAddresses`");
            }
            for address in ready.items().chain(not_ready.items()) {
                let (ip, host) = (address.get("ip"), address.get("hostname"));
                ip.each_invalid(errors, format::ip(ip.str()));
                if !host.str().is_empty() {
                    host.each_invalid(errors, format::dns_label(host.str()));
                }
                let node = address.get("nodeName");
                if node.present() {
                    node.each_invalid(errors, format::dns_subdomain(node.str()));
                }
                not_special(&ip, errors);
            }
            for port in ports.items() {
                let (name, number, protocol) = (port.get("name"), port.get("port"), port.get("protocol"));
                if !name.str().is_empty() {
                    name.each_invalid(errors, format::dns_label(name.str()));
                } else if ports.len() > 1 {
                    name.required(errors, "");
                }
                for message in format::port_number(number.number()) {
                    number.invalid_as(errors, number.number(), &message);
                }
                if protocol.str().is_empty() {
                    protocol.required(errors, "");
                } else {
                    protocol.one_of(errors, &["SCTP", "TCP", "UDP"]);
                }
                application(&port.get("appProtocol"), errors);
            }
        }
    }
    fn warnings(&self, _context: &Context<'_>, _new: &Object, _old: Option<&Object>) -> Vec<String> {
        vec!["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".into()]
    }
}

#[derive(Debug)]
pub struct Slices;

impl Strategy for Slices {
    fn shape(&self) -> Shape {
        Shape::COUNTED
    }
    fn prepare_create(&self, _context: &Context<'_>, new: &mut Object) {
        self.shape().prepare_create(new);
        drop_beta_topology(new);
    }
    fn prepare_update(&self, context: &Context<'_>, new: &mut Object, old: &Object) {
        if !same(new.0.get("endpoints"), old.0.get("endpoints")) {
            drop_beta_topology(new);
        }
        self.shape().prepare_update(context, new, old);
        // Labels say which service it is: a change of them counts too.
        if !same(new.at(&["metadata", "labels"]), old.at(&["metadata", "labels"])) {
            super::bump_generation(new, old);
        }
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        const MOST: usize = 1000;
        const MOST_ADDRESSES: usize = 100;
        const MOST_PORTS: usize = 20_000;
        let kind = Field::root(new, "addressType");
        if kind.str().is_empty() {
            kind.required(errors, "");
        } else {
            kind.one_of(errors, &["FQDN", "IPv4", "IPv6"]);
        }
        let (endpoints, ports) = (Field::root(new, "endpoints"), Field::root(new, "ports"));
        if endpoints.len() > MOST {
            errors.too_many(endpoints, endpoints.len(), MOST);
        }
        for endpoint in endpoints.items() {
            let addresses = endpoint.get("addresses");
            if addresses.is_empty() {
                addresses.required(errors, "must contain at least 1 address");
            } else if addresses.len() > MOST_ADDRESSES {
                errors.too_many(addresses, addresses.len(), MOST_ADDRESSES);
            }
            for address in addresses.items() {
                slice_address(&address, kind.str(), errors);
            }
            let (node, host) = (endpoint.get("nodeName"), endpoint.get("hostname"));
            if node.present() {
                node.each_invalid(errors, format::dns_subdomain(node.str()));
            }
            if host.present() {
                host.each_invalid(errors, format::dns_label(host.str()));
            }
            for (hint, most) in [("hints.forZones", 8), ("hints.forNodes", 8)] {
                let list = endpoint.get(hint);
                if list.len() > most {
                    errors.too_many(list, list.len(), most);
                }
                let mut seen = BTreeSet::new();
                for item in list.items() {
                    let name = item.get("name");
                    if !seen.insert(name.str()) {
                        name.duplicate(errors);
                    }
                    if name.str().is_empty() {
                        name.required(errors, "");
                    }
                }
            }
        }
        if ports.len() > MOST_PORTS {
            errors.too_many(ports, ports.len(), MOST_PORTS);
        }
        let mut names = BTreeSet::new();
        for port in ports.items() {
            // Any number is taken for the port itself: upstream has never looked at it.
            let (name, protocol) = (port.get("name"), port.get("protocol"));
            if !name.str().is_empty() {
                name.each_invalid(errors, format::dns_label(name.str()));
            }
            if !names.insert(name.str()) {
                name.duplicate(errors);
            }
            if protocol.present() {
                protocol.one_of(errors, &["SCTP", "TCP", "UDP"]);
            } else {
                protocol.required(errors, "");
            }
            application(&port.get("appProtocol"), errors);
        }
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(context, new, errors);
        let kind = Field::root(new, "addressType");
        if !same(kind.value(), old.0.get("addressType")) {
            kind.invalid(errors, super::field::IMMUTABLE);
        }
    }
    fn warnings(&self, _context: &Context<'_>, new: &Object, _old: Option<&Object>) -> Vec<String> {
        if new.str_at(&["addressType"]) == "FQDN" {
            vec!["addressType: FQDN endpoints are deprecated".into()]
        } else {
            Vec::new()
        }
    }
}

/// v1 took over what it needs of this map as fields.
fn drop_beta_topology(slice: &mut Object) {
    for endpoint in template::objects(&mut slice.0, "endpoints") {
        endpoint.remove("deprecatedTopology");
    }
}

fn slice_address(address: &Field, kind: &str, errors: &mut Errors) {
    let parsed = address.str().parse::<IpAddr>().ok();
    match kind {
        "IPv4" if !parsed.is_some_and(|ip| ip.is_ipv4()) => address.invalid(errors, "must be a valid IPv4 address"),
        "IPv6" if !parsed.is_some_and(|ip| ip.is_ipv6()) => address.invalid(errors, "must be a valid IPv6 address"),
        "IPv4" | "IPv6" => not_special(address, errors),
        "FQDN" => {
            let name = address.str().strip_suffix('.').unwrap_or(address.str());
            address.each_invalid(errors, format::dns_subdomain(name));
            if !name.contains('.') {
                address.invalid(
                    errors,
                    "should be a domain with at least two segments separated by dots",
                );
            }
        }
        _ => {}
    }
}
