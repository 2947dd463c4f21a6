//! The names of the cluster: which Services there are, and what a question about them is answered.
//!
//! Pure: entries come in, answers go out. A Service is kept as the few facts that answers need, not as an object.
//! Names follow the Kubernetes DNS specification, version 1.1.0.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::Query;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// Seconds for which an answer may be remembered, also that there is none. Clients ask often; changes matter more.
pub const TTL: u32 = 5;

/// What a Service is to DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Has addresses of its own.
    Cluster { addresses: Vec<IpAddr>, ports: Vec<Port> },
    /// Stands for its endpoints.
    Headless { endpoints: Vec<Endpoint> },
    /// Another name.
    External { target: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Empty where the Service has only one port.
    pub name: Box<str>,
    /// In lower case.
    pub protocol: &'static str,
    pub number: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its host name, or its address with dashes.
    pub host: Box<str>,
    pub address: IpAddr,
    pub ports: std::sync::Arc<[Port]>,
}

/// What a question is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Records {
        answers: Vec<Record>,
        additionals: Vec<Record>,
    },
    /// The name is there, this type of record is not.
    Empty,
    /// There is no such name.
    Missing,
    /// Another name, to be asked for in turn.
    Alias { record: Box<Record>, target: Box<Name> },
    /// Not about this cluster.
    Elsewhere,
}

/// A range of addresses whose reverse names are the cluster's alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub address: Ipv4Addr,
    pub prefix: u8,
}

impl Range {
    fn contains(&self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address else { return false };
        let shift = 32u32.saturating_sub(u32::from(self.prefix));
        let cut = |a: Ipv4Addr| a.to_bits().checked_shr(shift).unwrap_or(0);
        cut(address) == cut(self.address)
    }
}

/// Not of the form `10.96.0.0/16`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IPv4 range in CIDR notation")]
pub struct BadRange(String);

impl std::str::FromStr for Range {
    type Err = BadRange;

    fn from_str(text: &str) -> Result<Self, BadRange> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            Some(Self {
                address: address.parse().ok()?,
                prefix: prefix.parse().ok().filter(|p| *p <= 32)?,
            })
        };
        parse().ok_or_else(|| BadRange(text.to_owned()))
    }
}

type Key = (Box<str>, Box<str>);

/// A Service, or an endpoint of it by its host name.
type Holder = (Key, Option<Box<str>>);

/// All Services, by namespace and name.
#[derive(Debug)]
pub struct Zone {
    domain: Name,
    /// The domain's labels, in lower case.
    labels: Vec<String>,
    /// The address of this server, which its own name has.
    own: Option<IpAddr>,
    ranges: Vec<Range>,
    services: HashMap<Key, Entry>,
    namespaces: HashMap<Box<str>, usize>,
    /// Who has an address: the Service, and the endpoint's host name where it is an endpoint.
    reverse: HashMap<IpAddr, HashSet<Holder>>,
}

/// The domain is no DNS name.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a domain")]
pub struct BadDomain(String);

impl Zone {
    pub fn new(domain: &str, own: Option<IpAddr>, ranges: Vec<Range>) -> Result<Self, BadDomain> {
        let name = Name::from_ascii(format!("{}.", domain.trim_end_matches('.')));
        let domain = name
            .ok()
            .filter(|n| !n.is_root())
            .ok_or_else(|| BadDomain(domain.to_owned()))?
            .to_lowercase();
        let labels = domain.iter().map(|l| String::from_utf8_lossy(l).into_owned()).collect();
        Ok(Self {
            domain,
            labels,
            own,
            ranges,
            services: HashMap::new(),
            namespaces: HashMap::new(),
            reverse: HashMap::new(),
        })
    }

