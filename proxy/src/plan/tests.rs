use std::collections::BTreeSet;

use super::*;
use crate::model::{TCP, UDP};
use crate::nft::{End, Fake, Hook, Nft, Packet, Refusal, Transaction};

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn at(text: &str) -> (Ipv4Addr, u16) {
    let (address, port) = text.split_once(':').unwrap();
    (ip(address), port.parse().unwrap())
}

fn endpoints(text: &str) -> Vec<Endpoint> {
    let one = |text: &str| {
        let (address, port) = at(text);
        Endpoint { address, port }
    };
    text.split_whitespace().map(one).collect()
}

fn service(front: &str, all: &str) -> ServicePort {
    let (address, port) = at(front);
    ServicePort {
        address,
        protocol: TCP,
        port,
        node_port: None,
        externals: vec![],
        balancers: vec![],
        sources: vec![],
        internal: Reach::All,
        external: Reach::All,
        sticky: None,
        all: endpoints(all),
        near: vec![],
        here: vec![],
    }
}

fn surroundings() -> Network {
    Network {
        services: Some("10.96.0.0/16".parse().unwrap()),
        cluster: Some("10.244.0.0/16".parse().unwrap()),
        pods: vec!["10.244.0.0/24".parse().unwrap()],
        bridge: Some("cni0".into()),
        bridge_filtered: true,
    }
}

fn owner(name: &str) -> Owner {
    Owner::Service {
        namespace: "a".into(),
        name: name.into(),
    }
}

/// A table with some Services, and the node around it.
struct Node {
    fake: Fake,
    book: Book,
    local: BTreeSet<Ipv4Addr>,
}

impl Node {
    fn new(services: &[(&str, ServicePort)]) -> Self {
        let mut book = Book::default();
        for (name, port) in services {
            book.set(&owner(name), std::slice::from_ref(port));
        }
        let mut fake = Fake::default();
        fake.apply(&book.whole(&surroundings())).unwrap();
        let local = ["10.244.0.1", "192.0.2.10", "10.96.0.10"].into_iter().map(ip).collect();
        Self { fake, book, local }
    }

    fn change(&mut self, name: &str, ports: &[ServicePort]) -> Transaction {
        assert_eq!(self.book.set(&owner(name), ports), []);
        let change = self.book.changes();
        self.fake.apply(&change).unwrap();
        if self.book.clients_left() {
            let found = self.fake.dump(&[sets::STICKY]).unwrap().unwrap();
            let stale = self.book.stale(&found.sets[sets::STICKY]);
            let op = crate::nft::Op::DeleteElements {
                set: sets::STICKY.into(),
                elements: stale,
            };
            self.fake.apply(&Transaction { ops: vec![op] }).unwrap();
        }
        change
    }

    /// All places where a packet may end: `address:port`, with a star for the node's address as its source.
    fn ends(&mut self, hook: Hook, protocol: u8, from: &str, to: &str) -> String {
        let mut all = BTreeSet::new();
        for random in 0..12 {
            let packet = Packet::new(protocol, (ip(from), 40_000), at(to));
            all.insert(match self.fake.walk(hook, packet, &self.local, random) {
                End::Reaches {
                    destination: (address, port),
                    masqueraded,
                } => {
                    format!("{address}:{port}{}", if masqueraded { "*" } else { "" })
                }
                End::Dropped => "dropped".into(),
                End::Refused(Refusal::TcpReset) => "reset".into(),
                End::Refused(Refusal::PortUnreachable) => "unreachable".into(),
            });
        }
        all.into_iter().collect::<Vec<_>>().join(" ")
    }

    fn tcp(&mut self, from: &str, to: &str) -> String {
        self.ends(Hook::Prerouting, TCP, from, to)
    }
}

const POD: &str = "10.244.0.5";
const OUTSIDE: &str = "198.51.100.7";

