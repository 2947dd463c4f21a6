use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use super::space::{Space, skip};
use proxy::conntrack::{self, Serving};
use proxy::model::{Endpoint, Reach, ServicePort, TCP, UDP};
use proxy::nft::{Kernel, Nft, Op, Transaction};
use proxy::plan::{Book, Network, Owner, TABLE, sets};
use proxy::route;

const WAIT: Duration = Duration::from_secs(3);

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn at(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

fn endpoints(text: &str) -> Vec<Endpoint> {
    let one = |text: &str| Endpoint {
        address: *at(text).ip(),
        port: at(text).port(),
    };
    text.split_whitespace().map(one).collect()
}

fn service(front: &str, all: &str) -> ServicePort {
    ServicePort {
        address: *at(front).ip(),
        protocol: TCP,
        port: at(front).port(),
        node_port: None,
        externals: vec![],
        balancers: vec![],
        sources: vec![],
        internal: Reach::All,
        external: Reach::All,
        sticky: None,
        all: endpoints(all),
        near: vec![],
        here: endpoints(all).iter().map(|e| e.address).collect(),
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

/// A node with a bridge, two pods on it, and a machine outside that knows the node.
pub(super) struct Lab {
    pub(super) node: Space,
    pub(super) pods: Vec<Space>,
    pub(super) outside: Space,
}

impl Lab {
    pub(super) fn new() -> Self {
        let node = Space::new();
        let pods = vec![Space::new(), Space::new()];
        let outside = Space::new();
        node.run(|| {
            route::bridge("cni0", &"10.244.0.0/24".parse().unwrap()).unwrap();
            // What is there is kept.
            route::bridge("cni0", &"10.244.0.0/24".parse().unwrap()).unwrap();
            route::services(&"10.96.0.0/16".parse().unwrap(), "cni0", Some(ip("10.244.0.1"))).unwrap();
            assert!(route::settings().unwrap());
        });
        for (n, pod) in pods.iter().enumerate() {
            node.pair(&format!("veth{n}"), pod, "eth0");
            node.ip(&format!("link set veth{n} master cni0 up"));
            node.run(move || std::fs::write(format!("/sys/class/net/veth{n}/brport/hairpin_mode"), "1"))
                .ok();
            node.bridge(&format!("link set dev veth{n} hairpin on"));
            pod.ip(&format!("addr add 10.244.0.{}/24 dev eth0", n + 5));
            pod.ip("link set eth0 up");
            pod.ip("route add default via 10.244.0.1");
        }
        node.pair("uplink", &outside, "eth0");
        node.ip("addr add 192.0.2.10/24 dev uplink");
        node.ip("link set uplink up");
        outside.ip("addr add 192.0.2.99/24 dev eth0");
        outside.ip("link set eth0 up");
        outside.ip("route add 10.96.0.0/16 via 192.0.2.10");
        Self { node, pods, outside }
    }

    /// Applies what `change` says to a new book, in the node.
    fn rules(&self, ports: Vec<(&'static str, ServicePort)>) {
        self.node.run(move || {
            let mut book = Book::default();
            for (name, port) in &ports {
                book.set(&owner(name), std::slice::from_ref(port));
            }
            Kernel::open(TABLE)
                .unwrap()
                .apply(&book.whole(&surroundings()))
                .unwrap();
        });
    }

    /// Each pod answers TCP on port 80 with its number and the client's address.
    pub(super) fn serve(&self) {
        for (n, pod) in self.pods.iter().enumerate() {
            pod.serve(n);
        }
    }
}

/// What a connection was told, or how it failed.
pub(super) fn ask(to: &str) -> String {
    let mut stream = match TcpStream::connect_timeout(&SocketAddr::V4(at(to)), WAIT) {
        Ok(stream) => stream,
        Err(e) => return format!("{:?}", e.kind()),
    };
    stream.set_read_timeout(Some(WAIT)).unwrap();
    stream.write_all(b"?").unwrap();
    let mut answer = String::new();
    match stream.read_to_string(&mut answer) {
        Ok(_) => answer,
        Err(e) => format!("{:?}", e.kind()),
    }
}

fn answers(space: &Space, to: &'static str) -> String {
    let all: std::collections::BTreeSet<_> = (0..24).map(|_| space.run(move || ask(to))).collect();
    all.into_iter().collect::<Vec<_>>().join(" ")
}

#[test]
fn connections_reach_endpoints_through_every_door() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    lab.serve();
    let mut web = service("10.96.0.7:8080", "10.244.0.5:80 10.244.0.6:80");
    web.node_port = Some(30080);
    web.externals = vec![ip("203.0.113.1")];
    let mut local = service("10.96.0.8:80", "10.244.0.5:80 10.244.0.6:80");
    local.node_port = Some(30081);
    local.external = Reach::Near;
    local.near = endpoints("10.244.0.6:80");
    lab.rules(vec![
        ("web", web),
        ("local", local),
        ("one", service("10.96.0.9:80", "10.244.0.5:80")),
        ("none", service("10.96.0.11:80", "")),
        ("host", service("0.0.0.0:8080", "10.244.0.5:80")),
    ]);
    let pod = &lab.pods[0];

    // A pod to the cluster IP: both endpoints, itself under the bridge's address, its neighbour under its own.
    assert_eq!(answers(pod, "10.96.0.7:8080"), "0<10.244.0.1 1<10.244.0.5");
    // The node itself.
    assert_eq!(answers(&lab.node, "10.96.0.7:8080"), "0<10.244.0.1 1<10.244.0.1");
    // From outside: node port, external address and cluster IP, under the bridge's address.
    assert_eq!(answers(&lab.outside, "192.0.2.10:30080"), "0<10.244.0.1 1<10.244.0.1");
    assert_eq!(answers(&lab.outside, "10.96.0.7:8080"), "0<10.244.0.1 1<10.244.0.1");
    // With the local policy the client keeps its address and only this node's endpoint answers.
    assert_eq!(answers(&lab.outside, "192.0.2.10:30081"), "1<192.0.2.99");
    assert_eq!(answers(&lab.node, "192.0.2.10:30081"), "0<10.244.0.1 1<10.244.0.1");
    // A port of the node that a pod wants.
    assert_eq!(answers(&lab.outside, "192.0.2.10:8080"), "0<192.0.2.99");
    assert_eq!(answers(pod, "192.0.2.10:8080"), "0<10.244.0.1");
    // A pod to itself, and nobody there.
    assert_eq!(answers(pod, "10.96.0.9:80"), "0<10.244.0.1");
    for space in [pod, &lab.node, &lab.outside] {
        let started = tokio::time::Instant::now();
        assert_eq!(space.run(|| ask("10.96.0.11:80")), "ConnectionRefused");
        assert_eq!(space.run(|| ask("10.96.0.7:81")), "ConnectionRefused");
        assert!(started.elapsed() < Duration::from_millis(500), "refused at once");
    }
    // Pods leave the cluster under the node's address.
    lab.outside.serve(9);
    assert_eq!(answers(pod, "192.0.2.99:80"), "9<192.0.2.10");

    lab.node.run(|| {
        proxy::cleanup().unwrap();
        assert_eq!(Kernel::open(TABLE).unwrap().dump(&sets::OURS).unwrap(), None);
    });
    assert!(!lab.node.ip("route").contains("10.96.0.0/16"));
}

#[test]
fn clients_stay_with_their_endpoint() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    lab.serve();
    let mut web = service("10.96.0.7:80", "10.244.0.5:80 10.244.0.6:80");
    web.sticky = Some(600);
    let first = web.clone();
    lab.rules(vec![("web", web)]);
    let answer = answers(&lab.node, "10.96.0.7:80");
    assert!(!answer.contains(' '), "{answer}");
    // Its endpoint goes: another one, and again always the same.
    let gone = if answer.starts_with('0') {
        "10.244.0.5:80"
    } else {
        "10.244.0.6:80"
    };
    let mut other = first.clone();
    other.all.retain(|e| *e != endpoints(gone)[0]);
    lab.node.run(move || {
        let mut book = Book::default();
        book.set(&owner("web"), &[first]);
        book.changes();
        book.set(&owner("web"), &[other]);
        let mut kernel = Kernel::open(TABLE).unwrap();
        kernel.apply(&book.changes()).unwrap();
        assert!(book.clients_left());
        let found = kernel.dump(&[sets::STICKY]).unwrap().unwrap();
        let elements = book.stale(&found.sets[sets::STICKY]);
        let set = sets::STICKY.to_owned();
        kernel
            .apply(&Transaction {
                ops: vec![Op::DeleteElements { set, elements }],
            })
            .unwrap();
    });
    let next = answers(&lab.node, "10.96.0.7:80");
    assert!(!next.contains(' ') && next != answer, "{next}");
}

#[test]
fn one_change_is_one_small_transaction() {
    if skip() {
        return;
    }
    Space::new().run(|| {
        let mut kernel = Kernel::open(TABLE).unwrap();
        let mut book = Book::default();
        let name = |n: u32| owner(&format!("s{n}"));
        let front = |n: u32| format!("10.96.{}.{}:80", n / 250, n % 250);
        for n in 0..1000 {
            book.set(&name(n), &[service(&front(n), "10.244.0.5:80 10.244.0.6:80")]);
        }
        kernel.apply(&book.whole(&surroundings())).unwrap();
        // Three endpoints, for the first time: a chain, its rule, its class, a slot, and the frontend anew.
        let three = "10.244.0.5:80 10.244.0.6:80 10.244.0.7:80";
        book.set(&name(7), &[service(&front(7), three)]);
        kernel.apply(&book.changes()).unwrap();
        book.set(&name(8), &[service(&front(8), three)]);
        kernel.apply(&book.changes()).unwrap();
        // Begin, delete, add, add, end.
        assert!(
            kernel.last.messages <= 5 && kernel.last.bytes < 1024,
            "{:?}",
            kernel.last
        );
        book.set(&name(9), &[service(&front(9), "10.244.0.5:80 10.244.0.9:80")]);
        kernel.apply(&book.changes()).unwrap();
        // The slot anew, and the endpoint's own address as one that may reach itself.
        assert_eq!(kernel.last.messages, 5);

        // What the kernel holds is what the book says, and a new start finds nothing to do.
        let dump = kernel.dump(&sets::OURS).unwrap();
        let mut again = Book::default();
        again.remember(dump.as_ref().unwrap());
        for n in 0..1000 {
            let all = match n {
                7 | 8 => three,
                9 => "10.244.0.5:80 10.244.0.9:80",
                _ => "10.244.0.5:80 10.244.0.6:80",
            };
            again.set(&name(n), &[service(&front(n), all)]);
        }
        let change = again.settle(&surroundings(), dump.as_ref(), true);
        assert!(change.is_empty(), "{change}");
    });
}

#[test]
fn a_refused_transaction_changes_nothing_and_says_what_was_wrong() {
    if skip() {
        return;
    }
    Space::new().run(|| {
        let mut kernel = Kernel::open(TABLE).unwrap();
        let mut book = Book::default();
        book.set(&owner("web"), &[service("10.96.0.7:80", "10.244.0.5:80")]);
        kernel.apply(&book.whole(&surroundings())).unwrap();
        let before = kernel.dump(&sets::OURS).unwrap();
        let mut bad = Transaction::default();
        bad.ops.push(Op::DeleteElements {
            set: sets::HAIRPIN.into(),
            elements: before.as_ref().unwrap().sets[sets::HAIRPIN].clone(),
        });
        bad.ops.push(Op::DeleteChain("absent".into()));
        let error = kernel.apply(&bad).unwrap_err();
        assert_eq!(error.to_string(), "the kernel refused deleting chain absent");
        assert_eq!(kernel.dump(&sets::OURS).unwrap(), before);
    });
}

#[test]
fn sources_of_a_balancer_are_checked_by_the_kernel() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    lab.serve();
    let mut web = service("10.96.0.7:80", "10.244.0.5:80");
    web.balancers = vec![ip("203.0.113.2"), ip("203.0.113.3")];
    web.sources = vec!["192.0.2.96/28".parse().unwrap()];
    let mut closed = service("10.96.0.8:80", "10.244.0.5:80");
    closed.balancers = vec![ip("203.0.113.4")];
    closed.sources = vec!["192.0.2.0/28".parse().unwrap()];
    lab.rules(vec![("web", web), ("closed", closed)]);
    lab.outside.ip("route add 203.0.113.0/24 via 192.0.2.10");
    assert_eq!(lab.outside.run(|| ask("203.0.113.2:80")), "0<10.244.0.1");
    assert_eq!(lab.outside.run(|| ask("203.0.113.4:80")), "TimedOut");
}

#[test]
fn udp_flows_to_endpoints_that_left_are_forgotten() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    for (n, pod) in lab.pods.iter().enumerate() {
        pod.serve_udp("0.0.0.0:53", n);
    }
    let dns = |all: &str| ServicePort {
        protocol: UDP,
        ..service("10.96.0.7:53", all)
    };
    let rules = |all: &'static str| {
        lab.rules(vec![("dns", dns(all))]);
    };
    rules("10.244.0.5:53");
    let ask = || {
        let socket = UdpSocket::bind("0.0.0.0:5353").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket.send_to(b"?", "10.96.0.7:53").unwrap();
        let mut answer = [0; 16];
        socket
            .recv(&mut answer)
            .map(|n| String::from_utf8_lossy(&answer[..n]).into_owned())
            .unwrap_or_default()
    };
    assert_eq!(lab.node.run(ask), "0");
    rules("10.244.0.6:53");
    assert_eq!(lab.node.run(ask), "0", "the kernel remembers the flow");
    let forgotten = lab.node.run(|| {
        let serving = Serving {
            fronts: [((ip("10.96.0.7"), 53), endpoints("10.244.0.6:53").into_iter().collect())].into(),
            ..Serving::default()
        };
        conntrack::forget(&serving).unwrap()
    });
    assert_eq!(forgotten, 1);
    assert_eq!(lab.node.run(ask), "1");
}