    pub fn len(&self) -> usize {
        self.services.len()
    }

    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Replaces or removes a Service.
    pub fn set(&mut self, namespace: &str, name: &str, entry: Option<Entry>) {
        let key: Key = (namespace.into(), name.into());
        if let Some(old) = self.services.remove(&key) {
            for (address, host) in addresses(&old) {
                if let Some(all) = self.reverse.get_mut(&address) {
                    all.remove(&(key.clone(), host));
                    if all.is_empty() {
                        self.reverse.remove(&address);
                    }
                }
            }
            let count = self.namespaces.get_mut(namespace).expect("counted when it came");
            *count -= 1;
            if *count == 0 {
                self.namespaces.remove(namespace);
            }
        }
        if let Some(entry) = entry {
            for (address, host) in addresses(&entry) {
                self.reverse.entry(address).or_default().insert((key.clone(), host));
            }
            *self.namespaces.entry(namespace.into()).or_default() += 1;
            self.services.insert(key, entry);
        }
    }

    /// The record that says who answers for the zone, and for how long a missing name may be remembered.
    pub fn authority(&self) -> Record {
        let under = |label: &str| Name::from_labels([label.as_bytes()]).and_then(|n| n.append_domain(&self.domain));
        let server = self.server().unwrap_or_else(|| self.domain.clone());
        let person = under("hostmaster").unwrap_or_else(|_| self.domain.clone());
        let soa = SOA::new(server, person, 1, 7200, 1800, 86400, TTL);
        Record::from_rdata(self.domain.clone(), TTL, RData::SOA(soa))
    }

    fn server(&self) -> Option<Name> {
        self.name(&["ns", "dns"])
    }

    /// A name under the domain.
    fn name(&self, labels: &[&str]) -> Option<Name> {
        Name::from_labels(labels.iter().map(|l| l.as_bytes()))
            .and_then(|n| n.append_domain(&self.domain))
            .ok()
    }

    /// Whether a name lies in the zone.
    pub fn holds(&self, name: &Name) -> bool {
        self.domain.zone_of(name)
    }

    /// Answers a question. `turn` rotates endpoints, since many clients take the first.
    pub fn answer(&self, query: &Query, turn: usize) -> Answer {
        let labels: Option<Vec<String>> = query
            .name()
            .iter()
            .map(|l| std::str::from_utf8(l).ok().map(str::to_ascii_lowercase))
            .collect();
        let Some(labels) = labels else {
            return if self.holds(query.name()) {
                Answer::Missing
            } else {
                Answer::Elsewhere
            };
        };
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let below = labels.len().checked_sub(self.labels.len());
        match below {
            Some(below) if labels[below..] == self.labels => self.inside(query, &labels[..below], turn),
            _ => self.backwards(query, &labels),
        }
    }

    fn inside(&self, query: &Query, labels: &[&str], turn: usize) -> Answer {
        let wanted = query.query_type();
        let records = |answers: Vec<Record>| {
            if answers.is_empty() {
                Answer::Empty
            } else {
                Answer::Records {
                    answers,
                    additionals: Vec::new(),
                }
            }
        };
        let one = |data: RData| records(vec![Record::from_rdata(query.name().clone(), TTL, data)]);
        match labels {
            [] => match wanted {
                RecordType::SOA => records(vec![self.authority()]),
                RecordType::NS => match self.server() {
                    Some(server) => one(RData::NS(NS(server))),
                    None => Answer::Empty,
                },
                _ => Answer::Empty,
            },
            ["dns-version"] if wanted == RecordType::TXT => one(RData::TXT(TXT::new(vec!["1.1.0".to_owned()]))),
            ["svc" | "pod" | "dns" | "dns-version"] => Answer::Empty,
            ["ns", "dns"] => records(
                self.own
                    .iter()
                    .filter_map(|a| address_record(query.name(), *a, wanted))
                    .collect(),
            ),
            [_, "pod"] => Answer::Empty,
            [address, _, "pod"] => match dashed(address) {
                Some(address) => records(address_record(query.name(), address, wanted).into_iter().collect()),
                None => Answer::Missing,
            },
            [namespace, "svc"] if self.namespaces.contains_key(*namespace) => Answer::Empty,
            [rest @ .., service, namespace, "svc"] => {
                match self.services.get(&((*namespace).into(), (*service).into())) {
                    Some(entry) => self.service(query, rest, (namespace, service), entry, turn),
                    None => Answer::Missing,
                }
            }
            _ => Answer::Missing,
        }
    }

