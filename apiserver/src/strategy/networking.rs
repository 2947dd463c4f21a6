//! networking.k8s.io: ingresses, their classes, policies, service ranges and addresses
//! (kubernetes/pkg/apis/networking/validation/validation.go, 1.36).

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::field::{Field, IMMUTABLE, same};
use super::{Context, Shape, Strategy, format, meta, pod};
use crate::object::Object;
use crate::status::Errors;

#[derive(Debug)]
pub struct Ingresses;

impl Strategy for Ingresses {
    fn shape(&self) -> Shape {
        Shape::FULL
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        const OLD_CLASS: &str = "kubernetes.io/ingress.class";
        let annotations = Field::root(new, "metadata.annotations");
        if annotations.key(OLD_CLASS).present() && Field::root(new, "spec.ingressClassName").present() {
            Field::at(
                annotations.key(OLD_CLASS).value(),
                "annotations.kubernetes.io/ingress.class",
            )
            .invalid(errors, "can not be set when the class field is also set");
        }
        ingress_spec(new, errors);
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, _old: &Object, errors: &mut Errors) {
        if context.subresource == "status" {
            for point in Field::root(new, "status.loadBalancer.ingress").items() {
                let (ip, host) = (point.get("ip"), point.get("hostname"));
                if !ip.str().is_empty() {
                    ip.each_invalid(errors, format::ip(ip.str()));
                }
                if !host.str().is_empty() {
                    host.each_invalid(errors, format::dns_subdomain(host.str()));
                }
            }
            return;
        }
        ingress_spec(new, errors);
    }
    fn warnings(&self, _context: &Context<'_>, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let annotations = Field::root(new, "metadata.annotations");
        if annotations.key("kubernetes.io/ingress.class").present() {
            vec![
                "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead"
                    .into(),
            ]
        } else {
            Vec::new()
        }
    }
}

fn ingress_spec(new: &Object, errors: &mut Errors) {
    let spec = Field::root(new, "spec");
    let (rules, default, class) = (
        spec.get("rules"),
        spec.get("defaultBackend"),
        spec.get("ingressClassName"),
    );
    if rules.is_empty() && !default.present() {
        spec.invalid_as(
            errors,
            rules.shown().clone(),
            "either `defaultBackend` or `rules` must be specified",
        );
    }
    for rule in rules.items() {
        ingress_rule(&rule, errors);
    }
    if default.present() {
        backend(&default, errors);
    }
    for tls in spec.get("tls").items() {
        for host in tls.get("hosts").items() {
            host_name(&host, errors);
        }
        let secret = tls.get("secretName");
        if !secret.str().is_empty() {
            secret.each_invalid(errors, format::dns_subdomain(secret.str()));
        }
    }
    if class.present() {
        class.each_invalid(errors, format::dns_subdomain(class.str()));
    }
}

fn host_name(host: &Field, errors: &mut Errors) {
    let check = if host.str().contains('*') {
        format::wildcard_subdomain
    } else {
        format::dns_subdomain
    };
    host.each_invalid(errors, check(host.str()));
}

fn ingress_rule(rule: &Field, errors: &mut Errors) {
    let host = rule.get("host");
    if !host.str().is_empty() {
        if host.str().parse::<IpAddr>().is_ok() {
            host.invalid(errors, "must be a DNS name, not an IP address");
        }
        host_name(&host, errors);
    }
    let http = rule.get("http");
    if !http.present() {
        return;
    }
    let paths = http.get("paths");
    if paths.is_empty() {
        paths.required(errors, "");
    }
    for path in paths.items() {
        let (kind, text) = (path.get("pathType"), path.get("path"));
        match kind.str() {
            _ if !kind.present() => kind.required(errors, "pathType must be specified"),
            "Exact" | "Prefix" => {
                if !text.str().starts_with('/') {
                    text.invalid(errors, "must be an absolute path");
                }
                for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                    if text.str().contains(bad) {
                        text.invalid(errors, &format!("must not contain '{bad}'"));
                    }
                }
                for bad in ["/..", "/."] {
                    if text.str().ends_with(bad) {
                        text.invalid(errors, &format!("cannot end with '{bad}'"));
                    }
                }
            }
            "ImplementationSpecific" => {
                if !text.str().is_empty() && !text.str().starts_with('/') {
                    text.invalid(errors, "must be an absolute path");
                }
            }
            _ => kind.unsupported(errors, &["Exact", "ImplementationSpecific", "Prefix"]),
        }
        backend(&path.get("backend"), errors);
    }
}

