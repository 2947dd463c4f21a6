//! What the table looks like and which elements a Service has in it: model in, elements and rules out.
//! Pure: nothing here talks to the kernel or to the API.
//! Invariant: a packet costs the same few lookups whatever the number of Services, and a change of one Service touches the
//! elements of that Service alone.
//!
//! A verdict map holds every address and port that leads somewhere, and the chain that it leads to. There is a chain for
//! each *way of choosing* in use, not for each Service: one serves all Services with, say, three endpoints. It draws a number
//! below three and finds the endpoint in the map `endpoints` under address, port and number. So a change of a Service is a
//! change of a few elements, and a new endpoint in the place of an old one is a change of plain data.
//!
//! A rule never carries a value from one lookup to the next one's key: the kernel could, but the nft tool cannot show such
//! rules, and before version 1.1 it aborts when it lists any table of a host that has them.

mod book;
mod layout;

use std::net::Ipv4Addr;

use crate::cidr::Cidr;
use crate::model::{Endpoint, Reach, ServicePort};
use crate::nft::{Data, Element, Value};

pub use book::{Book, Owner};
pub use layout::{MARK, TABLE, foundation, picker};

/// Names of sets and maps.
pub mod sets {
    /// Where first packets are looked up, by address, protocol and port.
    pub const SERVICES: &str = "services";
    pub const INSIDE: &str = "services-inside";
    pub const OUTSIDE: &str = "services-outside";
    pub const ADMITTED: &str = "services-admitted";
    /// The same for ports of the node, whatever its addresses.
    pub const NODE_PORTS: &str = "node-ports";
    pub const NODE_INSIDE: &str = "node-ports-inside";
    pub const NODE_OUTSIDE: &str = "node-ports-outside";
    pub const ENDPOINTS: &str = "endpoints";
    pub const NODE_ENDPOINTS: &str = "node-endpoints";
    /// Which endpoint a client had last. Its elements are made by rules.
    pub const STICKY: &str = "sticky";
    pub const HAIRPIN: &str = "hairpin";
    pub const ALLOWED: &str = "allowed";
    /// Verdict maps over ports of the node.
    pub const NODE: [&str; 3] = [NODE_PORTS, NODE_INSIDE, NODE_OUTSIDE];
    /// All whose elements are ours to compare.
    pub const OURS: [&str; 11] = [
        SERVICES,
        INSIDE,
        OUTSIDE,
        ADMITTED,
        NODE_PORTS,
        NODE_INSIDE,
        NODE_OUTSIDE,
        ENDPOINTS,
        NODE_ENDPOINTS,
        HAIRPIN,
        ALLOWED,
    ];
}

/// What the table depends on besides Services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Addresses of Services. What goes there and leads nowhere is refused.
    pub services: Option<Cidr>,
    /// Addresses of all pods. Who comes from elsewhere cannot be answered by a pod directly.
    pub cluster: Option<Cidr>,
    /// Addresses of this node's pods. What they send out of the cluster gets the node's address.
    pub pods: Vec<Cidr>,
    /// The bridge of this node's pods.
    pub bridge: Option<String>,
    /// Whether packets between two pods of the bridge pass the packet filter. Where they do not, answers would miss the
    /// translation back, so such connections get the node's address.
    pub bridge_filtered: bool,
}

/// An address and port that lead to a Service. The address is unspecified for ports of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    pub address: Ipv4Addr,
    pub protocol: u8,
    pub port: u16,
}

/// Whether a destination is looked up by its address, or as "this node" whatever the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    Address,
    Node,
}

/// How far a lookup has come: some frontends are looked up again, with more known about the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    First,
    /// The client is of this cluster.
    Inside,
    /// The client is from elsewhere.
    Outside,
    /// The client is one of those that may use the load balancer.
    Admitted,
}

/// A place in the verdict maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Front {
    pub name: Name,
    pub stage: Stage,
}

/// What is done with a packet to a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Nobody serves: say so at once.
    Refuse,
    /// Nobody serves here, others do: silence makes load balancers look elsewhere.
    Drop,
    /// Look again as `Inside` or `Outside`.
    Split(Origin),
    /// Look again as `Admitted`, if the client's address is allowed.
    Guard,
    Pick(Picker),
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Picker {
    pub origin: Origin,
    pub reach: Reach,
    /// The answer has to come back through this node.
    pub masquerade: bool,
    pub count: u16,
    /// Seconds for which a client stays with its endpoint; 0 for none.
    pub sticky: u32,
}

/// The endpoints of a frontend in their slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub name: Name,
    pub reach: Reach,
    /// As its picker says; it is a part of the slots' numbers where clients stay.
    pub masquerade: bool,
    pub slots: Vec<Endpoint>,
    pub sticky: bool,
}