    fn service(&self, query: &Query, rest: &[&str], of: (&str, &str), entry: &Entry, turn: usize) -> Answer {
        let (namespace, service) = of;
        let wanted = query.query_type();
        let finish = |answers: Vec<Record>, additionals: Vec<Record>| {
            if answers.is_empty() {
                Answer::Empty
            } else {
                Answer::Records { answers, additionals }
            }
        };
        let only = |addresses: Vec<IpAddr>| {
            let answers = addresses
                .into_iter()
                .filter_map(|a| address_record(query.name(), a, wanted))
                .collect();
            finish(answers, Vec::new())
        };
        match entry {
            Entry::External { target } => {
                if !rest.is_empty() {
                    return Answer::Missing;
                }
                let Ok(target) = Name::from_ascii(format!("{}.", target.trim_end_matches('.'))) else {
                    return Answer::Empty;
                };
                let record = Record::from_rdata(query.name().clone(), TTL, RData::CNAME(CNAME(target.clone())));
                Answer::Alias {
                    record: Box::new(record),
                    target: Box::new(target),
                }
            }
            Entry::Cluster { addresses, ports } => {
                let of_port: Vec<&Port> = match rest {
                    [] => ports.iter().collect(),
                    [port, protocol] => ports.iter().filter(|p| is_port(p, port, protocol)).collect(),
                    _ => return Answer::Missing,
                };
                if !rest.is_empty() && of_port.is_empty() {
                    return Answer::Missing;
                }
                match wanted {
                    RecordType::SRV => {
                        let Some(target) = self.name(&[service, namespace, "svc"]) else {
                            return Answer::Empty;
                        };
                        let weight = weight(of_port.len());
                        let answers = of_port
                            .iter()
                            .map(|p| RData::SRV(SRV::new(0, weight, p.number, target.clone())))
                            .map(|data| Record::from_rdata(query.name().clone(), TTL, data))
                            .collect();
                        finish(answers, addresses.iter().map(|a| any_address(&target, *a)).collect())
                    }
                    _ if rest.is_empty() => only(addresses.clone()),
                    _ => Answer::Empty,
                }
            }
            Entry::Headless { endpoints } => {
                let chosen: Vec<&Endpoint> = match rest {
                    [] => endpoints.iter().collect(),
                    [host] => endpoints.iter().filter(|e| e.host.eq_ignore_ascii_case(host)).collect(),
                    [port, protocol] => endpoints
                        .iter()
                        .filter(|e| e.ports.iter().any(|p| is_port(p, port, protocol)))
                        .collect(),
                    _ => return Answer::Missing,
                };
                // The specification prefers this to an empty answer, also for a Service that nobody serves.
                if chosen.is_empty() {
                    return Answer::Missing;
                }
                match (wanted, rest) {
                    (RecordType::SRV, _) => {
                        let mut targets: Vec<(Name, &Endpoint, u16)> = Vec::new();
                        for endpoint in rotated(&chosen, turn) {
                            let Some(target) = self.name(&[&endpoint.host, service, namespace, "svc"]) else {
                                continue;
                            };
                            let ports = endpoint.ports.iter().filter(|p| match rest {
                                [port, protocol] => is_port(p, port, protocol),
                                _ => true,
                            });
                            targets.extend(ports.map(|p| (target.clone(), endpoint, p.number)));
                        }
                        let weight = weight(targets.len());
                        let answers = targets
                            .iter()
                            .map(|(target, _, port)| RData::SRV(SRV::new(0, weight, *port, target.clone())))
                            .map(|data| Record::from_rdata(query.name().clone(), TTL, data))
                            .collect();
                        let mut seen = HashSet::new();
                        let additionals = targets
                            .iter()
                            .filter(|(target, endpoint, _)| seen.insert((target.clone(), endpoint.address)))
                            .map(|(target, endpoint, _)| any_address(target, endpoint.address))
                            .collect();
                        finish(answers, additionals)
                    }
                    (_, [] | [_]) => {
                        let mut seen = HashSet::new();
                        only(
                            rotated(&chosen, turn)
                                .map(|e| e.address)
                                .filter(|a| seen.insert(*a))
                                .collect(),
                        )
                    }
                    _ => Answer::Empty,
                }
            }
        }
    }