fn backend(field: &Field, errors: &mut Errors) {
    let (service, resource) = (field.get("service"), field.get("resource"));
    match (service.present(), resource.present()) {
        (true, true) => field.invalid_as(errors, "", "cannot set both resource and service backends"),
        (false, false) => field.invalid_as(errors, "", "resource or service backend is required"),
        (false, true) => {
            for name in ["kind", "name"] {
                if resource.get(name).str().is_empty() {
                    resource.get(name).required(errors, "");
                }
            }
            let group = resource.get("apiGroup");
            if group.present() {
                group.each_invalid(errors, format::dns_subdomain(group.str()));
            }
        }
        (true, false) => {
            let (name, port) = (service.get("name"), service.get("port"));
            if name.str().is_empty() {
                name.required(errors, "");
            } else {
                name.each_invalid(errors, format::dns_1035_label(name.str()));
            }
            let (by_name, by_number) = (port.get("name"), port.get("number"));
            match (by_name.str(), by_number.number()) {
                ("", 0) => field.required(errors, "port name or number is required"),
                ("", number) => by_number.each_invalid(errors, format::port_number(number)),
                (name, 0) => by_name.each_invalid(errors, format::port_name(name)),
                _ => field.invalid_as(errors, "", "cannot set both port name & port number"),
            }
        }
    }
}

#[derive(Debug)]
pub struct IngressClasses;

impl Strategy for IngressClasses {
    fn shape(&self) -> Shape {
        Shape::COUNTED
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        const LONGEST: usize = 250;
        let controller = Field::root(new, "spec.controller");
        if controller.str().is_empty() {
            controller.required(errors, "");
        } else {
            if controller.str().len() > LONGEST {
                errors.too_long(controller, LONGEST);
            }
            domain_path(&controller, errors);
        }
        let parameters = Field::root(new, "spec.parameters");
        if !parameters.present() {
            return;
        }
        let group = parameters.get("apiGroup");
        if group.present() {
            group.each_invalid(errors, format::dns_subdomain(group.str()));
        }
        for name in ["kind", "name"] {
            let field = parameters.get(name);
            if field.str().is_empty() {
                field.required(errors, "");
            } else {
                field.each_invalid(errors, format::path_segment(field.str()));
            }
        }
        let (scope, namespace) = (parameters.get("scope"), parameters.get("namespace"));
        match scope.str() {
            _ if !scope.present() => scope.required(errors, ""),
            "Namespace" if namespace.str().is_empty() => {
                namespace.required(errors, "`parameters.scope` is set to 'Namespace'");
            }
            "Namespace" => namespace.each_invalid(errors, format::dns_label(namespace.str())),
            "Cluster" => {
                if namespace.present() {
                    namespace.forbidden(errors, "`parameters.scope` is set to 'Cluster'");
                }
            }
            _ => scope.unsupported(errors, &["Cluster", "Namespace"]),
        }
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(context, new, errors);
        let controller = Field::root(new, "spec.controller");
        if controller.str() != old.str_at(&["spec", "controller"]) {
            controller.invalid(errors, IMMUTABLE);
        }
    }
}

/// `acme.io/foo`.
fn domain_path(field: &Field, errors: &mut Errors) {
    let Some((host, path)) = field
        .str()
        .split_once('/')
        .filter(|(host, path)| !host.is_empty() && !path.is_empty())
    else {
        return field.invalid(errors, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    };
    for message in format::dns_subdomain(host) {
        field.invalid_as(errors, host, &message);
    }
    let good = path
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b));
    if !good {
        field.invalid_as(
            errors,
            path,
            "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')",
        );
    }
}