/// All that one Service or pod has in the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Piece {
    pub fronts: Vec<(Front, Class)>,
    pub groups: Vec<Group>,
    /// Clients that a guarded frontend admits.
    pub allowed: Vec<(Name, Cidr)>,
    /// Endpoints that may be connected to themselves.
    pub hairpin: Vec<Ipv4Addr>,
}

/// The elements of a Service. `slots` tells where endpoints are now, so that they stay there.
pub fn piece<'a>(ports: &[ServicePort], slots: impl Fn(Name, Reach) -> Option<&'a [Endpoint]>) -> Piece {
    let mut piece = Piece::default();
    for port in ports {
        one(port, &slots, &mut piece);
    }
    piece.hairpin.sort();
    piece.hairpin.dedup();
    // An address may be said twice, as external and as cluster IP.
    let mut seen = std::collections::HashSet::new();
    piece.fronts.retain(|(front, _)| seen.insert(*front));
    piece
}

fn one<'a>(port: &ServicePort, slots: &impl Fn(Name, Reach) -> Option<&'a [Endpoint]>, piece: &mut Piece) {
    let name = Name {
        address: port.address,
        protocol: port.protocol,
        port: port.port,
    };
    let sticky = port.sticky.unwrap_or(0);
    let wanted = |reach| match reach {
        Reach::All => &port.all,
        Reach::Near => &port.near,
    };
    let most = most(port.sticky.is_some());
    let count = |reach| u16::try_from(wanted(reach).len().min(most)).expect("at most sixteen bits");
    let pick = |name: Name, reach, masquerade| match count(reach) {
        _ if port.all.is_empty() => Class::Refuse,
        0 => Class::Drop,
        count => Class::Pick(Picker {
            origin: name.origin(),
            reach,
            masquerade,
            count,
            sticky,
        }),
    };
    let mut fronts = Vec::new();
    let mut front = |name: Name, stage: Stage, class: Class| fronts.push((Front { name, stage }, class));

    front(name, Stage::First, pick(name, port.internal, false));
    let outer = |front: &mut dyn FnMut(Name, Stage, Class), at: Name, stage: Stage| match port.external {
        Reach::All => front(at, stage, pick(at, Reach::All, true)),
        Reach::Near if port.all.is_empty() => front(at, stage, Class::Refuse),
        // Who is in the cluster reaches all endpoints: the address is only a longer way to the cluster IP.
        Reach::Near => {
            front(at, stage, Class::Split(at.origin()));
            front(at, Stage::Inside, pick(at, Reach::All, false));
            front(at, Stage::Outside, pick(at, Reach::Near, false));
        }
    };
    // A port that a pod wants of the node is a Service without a cluster IP, and has no other doors.
    for address in &port.externals {
        outer(
            &mut front,
            Name {
                address: *address,
                ..name
            },
            Stage::First,
        );
    }
    for address in &port.balancers {
        let at = Name {
            address: *address,
            ..name
        };
        if port.sources.is_empty() {
            outer(&mut front, at, Stage::First);
        } else {
            front(at, Stage::First, Class::Guard);
            outer(&mut front, at, Stage::Admitted);
            piece.allowed.extend(port.sources.iter().map(|source| (at, *source)));
        }
    }
    if let Some(number) = port.node_port {
        let at = Name {
            address: Ipv4Addr::UNSPECIFIED,
            port: number,
            ..name
        };
        outer(&mut front, at, Stage::First);
    }
    for (front, class) in &fronts {
        let Class::Pick(Picker { reach, masquerade, .. }) = *class else {
            continue;
        };
        let there = |g: &Group| g.name == front.name && g.reach == reach;
        if !piece.groups.iter().any(there) {
            piece.groups.push(Group {
                name: front.name,
                reach,
                masquerade,
                slots: keep(slots(front.name, reach).unwrap_or_default(), wanted(reach), most),
                sticky: port.sticky.is_some(),
            });
        }
    }
    piece.fronts.extend(fronts);
    piece.hairpin.extend(&port.here);
}

/// Puts endpoints into slots so that few of them move.
fn keep(old: &[Endpoint], wanted: &[Endpoint], most: usize) -> Vec<Endpoint> {
    let wanted = &wanted[..wanted.len().min(most)];
    let old = &old[..old.len().min(wanted.len())];
    let staying: std::collections::HashSet<_> = old.iter().filter(|e| wanted.contains(e)).collect();
    let mut coming = wanted.iter().filter(|e| !staying.contains(e));
    let mut seen = std::collections::HashSet::new();
    (0..wanted.len())
        .map(|slot| match old.get(slot) {
            Some(here) if staying.contains(here) && seen.insert(*here) => *here,
            _ => *coming.next().expect("as many slots as endpoints"),
        })
        .collect()
}