    /// Names of addresses.
    fn backwards(&self, query: &Query, labels: &[&str]) -> Answer {
        let Some(address) = reverse_address(labels) else {
            return Answer::Elsewhere;
        };
        let Some(owners) = self.reverse.get(&address) else {
            // Addresses of the cluster are nobody else's to know.
            let ours = self.ranges.iter().any(|range| range.contains(address));
            return if ours { Answer::Missing } else { Answer::Elsewhere };
        };
        if query.query_type() != RecordType::PTR {
            return Answer::Empty;
        }
        let mut names: Vec<Name> = owners
            .iter()
            .filter_map(|((namespace, service), host)| match host {
                Some(host) => self.name(&[host, service, namespace, "svc"]),
                None => self.name(&[service, namespace, "svc"]),
            })
            .collect();
        names.sort();
        let answers = names
            .into_iter()
            .map(|name| Record::from_rdata(query.name().clone(), TTL, RData::PTR(PTR(name))))
            .collect();
        Answer::Records {
            answers,
            additionals: Vec::new(),
        }
    }
}

fn addresses(entry: &Entry) -> Vec<(IpAddr, Option<Box<str>>)> {
    match entry {
        Entry::Cluster { addresses, .. } => addresses.iter().map(|a| (*a, None)).collect(),
        Entry::Headless { endpoints } => endpoints.iter().map(|e| (e.address, Some(e.host.clone()))).collect(),
        Entry::External { .. } => Vec::new(),
    }
}

/// `_http` and `_tcp` against a port.
fn is_port(port: &Port, name: &str, protocol: &str) -> bool {
    name.strip_prefix('_')
        .is_some_and(|n| n.eq_ignore_ascii_case(&port.name))
        && protocol.strip_prefix('_') == Some(port.protocol)
}

fn weight(count: usize) -> u16 {
    u16::try_from(100 / count.max(1)).unwrap_or(1).max(1)
}

fn rotated<'a, T>(all: &'a [&'a T], turn: usize) -> impl Iterator<Item = &'a T> {
    let start = if all.is_empty() { 0 } else { turn % all.len() };
    all[start..].iter().chain(&all[..start]).copied()
}

fn address_record(name: &Name, address: IpAddr, wanted: RecordType) -> Option<Record> {
    let fits = match address {
        IpAddr::V4(_) => matches!(wanted, RecordType::A | RecordType::ANY),
        IpAddr::V6(_) => matches!(wanted, RecordType::AAAA | RecordType::ANY),
    };
    fits.then(|| any_address(name, address))
}

fn any_address(name: &Name, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(a) => RData::A(A(a)),
        IpAddr::V6(a) => RData::AAAA(AAAA(a)),
    };
    Record::from_rdata(name.clone(), TTL, data)
}

/// `10-244-0-5` or `fd00--5`.
fn dashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6))
        .ok()
}