#[test]
fn a_cluster_ip_leads_to_every_endpoint() {
    let two = "10.244.0.5:80 10.244.1.6:80";
    let mut node = Node::new(&[("web", service("10.96.0.7:8080", two))]);
    assert_eq!(node.tcp("10.244.0.9", "10.96.0.7:8080"), two);
    assert_eq!(
        node.ends(Hook::Output, TCP, "10.244.0.1", "10.96.0.7:8080"),
        "10.244.0.5:80* 10.244.1.6:80".replace('*', "")
    );
    // Who is not of the cluster is answered through this node.
    assert_eq!(node.tcp(OUTSIDE, "10.96.0.7:8080"), "10.244.0.5:80* 10.244.1.6:80*");
    // Other traffic passes as it is.
    assert_eq!(node.tcp(POD, "192.0.2.99:80"), "192.0.2.99:80*");
    assert_eq!(node.tcp(POD, "10.244.1.9:80"), "10.244.1.9:80");
    assert_eq!(node.tcp(OUTSIDE, "192.0.2.10:22"), "192.0.2.10:22");
}

#[test]
fn what_leads_nowhere_is_refused_at_once() {
    let mut node = Node::new(&[("web", service("10.96.0.7:80", ""))]);
    assert_eq!(node.tcp(POD, "10.96.0.7:80"), "reset");
    assert_eq!(node.tcp(POD, "10.96.0.7:81"), "reset");
    assert_eq!(node.ends(Hook::Prerouting, UDP, POD, "10.96.0.7:81"), "unreachable");
    assert_eq!(node.ends(Hook::Output, TCP, "10.244.0.1", "10.96.9.9:1"), "reset");
    // The DNS address is the node's own, with a Service that has no endpoints and without one.
    node.change(
        "dns",
        &[ServicePort {
            protocol: UDP,
            ..service("10.96.0.10:53", "")
        }],
    );
    assert_eq!(node.tcp(POD, "10.96.0.10:53"), "10.96.0.10:53");
    assert_eq!(node.ends(Hook::Prerouting, UDP, POD, "10.96.0.10:53"), "10.96.0.10:53");
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let mut port = service("10.96.0.7:80", "10.244.0.5:80");
    port.here = vec![ip(POD)];
    let mut node = Node::new(&[("web", port)]);
    assert_eq!(node.tcp(POD, "10.96.0.7:80"), "10.244.0.5:80*");
    assert_eq!(node.tcp("10.244.0.6", "10.96.0.7:80"), "10.244.0.5:80");
}

#[test]
fn node_ports_lead_in_from_any_address_of_the_node() {
    let mut port = service("10.96.0.7:80", "10.244.0.5:80 10.244.1.6:80");
    port.node_port = Some(30080);
    let mut node = Node::new(&[("web", port)]);
    let both = "10.244.0.5:80* 10.244.1.6:80*";
    assert_eq!(node.tcp(OUTSIDE, "192.0.2.10:30080"), both);
    assert_eq!(node.tcp(POD, "10.244.0.1:30080"), both);
    assert_eq!(node.ends(Hook::Output, TCP, "192.0.2.10", "192.0.2.10:30080"), both);
    assert_eq!(
        node.ends(Hook::Output, TCP, "127.0.0.1", "127.0.0.1:30080"),
        "127.0.0.1:30080"
    );
    assert_eq!(node.tcp(OUTSIDE, "192.0.2.11:30080"), "192.0.2.11:30080");
}

#[test]
fn local_policies_keep_the_client_and_the_node() {
    let mut port = service("10.96.0.7:80", "10.244.0.5:80 10.244.1.6:80");
    port.node_port = Some(30080);
    port.external = Reach::Near;
    port.near = endpoints("10.244.0.5:80");
    let mut node = Node::new(&[("web", port.clone())]);
    assert_eq!(node.tcp(OUTSIDE, "192.0.2.10:30080"), "10.244.0.5:80");
    // Who is inside reaches all.
    assert_eq!(
        node.tcp("10.244.0.9", "192.0.2.10:30080"),
        "10.244.0.5:80 10.244.1.6:80"
    );
    assert_eq!(
        node.ends(Hook::Output, TCP, "192.0.2.10", "192.0.2.10:30080"),
        "10.244.0.5:80* 10.244.1.6:80*"
    );
    assert_eq!(node.tcp(POD, "10.96.0.7:80"), "10.244.0.5:80 10.244.1.6:80");

    port.near = vec![];
    node.change("web", &[port.clone()]);
    assert_eq!(node.tcp(OUTSIDE, "192.0.2.10:30080"), "dropped");
    port.internal = Reach::Near;
    node.change("web", &[port.clone()]);
    assert_eq!(node.tcp(POD, "10.96.0.7:80"), "dropped");
    port.near = endpoints("10.244.0.5:80");
    node.change("web", &[port.clone()]);
    assert_eq!(node.tcp("10.244.0.9", "10.96.0.7:80"), "10.244.0.5:80");
    port.all = vec![];
    node.change("web", &[port]);
    assert_eq!(node.tcp(OUTSIDE, "192.0.2.10:30080"), "reset");
}

