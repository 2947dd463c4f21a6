//! What the table looks like and which elements a Service has in it: model in, elements and rules out.
//! Pure: nothing here talks to the kernel or to the API.
//! Invariant: a packet costs the same few lookups whatever the number of Services, and a change of one Service touches the
//! elements of that Service alone.
//!
//! One map, `services`, holds every address and port that leads somewhere. Its value is a *class* and the Service's own name
//! in the table (cluster IP, protocol, port). The few classes in use are dispatched to a chain each: one chain serves all
//! Services with, say, three endpoints. The chain draws a number below three and finds the endpoint in the map `endpoints`
//! under name and number. No chain and no verdict belongs to one Service, so a change is a change of plain data: the kernel
//! checks verdict maps as a whole at each change, plain ones not at all.

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
    pub const SERVICES: &str = "services";
    pub const DISPATCH: &str = "dispatch";
    pub const ADMITTED: &str = "dispatch-admitted";
    pub const CHOSEN: &str = "dispatch-chosen";
    pub const ENDPOINTS: &str = "endpoints";
    pub const MEMBERS: &str = "members";
    pub const STICKY: &str = "sticky";
    pub const HAIRPIN: &str = "hairpin";
    pub const ALLOWED: &str = "allowed";
    /// Those that lead classes to chains.
    pub const DISPATCHING: [&str; 3] = [DISPATCH, ADMITTED, CHOSEN];
    /// All whose elements are ours to compare; those of `STICKY` belong to the kernel.
    pub const OURS: [&str; 8] = [
        SERVICES, DISPATCH, ADMITTED, CHOSEN, ENDPOINTS, MEMBERS, HAIRPIN, ALLOWED,
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

/// A Service's name in the table.
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

/// How far a lookup has come: some frontends are looked up a second time, with more known about the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    First = 0,
    /// The client is of this cluster.
    Inside = 1,
    /// The client is from elsewhere.
    Outside = 2,
    /// The client is one of those that may use the load balancer.
    Admitted = 3,
}

/// An address and port that lead to a Service, at a stage of the lookup. The address is unspecified for ports of the node.
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
    pub stage: Stage,
    pub reach: Reach,
    /// The answer has to come back through this node.
    pub masquerade: bool,
    pub count: u16,
    /// Seconds for which a client stays with its endpoint; 0 for none.
    pub sticky: u32,
}

/// The endpoints of a Service in their slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub name: Name,
    pub reach: Reach,
    pub slots: Vec<Endpoint>,
    pub sticky: bool,
}

/// All that one Service or pod has in the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Piece {
    /// Frontends with what is done and for which Service.
    pub fronts: Vec<(Front, Class, Name)>,
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
    piece.fronts.retain(|(front, ..)| seen.insert(*front));
    piece
}

fn one<'a>(port: &ServicePort, slots: &impl Fn(Name, Reach) -> Option<&'a [Endpoint]>, piece: &mut Piece) {
    let name = Name {
        address: port.address,
        protocol: port.protocol,
        port: port.port,
    };
    let node = |number| Name {
        address: Ipv4Addr::UNSPECIFIED,
        port: number,
        ..name
    };
    let sticky = port.sticky.unwrap_or(0);
    // A port that a pod wants of the node is a Service without a cluster IP, whose clients keep their addresses.
    let (origin, bare) = if port.address.is_unspecified() {
        (Origin::Node, true)
    } else {
        (Origin::Address, false)
    };

    let count = |reach| {
        let found = match reach {
            Reach::All => &port.all,
            Reach::Near => &port.near,
        };
        u16::try_from(found.len()).unwrap_or(u16::MAX)
    };
    let pick = |origin, stage, reach, masquerade| match (count(reach), port.all.is_empty()) {
        (_, true) => Class::Refuse,
        (0, false) => Class::Drop,
        (count, false) => Class::Pick(Picker {
            origin,
            stage,
            reach,
            masquerade,
            count,
            sticky,
        }),
    };
    let mut used = Vec::new();
    let mut front = |front: Front, class: Class| {
        if let Class::Pick(picker) = class
            && !used.contains(&picker.reach)
        {
            used.push(picker.reach);
        }
        piece.fronts.push((front, class, name));
    };

    front(
        Front {
            name,
            stage: Stage::First,
        },
        pick(origin, Stage::First, port.internal, false),
    );
    let outer = |front: &mut dyn FnMut(Front, Class), at: Name, origin: Origin, stage: Stage| match port.external {
        Reach::All => front(Front { name: at, stage }, pick(origin, stage, Reach::All, true)),
        Reach::Near if port.all.is_empty() => front(Front { name: at, stage }, Class::Refuse),
        // Who is in the cluster reaches all endpoints: the address is only a longer way to the cluster IP.
        Reach::Near => {
            front(Front { name: at, stage }, Class::Split(origin));
            front(
                Front {
                    name: at,
                    stage: Stage::Inside,
                },
                pick(origin, Stage::Inside, Reach::All, false),
            );
            front(
                Front {
                    name: at,
                    stage: Stage::Outside,
                },
                pick(origin, Stage::Outside, Reach::Near, false),
            );
        }
    };
    if !bare {
        for address in &port.externals {
            outer(
                &mut front,
                Name {
                    address: *address,
                    ..name
                },
                Origin::Address,
                Stage::First,
            );
        }
        for address in &port.balancers {
            let at = Name {
                address: *address,
                ..name
            };
            if port.sources.is_empty() {
                outer(&mut front, at, Origin::Address, Stage::First);
            } else {
                front(
                    Front {
                        name: at,
                        stage: Stage::First,
                    },
                    Class::Guard,
                );
                outer(&mut front, at, Origin::Address, Stage::Admitted);
                piece.allowed.extend(port.sources.iter().map(|source| (at, *source)));
            }
        }
        if let Some(number) = port.node_port {
            outer(&mut front, node(number), Origin::Node, Stage::First);
        }
    }
    for reach in used {
        let wanted = match reach {
            Reach::All => &port.all,
            Reach::Near => &port.near,
        };
        let slots = keep(slots(name, reach).unwrap_or_default(), wanted);
        piece.groups.push(Group {
            name,
            reach,
            slots,
            sticky: port.sticky.is_some(),
        });
    }
    piece.hairpin.extend(&port.here);
}