/// The address of a reverse name (`5.0.244.10.in-addr.arpa`).
fn reverse_address(labels: &[&str]) -> Option<IpAddr> {
    match labels {
        [d, c, b, a, "in-addr", "arpa"] => format!("{a}.{b}.{c}.{d}").parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        [nibbles @ .., "ip6", "arpa"] if nibbles.len() == 32 => {
            let mut bits: u128 = 0;
            for nibble in nibbles.iter().rev() {
                let digit = if nibble.len() == 1 {
                    u128::from_str_radix(nibble, 16).ok()?
                } else {
                    return None;
                };
                bits = bits << 4 | digit;
            }
            Some(IpAddr::V6(Ipv6Addr::from_bits(bits)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn port(name: &str, protocol: &'static str, number: u16) -> Port {
        Port {
            name: name.into(),
            protocol,
            number,
        }
    }

    fn zone() -> Zone {
        let ranges = vec!["10.96.0.0/16".parse().unwrap(), "10.244.0.0/16".parse().unwrap()];
        let mut zone = Zone::new("cluster.local", Some(ip("10.96.0.10")), ranges).unwrap();
        let ports = vec![port("http", "tcp", 80), port("dns", "udp", 53)];
        zone.set(
            "a",
            "web",
            Some(Entry::Cluster {
                addresses: vec![ip("10.96.0.7")],
                ports,
            }),
        );
        let ports: std::sync::Arc<[Port]> = vec![port("peer", "tcp", 2380)].into();
        let endpoint = |host: &str, address: &str| Endpoint {
            host: host.into(),
            address: ip(address),
            ports: ports.clone(),
        };
        let endpoints = vec![endpoint("db-0", "10.244.0.5"), endpoint("10-244-1-6", "10.244.1.6")];
        zone.set("a", "db", Some(Entry::Headless { endpoints }));
        zone.set("a", "idle", Some(Entry::Headless { endpoints: vec![] }));
        zone.set(
            "a",
            "other",
            Some(Entry::External {
                target: "example.com".into(),
            }),
        );
        zone
    }

    fn ask(name: &str, wanted: RecordType, turn: usize) -> Answer {
        zone().answer(&Query::query(Name::from_ascii(name).unwrap(), wanted), turn)
    }

    #[track_caller]
    fn check(wanted: &str, name: &str, want: &str) {
        let shown = |records: &[Record]| {
            records
                .iter()
                .map(|r| format!("{} {}", r.data.record_type(), r.data))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let have = match ask(name, wanted.parse().unwrap(), 0) {
            Answer::Records { answers, additionals } if additionals.is_empty() => shown(&answers),
            Answer::Records { answers, additionals } => format!("{} + {}", shown(&answers), shown(&additionals)),
            Answer::Empty => "empty".into(),
            Answer::Missing => "missing".into(),
            Answer::Alias { target, .. } => format!("alias {target}"),
            Answer::Elsewhere => "elsewhere".into(),
        };
        assert_eq!(have, want, "{wanted} {name}");
    }

    #[test]
    fn questions_are_answered_by_the_specification() {
        check("A", "web.a.svc.cluster.local.", "A 10.96.0.7");
        check("A", "WEB.a.SVC.Cluster.Local.", "A 10.96.0.7");
        check("AAAA", "web.a.svc.cluster.local.", "empty");
        check("MX", "web.a.svc.cluster.local.", "empty");
        check("A", "web.b.svc.cluster.local.", "missing");
        check("A", "x.web.a.svc.cluster.local.", "missing");
        check(
            "SRV",
            "_http._tcp.web.a.svc.cluster.local.",
            "SRV 0 100 80 web.a.svc.cluster.local. + A 10.96.0.7",
        );
        check("SRV", "_http._udp.web.a.svc.cluster.local.", "missing");
        check("A", "_http._tcp.web.a.svc.cluster.local.", "empty");
        check(
            "SRV",
            "web.a.svc.cluster.local.",
            "SRV 0 50 80 web.a.svc.cluster.local., SRV 0 50 53 web.a.svc.cluster.local. + A 10.96.0.7",
        );
        check("A", "db.a.svc.cluster.local.", "A 10.244.0.5, A 10.244.1.6");
        check("A", "db-0.db.a.svc.cluster.local.", "A 10.244.0.5");
        check("A", "10-244-1-6.db.a.svc.cluster.local.", "A 10.244.1.6");
        check("A", "db-1.db.a.svc.cluster.local.", "missing");
        check(
            "SRV",
            "_peer._tcp.db.a.svc.cluster.local.",
            "SRV 0 50 2380 db-0.db.a.svc.cluster.local., SRV 0 50 2380 10-244-1-6.db.a.svc.cluster.local. + A 10.244.0.5, A 10.244.1.6",
        );
        check("A", "idle.a.svc.cluster.local.", "missing");
        check("A", "other.a.svc.cluster.local.", "alias example.com.");
        check("A", "x.other.a.svc.cluster.local.", "missing");
        check("A", "10-244-0-5.a.pod.cluster.local.", "A 10.244.0.5");
        check("AAAA", "fd00--5.a.pod.cluster.local.", "AAAA fd00::5");
        check("AAAA", "10-244-0-5.a.pod.cluster.local.", "empty");
        check("A", "nonsense.a.pod.cluster.local.", "missing");
    }

    #[test]
    fn names_between_are_there_and_empty() {
        check("A", "cluster.local.", "empty");
        check("A", "svc.cluster.local.", "empty");
        check("A", "a.svc.cluster.local.", "empty");
        check("A", "b.svc.cluster.local.", "missing");
        check("A", "nonsense.cluster.local.", "missing");
        check("TXT", "dns-version.cluster.local.", "TXT 1.1.0");
        check("NS", "cluster.local.", "NS ns.dns.cluster.local.");
        check("A", "ns.dns.cluster.local.", "A 10.96.0.10");
        check(
            "SOA",
            "cluster.local.",
            "SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5",
        );
    }

    #[test]
    fn addresses_have_names() {
        check("PTR", "7.0.96.10.in-addr.arpa.", "PTR web.a.svc.cluster.local.");
        check("PTR", "5.0.244.10.in-addr.arpa.", "PTR db-0.db.a.svc.cluster.local.");
        check("PTR", "9.9.244.10.in-addr.arpa.", "missing");
        check("A", "7.0.96.10.in-addr.arpa.", "empty");
        check("PTR", "1.2.0.192.in-addr.arpa.", "elsewhere");
        check("PTR", "arpa.", "elsewhere");
    }

    #[test]
    fn other_names_are_elsewhere() {
        for name in [
            "example.com.",
            "local.",
            ".",
            "xcluster.local.",
            "cluster.local.example.com.",
        ] {
            check("A", name, "elsewhere");
        }
    }

    #[test]
    fn endpoints_take_turns_in_front() {
        let first = |turn| match ask("db.a.svc.cluster.local.", RecordType::A, turn) {
            Answer::Records { answers, .. } => answers[0].data.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            [first(0), first(1), first(2)],
            ["10.244.0.5", "10.244.1.6", "10.244.0.5"]
        );
    }

    #[test]
    fn what_is_removed_is_forgotten() {
        let mut zone = zone();
        for name in ["web", "db", "idle", "other"] {
            zone.set("a", name, None);
        }
        assert!(zone.is_empty() && zone.namespaces.is_empty() && zone.reverse.is_empty());
    }

    proptest! {
        #[test]
        fn any_name_has_an_answer(labels in proptest::collection::vec("[-_a-z0-9.]{1,8}|svc|pod|a|web|db|cluster|local|arpa|in-addr", 0..10)) {
            if let Ok(name) = Name::from_labels(labels.iter().map(|l| l.as_bytes())) {
                for wanted in [RecordType::A, RecordType::SRV, RecordType::PTR, RecordType::ANY] {
                    zone().answer(&Query::query(name.clone(), wanted), 3);
                }
            }
        }
    }
}