#[test]
fn external_addresses_and_balancers_lead_in() {
    let mut port = service("10.96.0.7:80", "10.244.0.5:80");
    port.externals = vec![ip("203.0.113.1")];
    port.balancers = vec![ip("203.0.113.2")];
    port.sources = vec!["198.51.100.0/24".parse().unwrap(), "192.0.2.128/25".parse().unwrap()];
    let mut node = Node::new(&[("web", port)]);
    assert_eq!(node.tcp(OUTSIDE, "203.0.113.1:80"), "10.244.0.5:80*");
    assert_eq!(node.tcp(OUTSIDE, "203.0.113.2:80"), "10.244.0.5:80*");
    assert_eq!(node.tcp("192.0.2.129", "203.0.113.2:80"), "10.244.0.5:80*");
    assert_eq!(node.tcp("192.0.2.1", "203.0.113.2:80"), "dropped");
    assert_eq!(node.tcp("192.0.2.1", "203.0.113.1:80"), "10.244.0.5:80*");
}

#[test]
fn a_guarded_balancer_with_local_policy_is_looked_up_three_times() {
    let mut port = service("10.96.0.7:80", "10.244.0.5:80 10.244.1.6:80");
    port.balancers = vec![ip("203.0.113.2")];
    port.sources = vec!["198.51.100.0/24".parse().unwrap()];
    port.external = Reach::Near;
    port.near = endpoints("10.244.0.5:80");
    let mut node = Node::new(&[("web", port)]);
    assert_eq!(node.tcp(OUTSIDE, "203.0.113.2:80"), "10.244.0.5:80");
    assert_eq!(node.tcp("192.0.2.1", "203.0.113.2:80"), "dropped");
}

#[test]
fn clients_stay_with_their_endpoint_while_it_serves() {
    let mut port = service("10.96.0.7:80", "10.244.0.5:80 10.244.1.6:80 10.244.1.7:80");
    port.sticky = Some(600);
    port.node_port = Some(30080);
    let mut node = Node::new(&[("web", port.clone())]);
    let first = node.tcp("10.244.0.9", "10.96.0.7:80");
    assert!(!first.contains(' '), "{first}");
    assert_eq!(node.tcp("10.244.0.9", "192.0.2.10:30080"), format!("{first}*"));
    port.all.retain(|e| format!("{}:{}", e.address, e.port) != first);
    node.change("web", &[port]);
    let second = node.tcp("10.244.0.9", "10.96.0.7:80");
    assert!(!second.contains(' ') && second != first, "{second}");
}

#[test]
fn host_ports_lead_to_their_pod_with_the_clients_address() {
    let mut port = service("0.0.0.0:8080", "10.244.0.5:80");
    port.here = vec![ip(POD)];
    let mut node = Node::new(&[("pod", port)]);
    assert_eq!(node.tcp(OUTSIDE, "192.0.2.10:8080"), "10.244.0.5:80");
    assert_eq!(node.tcp(POD, "192.0.2.10:8080"), "10.244.0.5:80*");
    let mut bound = service("192.0.2.10:53", "10.244.0.5:53");
    bound.protocol = UDP;
    node.change("dns", &[bound]);
    assert_eq!(
        node.ends(Hook::Prerouting, UDP, OUTSIDE, "192.0.2.10:53"),
        "10.244.0.5:53"
    );
}