/// Where the numbers of a group's slots begin. A client that stays has its slot's number written into the packet's mark on
/// the way from one rule to the next, so there the number also says what the mark has to say, and is like no other mark.
fn base(reach: Reach, masquerade: bool, sticky: bool) -> u32 {
    const STICKY: u32 = 0x2c0a_0000;
    let near = if reach == Reach::Near { 1 << 31 } else { 0 };
    match (sticky, masquerade) {
        (false, _) => near,
        (true, false) => near | STICKY,
        (true, true) => near | STICKY | MARK,
    }
}

/// Slots of a group at most; endpoints beyond get no new connections.
fn most(sticky: bool) -> usize {
    // Below the bit that asks for the node's address.
    if sticky { 0x3fff } else { usize::from(u16::MAX) }
}

impl Group {
    fn base(&self) -> u32 {
        base(self.reach, self.masquerade, self.sticky)
    }
}

impl Picker {
    fn base(&self) -> u32 {
        base(self.reach, self.masquerade, self.sticky > 0)
    }
}

impl Name {
    pub fn origin(&self) -> Origin {
        if self.address.is_unspecified() {
            Origin::Node
        } else {
            Origin::Address
        }
    }

    /// The key by which maps of its origin know it.
    fn data(&self) -> Data {
        let mut data = Vec::with_capacity(24);
        if self.origin() == Origin::Address {
            data.extend(self.address.octets());
        }
        data.extend([self.protocol, 0, 0, 0]);
        data.extend(self.port.to_be_bytes());
        data.extend([0, 0]);
        data
    }

    /// Reads the beginning of a key; gives what follows, too.
    fn read(origin: Origin, data: &[u8]) -> Option<(Self, &[u8])> {
        let (address, rest) = match origin {
            Origin::Address => {
                let (address, rest) = data.split_first_chunk::<4>()?;
                (Ipv4Addr::from(*address), rest)
            }
            Origin::Node => (Ipv4Addr::UNSPECIFIED, data),
        };
        let ([protocol, _, _, _, high, low, _, _], rest) = rest.split_first_chunk::<8>()?;
        let name = Self {
            address,
            protocol: *protocol,
            port: u16::from_be_bytes([*high, *low]),
        };
        Some((name, rest))
    }
}

impl Endpoint {
    fn data(&self) -> Data {
        let mut data = Vec::with_capacity(8);
        data.extend(self.address.octets());
        data.extend(self.port.to_be_bytes());
        data.extend([0, 0]);
        data
    }

    fn read(data: &[u8]) -> Option<Self> {
        match data {
            [a, b, c, d, high, low, ..] => Some(Self {
                address: Ipv4Addr::new(*a, *b, *c, *d),
                port: u16::from_be_bytes([*high, *low]),
            }),
            _ => None,
        }
    }
}

fn element(key: Data, value: Option<Value>) -> Element {
    Element {
        key,
        until: None,
        value,
    }
}

/// The verdict map of a stage. Each has its own: one for all would lead from a chain back to itself, and the kernel refuses
/// loops.
fn map_of(origin: Origin, stage: Stage) -> &'static str {
    match (origin, stage) {
        (Origin::Address, Stage::First) => sets::SERVICES,
        (Origin::Address, Stage::Inside) => sets::INSIDE,
        (Origin::Address, Stage::Outside) => sets::OUTSIDE,
        (Origin::Node, Stage::First) => sets::NODE_PORTS,
        (Origin::Node, Stage::Inside) => sets::NODE_INSIDE,
        (Origin::Node, Stage::Outside) => sets::NODE_OUTSIDE,
        // Load balancers have addresses, ports of the node have no guard.
        (Origin::Address | Origin::Node, Stage::Admitted) => sets::ADMITTED,
    }
}

fn endpoints_of(origin: Origin) -> &'static str {
    match origin {
        Origin::Address => sets::ENDPOINTS,
        Origin::Node => sets::NODE_ENDPOINTS,
    }
}

fn front_element(front: &Front, class: &Class) -> Element {
    element(front.name.data(), Some(Value::Verdict(layout::verdict(class))))
}

fn slot_element(group: &Group, slot: usize, endpoint: &Endpoint) -> Element {
    let slot = group.base() + u32::try_from(slot).expect("slots are numbered by sixteen bits");
    let mut key = group.name.data();
    key.extend(slot.to_ne_bytes());
    element(key, Some(Value::Data(endpoint.data())))
}

fn allowed_element(name: &Name, source: &Cidr) -> Element {
    let end = |address: Ipv4Addr| {
        let mut key = name.data();
        key.extend(address.octets());
        key
    };
    Element {
        key: end(source.first()),
        until: Some(end(source.last())),
        value: None,
    }
}

fn hairpin_element(address: Ipv4Addr) -> Element {
    element([address.octets(), address.octets()].concat(), None)
}

#[cfg(test)]
mod tests;