#[test]
fn the_clusters_dns_is_reached_at_an_address_of_the_node() {
    if skip() {
        return;
    }
    let lab = Lab::new();
    lab.node.ip("addr add 10.96.0.10/32 dev lo scope host");
    lab.node.serve_udp("10.96.0.10:53", 7);
    let ask = || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(WAIT)).unwrap();
        socket.connect("10.96.0.10:53").unwrap();
        socket.send(b"?").unwrap();
        let mut answer = [0; 16];
        socket.recv(&mut answer).map_or_else(
            |e| format!("{:?}", e.kind()),
            |n| String::from_utf8_lossy(&answer[..n]).into_owned(),
        )
    };
    // With a Service without endpoints, with one that leads to itself, and without any.
    let dns = |all: &str| ServicePort {
        protocol: UDP,
        ..service("10.96.0.10:53", all)
    };
    for ports in [vec![("dns", dns(""))], vec![("dns", dns("10.96.0.10:53"))], vec![]] {
        lab.rules(ports);
        assert_eq!(lab.pods[0].run(ask), "7");
        assert_eq!(lab.node.run(ask), "7");
    }
}

#[test]
fn the_nft_tool_can_show_the_table() {
    if skip() {
        return;
    }
    let space = Space::new();
    space.run(|| {
        let mut book = Book::default();
        let mut web = service("10.96.0.7:80", "10.244.0.5:80 10.244.0.6:80");
        web.sticky = Some(60);
        web.balancers = vec![ip("203.0.113.2")];
        web.sources = vec!["192.0.2.96/28".parse().unwrap()];
        book.set(&owner("web"), &[web]);
        Kernel::open(TABLE)
            .unwrap()
            .apply(&book.whole(&surroundings()))
            .unwrap();
    });
    let shown = space.tool("nft", "list table ip coracle");
    for part in [
        "10.96.0.7 . tcp . 80",
        "10.244.0.6 . 80",
        "203.0.113.2 . tcp . 80 . 192.0.2.96/28",
        "dnat",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}

#[test]
fn a_table_that_others_delete_is_noticed() {
    if skip() {
        return;
    }
    Space::new().run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut kernel = Kernel::open(TABLE).unwrap();
            let mut watch = proxy::nft::Watch::open(&kernel).unwrap();
            kernel.apply(&Book::default().whole(&surroundings())).unwrap();
            // Our own replacement is no loss.
            kernel.apply(&Book::default().whole(&surroundings())).unwrap();
            assert!(
                tokio::time::timeout(Duration::from_millis(100), watch.lost())
                    .await
                    .is_err()
            );
            let gone = Transaction {
                ops: vec![Op::DeleteTable],
            };
            Kernel::open(TABLE).unwrap().apply(&gone).unwrap();
            tokio::time::timeout(WAIT, watch.lost()).await.unwrap().unwrap();
        });
    });
}

/// Answers one byte with who it is and who asked.
pub(super) fn serve(listener: &TcpListener, number: usize) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        let from = stream.peer_addr().unwrap().ip();
        let mut question = [0; 1];
        if stream.read_exact(&mut question).is_ok() {
            let _ = write!(stream, "{number}<{from}");
        }
    }
}