#[test]
fn one_change_is_a_few_elements_whatever_the_number_of_services() {
    let mut services = Vec::new();
    for n in 0..200 {
        services.push((
            format!("s{n}"),
            service(&format!("10.96.1.{n}:80"), "10.244.0.5:80 10.244.1.6:80"),
        ));
    }
    let named: Vec<_> = services.iter().map(|(n, s)| (n.as_str(), s.clone())).collect();
    let mut node = Node::new(&named);
    // One more endpoint: a new slot, and the frontend's class. The way to choose among three is new, once.
    let three = |front: &str| service(front, "10.244.0.5:80 10.244.1.6:80 10.244.2.7:80");
    let change = node.change("s7", &[three("10.96.1.7:80")]);
    assert_eq!(change.elements(), 3, "{change}");
    let change = node.change("s8", &[three("10.96.1.8:80")]);
    assert_eq!(change.to_string().lines().count(), 3, "{change}");
    // An endpoint replaced by another: one slot.
    let change = node.change("s9", &[service("10.96.1.9:80", "10.244.0.5:80 10.244.9.9:80")]);
    assert_eq!(
        change.to_string(),
        "delete element endpoints 10.96.1.9 . 6.0.0.0 . 0.80.0.0 . 1.0.0.0\n\
         add element endpoints 10.96.1.9 . 6.0.0.0 . 0.80.0.0 . 1.0.0.0 : 10.244.9.9 . 0.80.0.0\n"
    );
    // Nothing new is nothing to do.
    assert!(
        node.change("s9", &[service("10.96.1.9:80", "10.244.0.5:80 10.244.9.9:80")])
            .is_empty()
    );
    // A Service that goes takes all of its own along.
    assert_eq!(node.change("s9", &[]).elements(), 3);
    assert_eq!(node.tcp(POD, "10.96.1.9:80"), "reset");
}

#[test]
fn endpoints_stay_in_their_slots() {
    let check = |old: &str, wanted: &str, want: &str| {
        assert_eq!(
            keep(&endpoints(old), &endpoints(wanted), 100),
            endpoints(want),
            "{old} -> {wanted}"
        );
    };
    check("", "10.0.0.1:1 10.0.0.2:1", "10.0.0.1:1 10.0.0.2:1");
    check(
        "10.0.0.2:1 10.0.0.3:1",
        "10.0.0.1:1 10.0.0.2:1 10.0.0.3:1",
        "10.0.0.2:1 10.0.0.3:1 10.0.0.1:1",
    );
    check(
        "10.0.0.1:1 10.0.0.2:1 10.0.0.3:1",
        "10.0.0.2:1 10.0.0.3:1",
        "10.0.0.3:1 10.0.0.2:1",
    );
    check("10.0.0.1:1 10.0.0.2:1", "10.0.0.3:1", "10.0.0.3:1");
    check(
        "10.0.0.1:1 10.0.0.1:1",
        "10.0.0.1:1 10.0.0.2:1",
        "10.0.0.1:1 10.0.0.2:1",
    );
}

#[test]
fn the_table_that_is_found_is_adopted() {
    let services = [
        ("web", service("10.96.0.7:80", "10.244.0.5:80 10.244.1.6:80")),
        (
            "old",
            service("10.96.0.8:80", "10.244.0.5:80 10.244.1.6:80 10.244.1.7:80"),
        ),
    ];
    let mut before = Node::new(&services);
    // An endpoint left and another came, so slots are not in order.
    before.change("web", &[service("10.96.0.7:80", "10.244.1.6:80 10.244.0.4:80")]);

    let adopt = |fake: &mut Fake, services: &[(&str, ServicePort)]| {
        let dump = fake.dump(&sets::OURS).unwrap();
        let mut book = Book::default();
        book.remember(dump.as_ref().unwrap());
        for (name, port) in services {
            book.set(&owner(name), std::slice::from_ref(port));
        }
        book.settle(&surroundings(), dump.as_ref(), true)
    };
    let now = [
        ("web", service("10.96.0.7:80", "10.244.0.4:80 10.244.1.6:80")),
        services[1].clone(),
    ];
    let change = adopt(&mut before.fake, &now);
    assert!(change.is_empty(), "{change}");

    let change = adopt(&mut before.fake, &now[..1]);
    before.fake.apply(&change).unwrap();
    assert_eq!(before.tcp(POD, "10.96.0.8:80"), "reset");
    assert_eq!(before.tcp("10.244.0.9", "10.96.0.7:80"), "10.244.0.4:80 10.244.1.6:80");
    assert_eq!(change.elements(), 1 + 3, "{change}");
    assert!(
        change.to_string().ends_with("delete chain pick-address-3\n"),
        "{change}"
    );

    // Other surroundings: all is made again, in one transaction.
    let mut book = Book::default();
    let other = Network {
        pods: vec![],
        ..surroundings()
    };
    let dump = before.fake.dump(&sets::OURS).unwrap();
    assert!(
        book.settle(&other, dump.as_ref(), true)
            .to_string()
            .starts_with("delete table\nadd table\n")
    );
}