/// Puts endpoints into slots so that few of them move.
fn keep(old: &[Endpoint], wanted: &[Endpoint]) -> Vec<Endpoint> {
    let wanted = &wanted[..wanted.len().min(usize::from(u16::MAX))];
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

impl Class {
    /// The two words by which classes are dispatched.
    pub fn words(&self) -> [u32; 2] {
        match self {
            Self::Refuse => [1 << 28, 0],
            Self::Drop => [2 << 28, 0],
            Self::Split(origin) => [3 << 28 | (*origin as u32) << 24, 0],
            Self::Guard => [4 << 28, 0],
            Self::Pick(p) => {
                let bits = (p.origin as u32) << 24
                    | (p.stage as u32) << 20
                    | u32::from(p.reach == Reach::Near) << 17
                    | u32::from(p.masquerade) << 16;
                [5 << 28 | bits | u32::from(p.count), p.sticky]
            }
        }
    }
}

/// Where the slots of an endpoint group begin.
fn scope(reach: Reach) -> u32 {
    match reach {
        Reach::All => 0,
        Reach::Near => 1 << 31,
    }
}

impl Name {
    fn data(&self) -> Data {
        let mut data = Vec::with_capacity(24);
        data.extend(self.address.octets());
        data.extend([self.protocol, 0, 0, 0]);
        data.extend(self.port.to_be_bytes());
        data.extend([0, 0]);
        data
    }

    fn read(data: &[u8]) -> Option<Self> {
        match data {
            [a, b, c, d, protocol, _, _, _, high, low, ..] => Some(Self {
                address: Ipv4Addr::new(*a, *b, *c, *d),
                protocol: *protocol,
                port: u16::from_be_bytes([*high, *low]),
            }),
            _ => None,
        }
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

fn element(key: Data, value: Option<Data>) -> Element {
    Element {
        key,
        until: None,
        value: value.map(Value::Data),
    }
}

fn with(mut data: Data, word: u32) -> Data {
    data.extend(word.to_ne_bytes());
    data
}

fn front_element(front: &Front, class: &Class, name: &Name) -> Element {
    let mut value: Data = class.words().iter().flat_map(|w| w.to_ne_bytes()).collect();
    value.extend(name.data());
    element(with(front.name.data(), front.stage as u32), Some(value))
}

fn slot_element(name: &Name, reach: Reach, slot: usize, endpoint: &Endpoint) -> Element {
    let slot = scope(reach) + u32::try_from(slot).expect("slots are numbered by sixteen bits");
    element(with(name.data(), slot), Some(endpoint.data()))
}

fn member_element(name: &Name, reach: Reach, endpoint: &Endpoint) -> Element {
    let mut key = with(name.data(), scope(reach));
    key.extend(endpoint.data());
    element(key, None)
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
