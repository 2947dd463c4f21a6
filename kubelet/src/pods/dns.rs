//! The name servers, search domains and options of a pod: the cluster's, the node's or its own. Pure but for reading the node's file.

use std::{fs, path::Path};

use k8s_openapi::api::core::v1::PodSpec;

use super::translate::{Subject, host_network};
use crate::runtime::DnsConfig;

/// What resolvers read at most.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;
const MAX_NAME: usize = 253;

/// What is told to the pod's events: reason and text.
pub type Warnings = Vec<(&'static str, String)>;

/// What the node's resolv.conf says.
pub fn host(path: &Path) -> DnsConfig {
    if path.as_os_str().is_empty() {
        // Without the node's file nothing outside of the cluster resolves, and no resolver guesses.
        return DnsConfig {
            servers: vec!["127.0.0.1".to_owned()],
            searches: vec![".".to_owned()],
            options: Vec::new(),
        };
    }
    // A node without the file resolves nothing, and so do its pods.
    parse(&fs::read_to_string(path).unwrap_or_default())
}

fn parse(text: &str) -> DnsConfig {
    let mut dns = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
            Some("search") => {
                let trimmed = |w: &str| match w.trim_end_matches('.') {
                    "" => w.to_owned(),
                    name => name.to_owned(),
                };
                dns.searches = words.map(trimmed).collect();
            }
            Some("options") => dns.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    dns
}

/// By the pod's policy, over what the node has.
pub fn config(subject: &Subject<'_>, node: &DnsConfig) -> (DnsConfig, Warnings) {
    let spec = subject.spec();
    let settings = subject.config;
    let mut warnings = Warnings::new();
    let cluster = match spec.dns_policy.as_deref() {
        Some("None") => {
            return finish(DnsConfig::default(), spec, warnings);
        }
        Some("Default") => false,
        Some("ClusterFirstWithHostNet") => true,
        _ => !host_network(spec),
    };
    let mut dns = node.clone();
    if cluster && settings.cluster_dns.is_empty() {
        warnings.push((
            "MissingClusterDNS",
            format!(
                "pod: \"{}\". kubelet does not have ClusterDNS IP configured and cannot create Pod using \"{}\" policy. \
                 Falling back to \"Default\" policy.",
                subject.display(),
                spec.dns_policy.as_deref().unwrap_or("ClusterFirst")
            ),
        ));
    } else if cluster {
        dns.servers = settings.cluster_dns.clone();
        // The node's own place-holder for "nothing" is no search domain of a pod in the cluster.
        dns.searches.retain(|s| s != ".");
        let domain = &settings.cluster_domain;
        if !domain.is_empty() {
            let mut searches = vec![
                format!("{}.svc.{domain}", subject.namespace),
                format!("svc.{domain}"),
                domain.clone(),
            ];
            searches.append(&mut dns.searches);
            dns.searches = searches;
        }
        dns.options = vec!["ndots:5".to_owned()];
    }
    finish(dns, spec, warnings)
}

fn finish(mut dns: DnsConfig, spec: &PodSpec, mut warnings: Warnings) -> (DnsConfig, Warnings) {
    if let Some(own) = &spec.dns_config {
        dns.servers.extend(own.nameservers.iter().flatten().cloned());
        dns.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let Some(name) = option.name.as_deref() else { continue };
            dns.options.retain(|o| o.split(':').next() != Some(name));
            dns.options.push(match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.to_owned(),
            });
        }
    }
    unique(&mut dns.servers);
    unique(&mut dns.searches);
    if dns.servers.len() > MAX_SERVERS {
        dns.servers.truncate(MAX_SERVERS);
        warnings.push((
            "DNSConfigForming",
            format!(
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
                dns.servers.join(" ")
            ),
        ));
    }
    if bound(&mut dns.searches) {
        warnings.push((
            "DNSConfigForming",
            format!(
                "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
                dns.searches.join(" ")
            ),
        ));
    }
    (dns, warnings)
}

fn unique(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

/// Leaves out what resolvers would not read; true when something was.
fn bound(searches: &mut Vec<String>) -> bool {
    let before = searches.len();
    searches.retain(|s| s.len() <= MAX_NAME);
    searches.truncate(MAX_SEARCHES);
    while searches.iter().map(|s| s.len() + 1).sum::<usize>() > MAX_SEARCH_CHARS + 1 {
        searches.pop();
    }
    searches.len() < before
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;
    use crate::config::Config;

    fn formed(spec: serde_json::Value) -> (DnsConfig, Warnings) {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u"}, "spec": spec}))
                .unwrap();
        let mut settings = Config::new("n1");
        settings.cluster_dns = vec!["10.96.0.10".into()];
        settings.cluster_domain = "cluster.local".into();
        let node = parse("nameserver 192.0.2.1\nsearch example.com. corp\noptions ndots:1 rotate\n");
        config(&Subject::new(&settings, &pod), &node)
    }

    fn words(list: &[String]) -> String {
        list.join(" ")
    }

    #[test]
    fn the_cluster_comes_first_unless_the_pod_is_on_the_nodes_network() {
        let (dns, warnings) = formed(json!({}));
        assert_eq!(words(&dns.servers), "10.96.0.10");
        assert_eq!(
            words(&dns.searches),
            "shop.svc.cluster.local svc.cluster.local cluster.local example.com corp"
        );
        assert_eq!(words(&dns.options), "ndots:5");
        assert_eq!(warnings, []);
        assert_eq!(words(&formed(json!({"hostNetwork": true})).0.servers), "192.0.2.1");
        let with = formed(json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}));
        assert_eq!(words(&with.0.servers), "10.96.0.10");
    }

    #[test]
    fn the_default_is_the_nodes_and_none_is_only_the_pods() {
        let (dns, _) =
            formed(json!({"dnsPolicy": "Default", "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}}));
        assert_eq!(
            (words(&dns.servers), words(&dns.options)),
            ("192.0.2.1".into(), "rotate ndots:2".into())
        );
        let own = json!({"nameservers": ["1.1.1.1"], "searches": ["a.b"], "options": [{"name": "edns0"}]});
        let (dns, _) = formed(json!({"dnsPolicy": "None", "dnsConfig": own}));
        assert_eq!(
            (words(&dns.servers), words(&dns.searches), words(&dns.options)),
            ("1.1.1.1".into(), "a.b".into(), "edns0".into())
        );
    }

    #[test]
    fn what_no_resolver_would_read_is_left_out_and_told() {
        let own = json!({"nameservers": ["1.1.1.1", "2.2.2.2", "3.3.3.3"],
            "searches": (0..40).map(|n| format!("s{n}.example")).collect::<Vec<_>>()});
        let (dns, warnings) = formed(json!({"dnsConfig": own}));
        assert_eq!(words(&dns.servers), "10.96.0.10 1.1.1.1 2.2.2.2");
        assert_eq!(dns.searches.len(), 32);
        assert_eq!(warnings.len(), 2);
        assert!(
            warnings[0]
                .1
                .ends_with("the applied nameserver line is: 10.96.0.10 1.1.1.1 2.2.2.2")
        );
        let mut long: Vec<String> = (0..20).map(|_| "x".repeat(200)).collect();
        assert!(bound(&mut long));
        assert_eq!(long.len(), 10);
    }
}