#[test]
fn ports_of_pods_that_are_not_known_yet_stay() {
    let mut node = Node::new(&[("pod", service("0.0.0.0:8080", "10.244.0.5:80"))]);
    let dump = node.fake.dump(&sets::OURS).unwrap();
    let mut book = Book::default();
    let change = book.settle(&surroundings(), dump.as_ref(), false);
    assert!(change.is_empty(), "{change}");
    let change = book.settle(&surroundings(), dump.as_ref(), true);
    node.fake.apply(&change).unwrap();
    assert_eq!(node.tcp(OUTSIDE, "192.0.2.10:8080"), "192.0.2.10:8080");
}

#[test]
fn the_second_who_wants_a_frontend_waits_for_the_first() {
    let mut first = service("10.96.0.7:80", "10.244.0.5:80");
    first.externals = vec![ip("203.0.113.1")];
    let mut second = service("10.96.0.8:80", "10.244.0.6:80");
    second.externals = vec![ip("203.0.113.1")];
    let mut node = Node::new(&[("first", first), ("second", second.clone())]);
    assert_eq!(node.tcp(OUTSIDE, "203.0.113.1:80"), "10.244.0.5:80*");
    assert_eq!(node.book.set(&owner("first"), &[]), [owner("second")]);
    assert_eq!(node.book.set(&owner("second"), &[second]), []);
    let change = node.book.changes();
    node.fake.apply(&change).unwrap();
    assert_eq!(node.tcp(OUTSIDE, "203.0.113.1:80"), "10.244.0.6:80*");
}

#[test]
fn without_a_filtered_bridge_neighbours_are_answered_through_the_node() {
    let mut book = Book::default();
    book.set(&owner("web"), &[service("10.96.0.7:80", "10.244.0.5:80")]);
    let mut fake = Fake::default();
    fake.apply(&book.whole(&Network {
        bridge_filtered: false,
        ..surroundings()
    }))
    .unwrap();
    let mut node = Node {
        fake,
        book,
        local: BTreeSet::new(),
    };
    assert_eq!(node.tcp("10.244.0.6", "10.96.0.7:80"), "10.244.0.5:80*");
    assert_eq!(node.tcp("10.244.0.6", "10.244.0.5:80"), "10.244.0.5:80");
    assert_eq!(node.tcp("10.244.1.6", "10.96.0.7:80"), "10.244.0.5:80");
}

#[test]
fn any_sequence_of_changes_ends_in_the_table_that_is_wanted() {
    use proptest::prelude::*;
    let states = proptest::collection::vec((0usize..4, 0usize..5, any::<bool>(), any::<bool>()), 1..30);
    let mut runner = proptest::test_runner::TestRunner::default();
    runner
        .run(&states, |states| {
            let mut node = Node::new(&[]);
            let mut last = std::collections::BTreeMap::new();
            for (which, count, sticky, near) in states {
                let all: Vec<_> = (0..count)
                    .map(|n| format!("10.244.0.{}:80", (n * 7 + which) % 9 + 2))
                    .collect();
                let mut port = service(&format!("10.96.0.{}:80", which + 1), &all.join(" "));
                port.sticky = sticky.then_some(60);
                port.node_port = near.then(|| 30_000 + u16::try_from(which).unwrap());
                port.external = if near { Reach::Near } else { Reach::All };
                port.near = port.all.iter().take(count / 2).copied().collect();
                port.here = port.near.iter().map(|e| e.address).collect();
                let name = format!("s{which}");
                let ports = if count == 0 && sticky { vec![] } else { vec![port] };
                node.change(&name, &ports);
                last.insert(name, ports);
            }
            let dump = node.fake.dump(&sets::OURS).unwrap();
            let mut book = Book::default();
            book.remember(dump.as_ref().unwrap());
            for (name, ports) in &last {
                book.set(&owner(name), ports);
            }
            let change = book.settle(&surroundings(), dump.as_ref(), true);
            // Only ways of choosing that nobody uses any more may be left over.
            let chains = |op: &crate::nft::Op| matches!(op, crate::nft::Op::DeleteChain(_));
            let leftover = change.ops.iter().all(chains);
            prop_assert!(leftover, "{}", change);
            Ok(())
        })
        .unwrap();
}