#[derive(Debug)]
pub struct Policies;

impl Strategy for Policies {
    fn shape(&self) -> Shape {
        Shape::COUNTED
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let spec = Field::root(new, "spec");
        meta::label_selector(&spec.get("podSelector"), errors);
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            for rule in spec.get(direction).items() {
                for port in rule.get("ports").items() {
                    policy_port(&port, errors);
                }
                for peer in rule.get(peers).items() {
                    policy_peer(&peer, errors);
                }
            }
        }
        let kinds = spec.get("policyTypes");
        if kinds.len() > 2 {
            return kinds.invalid(errors, "may not specify more than two policyTypes");
        }
        for kind in kinds.items() {
            kind.one_of(errors, &["Egress", "Ingress"]);
        }
    }
}

fn policy_port(port: &Field, errors: &mut Errors) {
    let (protocol, number, end) = (port.get("protocol"), port.get("port"), port.get("endPort"));
    if protocol.present() {
        protocol.one_of(errors, &["SCTP", "TCP", "UDP"]);
    }
    if number.present() {
        pod::port_or_name(&number, errors);
    }
    if !end.present() {
        return;
    }
    if !number.present() {
        return end.invalid(errors, "may not be specified when `port` is not specified");
    }
    if number.value().is_some_and(serde_json::Value::is_string) {
        return end.invalid(errors, "may not be specified when `port` is non-numeric");
    }
    if end.number() < number.number() {
        end.invalid(errors, "must be greater than or equal to `port`");
    }
    end.each_invalid(errors, format::port_number(end.number()));
}

fn policy_peer(peer: &Field, errors: &mut Errors) {
    let (pods, namespaces, block) = (
        peer.get("podSelector"),
        peer.get("namespaceSelector"),
        peer.get("ipBlock"),
    );
    meta::label_selector(&pods, errors);
    meta::label_selector(&namespaces, errors);
    let others = pods.present() || namespaces.present();
    if !block.present() {
        if !others {
            peer.required(errors, "must specify a peer");
        }
        return;
    }
    if others {
        peer.forbidden(errors, "may not specify both ipBlock and another peer");
    }
    let cidr = block.get("cidr");
    if cidr.str().is_empty() {
        return cidr.required(errors, "");
    }
    cidr.each_invalid(errors, format::cidr(cidr.str()));
    let whole = format::parse_cidr(cidr.str());
    for except in block.get("except").items() {
        match (whole, format::parse_cidr(except.str())) {
            (_, None) => except.each_invalid(errors, format::cidr(except.str())),
            (Some(whole), Some(part)) if !(contains(whole, part.0) && part.1 > whole.1) => {
                except.invalid(errors, "must be a strict subset of `cidr`");
            }
            _ => {}
        }
    }
}

fn contains((base, length): (IpAddr, u8), ip: IpAddr) -> bool {
    match (base, ip) {
        (IpAddr::V4(base), IpAddr::V4(ip)) => {
            let shift = 32 - u32::from(length);
            u32::from(base).checked_shr(shift).unwrap_or(0) == u32::from(ip).checked_shr(shift).unwrap_or(0)
        }
        (IpAddr::V6(base), IpAddr::V6(ip)) => {
            let shift = 128 - u32::from(length);
            u128::from(base).checked_shr(shift).unwrap_or(0) == u128::from(ip).checked_shr(shift).unwrap_or(0)
        }
        _ => false,
    }
}

#[derive(Debug)]
pub struct ServiceRanges;

impl Strategy for ServiceRanges {
    fn shape(&self) -> Shape {
        Shape::STATUS
    }
    /// Upstream lets whoever makes a range say its status too.
    fn prepare_create(&self, _context: &Context<'_>, _new: &mut Object) {}
    fn prepare_update(&self, context: &Context<'_>, new: &mut Object, old: &Object) {
        if context.subresource == "status" {
            self.shape().prepare_update(context, new, old);
        }
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let cidrs = Field::root(new, "spec.cidrs");
        if cidrs.is_empty() {
            return cidrs.required(errors, "at least one CIDR required");
        }
        if cidrs.len() > 2 {
            return cidrs.invalid(errors, "may only hold up to 2 values");
        }
        let families: BTreeSet<bool> = cidrs
            .strings()
            .filter_map(|text| Some(format::parse_cidr(text)?.0.is_ipv4()))
            .collect();
        if cidrs.len() == 2 && families.len() == 1 {
            cidrs.invalid(
                errors,
                "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
            );
        }
        for cidr in cidrs.items() {
            match format::parse_cidr(cidr.str()) {
                None => cidr.each_invalid(errors, format::cidr(cidr.str())),
                Some((ip, length)) => {
                    let network = network(ip, length);
                    let canonical = format!("{network}/{length}");
                    if canonical != cidr.str() {
                        cidr.invalid(errors, &format!("must be in canonical form ({canonical:?})"));
                    }
                }
            }
        }
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        if context.subresource == "status" {
            return;
        }
        let cidrs = Field::root(new, "spec.cidrs");
        let before = Field::root(old, "spec.cidrs");
        // A second family may be added; what is there stays.
        let grown = before.strings().zip(cidrs.strings()).all(|(a, b)| a == b) && cidrs.len() >= before.len();
        if !grown {
            cidrs.invalid(errors, IMMUTABLE);
        } else if cidrs.len() != before.len() {
            self.validate(context, new, errors);
        }
    }
}

fn network(ip: IpAddr, length: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & mask).into())
        }
    }
}

/// The name of an IPAddress is the address.
pub fn address_name(name: &str, _prefix: bool) -> Vec<String> {
    if name.parse::<IpAddr>().is_ok_and(|ip| ip.to_string() == name) {
        Vec::new()
    } else {
        vec!["must be a valid IP address in canonical form".into()]
    }
}

#[derive(Debug)]
pub struct Addresses;

impl Strategy for Addresses {
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let parent = Field::root(new, "spec.parentRef");
        if !parent.present() {
            return parent.required(errors, "");
        }
        let group = parent.get("group");
        if !group.str().is_empty() {
            group.each_invalid(errors, format::dns_subdomain(group.str()));
        }
        for name in ["resource", "name"] {
            let field = parent.get(name);
            if field.str().is_empty() {
                field.required(errors, "");
            } else {
                field.each_invalid(errors, format::path_segment(field.str()));
            }
        }
        let namespace = parent.get("namespace");
        if !namespace.str().is_empty() {
            namespace.each_invalid(errors, format::path_segment(namespace.str()));
        }
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(context, new, errors);
        let parent = Field::root(new, "spec.parentRef");
        if !same(parent.value(), Field::root(old, "spec.parentRef").value()) {
            parent.invalid(errors, IMMUTABLE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_contain_what_is_in_them() {
        let cidr = |text| format::parse_cidr(text).expect("cidr");
        for (whole, ip, want) in [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("0.0.0.0/0", "9.9.9.9", true),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "10.0.0.1", false),
        ] {
            assert_eq!(contains(cidr(whole), ip.parse().expect("ip")), want, "{whole} {ip}");
        }
        assert_eq!(network("10.1.2.3".parse().expect("ip"), 8).to_string(), "10.0.0.0");
        assert_eq!(network("10.1.2.3".parse().expect("ip"), 0).to_string(), "0.0.0.0");
    }
    #[test]
    fn an_address_is_named_as_it_is_printed() {
        assert!(address_name("10.0.0.1", false).is_empty());
        assert!(address_name("fd00::1", false).is_empty());
        assert!(!address_name("fd00:0::1", false).is_empty());
    }
}
