//! The table itself: sets, base chains and the chains that classes lead to.

use std::net::Ipv4Addr;

use super::{Class, Network, Origin, Picker, Stage, endpoints_of, map_of, sets};
use crate::cidr::Cidr;
use crate::model::{Reach, TCP};
use crate::nft::{
    Base, Chain, ChainType, Compare, Data, Expr, Header, Holds, Hook, Meta, Op, Refusal, Reg, Rule, Set, Side, Update,
    Verdict, Word,
};

/// Our table.
pub const TABLE: &str = "coracle";

/// The bit of the packet mark that asks for the node's address, from the decision to the end of the same packet's way
/// through this node. It is the one that Kubernetes nodes use for this.
pub const MARK: u32 = 0x4000;

/// Changes with the meaning of chains, sets or classes: a table with another number is replaced.
const VERSION: u32 = 2;

const REFUSE: &str = "refuse";
const GUARD: &str = "guard";

/// Elements of `sticky` at most; clients beyond that get any endpoint.
const STICKY: u32 = 262_144;

// Words of a rule. A frontend's key lies in 0–2, that of a port of the node in 1–2; a slot number in 3 completes the key of
// its endpoints. The key of a client lies in 4–7, an endpoint, or a client's slot, in 8–9.
const KEY: Reg = Reg::new(0);
const PROTOCOL: Reg = Reg::new(1);
const FRONT_PORT: Reg = Reg::new(2);
const SLOT: Reg = Reg::new(3);
const CLIENT: Reg = Reg::new(4);
const ADDRESS: Reg = Reg::new(8);
const PORT: Reg = Reg::new(9);

fn network(offset: u32, to: Reg) -> Expr {
    Expr::Payload {
        header: Header::Network,
        offset,
        len: 4,
        to,
    }
}

fn source(to: Reg) -> Expr {
    network(12, to)
}

fn destination(to: Reg) -> Expr {
    network(16, to)
}

/// The packet's source or destination, already in `reg`, is in the range, or is not.
fn within(reg: Reg, range: &Cidr, inside: bool) -> [Expr; 2] {
    [
        Expr::Bits {
            from: reg,
            to: reg,
            mask: range.mask().octets().to_vec(),
            xor: vec![0; 4],
        },
        Expr::Compare {
            from: reg,
            how: if inside { Compare::Equal } else { Compare::Differ },
            value: range.first().octets().to_vec(),
        },
    ]
}

fn local(of: Side, is: bool) -> [Expr; 2] {
    const RTN_LOCAL: u32 = 2;
    let how = if is { Compare::Equal } else { Compare::Differ };
    [
        Expr::AddressType { of, to: KEY },
        Expr::Compare {
            from: KEY,
            how,
            value: RTN_LOCAL.to_ne_bytes().to_vec(),
        },
    ]
}

fn mark() -> [Expr; 3] {
    let (mask, xor) = ((!MARK).to_ne_bytes().to_vec(), MARK.to_ne_bytes().to_vec());
    [
        Expr::Meta {
            key: Meta::Mark,
            to: KEY,
        },
        Expr::Bits {
            from: KEY,
            to: KEY,
            mask,
            xor,
        },
        Expr::SetMark { from: KEY },
    ]
}

/// Loads the key of a frontend; says where it begins.
fn load(origin: Origin) -> (Vec<Expr>, Reg) {
    let (protocol, port) = protocol_and_port(PROTOCOL, FRONT_PORT);
    match origin {
        Origin::Address => (vec![destination(KEY), protocol, port], KEY),
        Origin::Node => (vec![protocol, port], PROTOCOL),
    }
}

fn protocol_and_port(protocol: Reg, port: Reg) -> (Expr, Expr) {
    let protocol = Expr::Meta {
        key: Meta::L4Proto,
        to: protocol,
    };
    let port = Expr::Payload {
        header: Header::Transport,
        offset: 2,
        len: 2,
        to: port,
    };
    (protocol, port)
}

/// Goes where the frontend leads at this stage, if it is one.
fn dispatch(origin: Origin, stage: Stage) -> Vec<Expr> {
    let (mut steps, from) = load(origin);
    steps.push(Expr::Dispatch {
        map: map_of(origin, stage).to_owned(),
        from,
    });
    steps
}

fn rule(chain: &str, steps: impl IntoIterator<Item = Expr>) -> Op {
    Op::AddRule(Rule {
        chain: chain.to_owned(),
        steps: steps.into_iter().collect(),
    })
}

fn goto(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Goto(chain.to_owned()))
}

fn plain_chain(name: &str) -> Op {
    Op::AddChain(Chain {
        name: name.to_owned(),
        base: None,
    })
}

fn split_name(origin: Origin) -> &'static str {
    match origin {
        Origin::Address => "split-address",
        Origin::Node => "split-node",
    }
}

/// Says which program and which surroundings the table was made by, in the form of a comment of the nft tool.
pub(super) fn note(network: &Network) -> Data {
    let range = |range: &Option<Cidr>| range.map_or_else(|| "-".to_owned(), |r| r.to_string());
    let pods: Vec<_> = network.pods.iter().map(Cidr::to_string).collect();
    let mut text = format!(
        "coracle {VERSION} services {} cluster {} pods {} bridge {}{}",
        range(&network.services),
        range(&network.cluster),
        pods.join(","),
        network.bridge.as_deref().unwrap_or("-"),
        if network.bridge_filtered { "" } else { " unfiltered" },
    );
    text.truncate(120);
    let mut note = vec![0, u8::try_from(text.len() + 1).expect("cut above")];
    note.extend(text.into_bytes());
    note.push(0);
    note
}

/// Makes the empty table, in place of one that may be there.
pub fn foundation(surroundings: &Network) -> Vec<Op> {
    let set = |name: &str, key: &[Word], holds: Holds| {
        Op::AddSet(Set {
            name: name.to_owned(),
            key: key.to_vec(),
            holds,
            ranges: false,
            dynamic: None,
        })
    };
    use Word::{Address, Number, Port, Protocol};
    let mut ops = vec![
        Op::DeleteTable,
        Op::AddTable {
            note: note(surroundings),
        },
        set(
            sets::ENDPOINTS,
            &[Address, Protocol, Port, Number],
            Holds::Values(vec![Address, Port]),
        ),
        set(
            sets::NODE_ENDPOINTS,
            &[Protocol, Port, Number],
            Holds::Values(vec![Address, Port]),
        ),
        set(sets::HAIRPIN, &[Address, Address], Holds::Nothing),
        Op::AddSet(Set {
            name: sets::STICKY.to_owned(),
            key: vec![Address, Address, Protocol, Port],
            holds: Holds::Values(vec![Number]),
            ranges: false,
            dynamic: Some(STICKY),
        }),
        Op::AddSet(Set {
            name: sets::ALLOWED.to_owned(),
            key: vec![Address, Protocol, Port, Address],
            holds: Holds::Nothing,
            ranges: true,
            dynamic: None,
        }),
    ];
    for map in [sets::SERVICES, sets::INSIDE, sets::OUTSIDE, sets::ADMITTED] {
        ops.push(set(map, &[Address, Protocol, Port], Holds::Verdicts));
    }
    for map in sets::NODE {
        ops.push(set(map, &[Protocol, Port], Holds::Verdicts));
    }
    refuse(&mut ops, surroundings);
    for origin in [Origin::Address, Origin::Node] {
        split(&mut ops, origin, surroundings);
    }
    guard(&mut ops);
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        entry(&mut ops, name, hook, surroundings);
    }
    leave(&mut ops, surroundings);
    ops
}

fn refuse(ops: &mut Vec<Op>, surroundings: &Network) {
    ops.push(plain_chain(REFUSE));
    if let Some(services) = &surroundings.services {
        // A Service's address that the node has itself is served here without endpoints: that of the cluster's DNS is.
        let own = std::iter::once(destination(KEY))
            .chain(within(KEY, services, true))
            .chain(local(Side::Destination, true));
        ops.push(rule(REFUSE, own.chain([Expr::Verdict(Verdict::Accept)])));
    }
    let tcp = [
        Expr::Meta {
            key: Meta::L4Proto,
            to: KEY,
        },
        Expr::Compare {
            from: KEY,
            how: Compare::Equal,
            value: vec![TCP],
        },
        Expr::Reject(Refusal::TcpReset),
    ];
    ops.push(rule(REFUSE, tcp));
    ops.push(rule(REFUSE, [Expr::Reject(Refusal::PortUnreachable)]));
}

fn split(ops: &mut Vec<Op>, origin: Origin, surroundings: &Network) {
    let name = split_name(origin);
    ops.push(plain_chain(name));
    if let Some(cluster) = &surroundings.cluster {
        let inside = std::iter::once(source(KEY)).chain(within(KEY, cluster, true));
        ops.push(rule(name, inside.chain(dispatch(origin, Stage::Inside))));
    }
    // The node itself may use an address that an endpoint elsewhere cannot answer.
    let own = local(Side::Source, true).into_iter().chain(mark());
    ops.push(rule(name, own.chain(dispatch(origin, Stage::Inside))));
    ops.push(rule(name, dispatch(origin, Stage::Outside)));
}

fn guard(ops: &mut Vec<Op>) {
    ops.push(plain_chain(GUARD));
    let (mut steps, from) = load(Origin::Address);
    steps.extend([
        source(SLOT),
        Expr::Lookup {
            set: sets::ALLOWED.to_owned(),
            from,
            to: None,
            invert: false,
        },
    ]);
    steps.extend(dispatch(Origin::Address, Stage::Admitted));
    ops.push(rule(GUARD, steps));
    ops.push(rule(GUARD, [Expr::Verdict(Verdict::Drop)]));
}

/// Where first packets of connections come in: those from others, and those of the node itself.
fn entry(ops: &mut Vec<Op>, name: &str, hook: Hook, surroundings: &Network) {
    let base = Base {
        kind: ChainType::Nat,
        hook,
        priority: -100,
    };
    ops.push(Op::AddChain(Chain {
        name: name.to_owned(),
        base: Some(base),
    }));
    if let (Hook::Prerouting, Some(services), Some(cluster)) = (hook, &surroundings.services, &surroundings.cluster) {
        // A client from elsewhere that uses this node as its way to a Service has to be answered through this node.
        let steps = std::iter::once(destination(KEY))
            .chain(within(KEY, services, true))
            .chain([source(KEY)])
            .chain(within(KEY, cluster, false))
            .chain(mark());
        ops.push(rule(name, steps));
    }
    ops.push(rule(name, dispatch(Origin::Address, Stage::First)));
    // Loopback addresses are no addresses of the node to its pods: answers to them never leave the pod.
    let loopback = Cidr::new(Ipv4Addr::new(127, 0, 0, 0), 8).expect("a valid range");
    let node = local(Side::Destination, true)
        .into_iter()
        .chain([destination(KEY)])
        .chain(within(KEY, &loopback, false))
        .chain(dispatch(Origin::Node, Stage::First));
    ops.push(rule(name, node));
    if let Some(services) = &surroundings.services {
        let steps = std::iter::once(destination(KEY)).chain(within(KEY, services, true));
        ops.push(rule(name, steps.chain([goto(REFUSE)])));
    }
}

/// Where first packets leave: who gets the node's address.
fn leave(ops: &mut Vec<Op>, surroundings: &Network) {
    const NAME: &str = "postrouting";
    let base = Base {
        kind: ChainType::Nat,
        hook: Hook::Postrouting,
        priority: 100,
    };
    ops.push(Op::AddChain(Chain {
        name: NAME.to_owned(),
        base: Some(base),
    }));
    let bit = MARK.to_ne_bytes().to_vec();
    let marked = [
        Expr::Meta {
            key: Meta::Mark,
            to: KEY,
        },
        Expr::Bits {
            from: KEY,
            to: Reg::new(1),
            mask: bit.clone(),
            xor: vec![0; 4],
        },
        Expr::Compare {
            from: Reg::new(1),
            how: Compare::Equal,
            value: bit,
        },
        Expr::Bits {
            from: KEY,
            to: KEY,
            mask: (!MARK).to_ne_bytes().to_vec(),
            xor: vec![0; 4],
        },
        Expr::SetMark { from: KEY },
        Expr::Masquerade,
    ];
    ops.push(rule(NAME, marked));
    // An endpoint that reaches itself would answer itself directly, under an address that it did not ask.
    let itself = [
        source(KEY),
        destination(Reg::new(1)),
        Expr::Lookup {
            set: sets::HAIRPIN.to_owned(),
            from: KEY,
            to: None,
            invert: false,
        },
        Expr::Masquerade,
    ];
    ops.push(rule(NAME, itself));
    let multicast = Cidr::new(Ipv4Addr::new(224, 0, 0, 0), 4).expect("a valid range");
    for pods in &surroundings.pods {
        let from_pods = || std::iter::once(source(KEY)).chain(within(KEY, pods, true));
        if !surroundings.bridge_filtered {
            let translated = [
                Expr::CtStatus { to: KEY },
                Expr::Bits {
                    from: KEY,
                    to: KEY,
                    mask: 0x20u32.to_ne_bytes().to_vec(),
                    xor: vec![0; 4],
                },
                Expr::Compare {
                    from: KEY,
                    how: Compare::Differ,
                    value: vec![0; 4],
                },
            ];
            let steps = from_pods()
                .chain([destination(KEY)])
                .chain(within(KEY, pods, true))
                .chain(translated);
            ops.push(rule(NAME, steps.chain([Expr::Masquerade])));
        }
        let mut steps: Vec<_> = from_pods().collect();
        for range in [surroundings.cluster.as_ref().unwrap_or(pods), &multicast] {
            steps.push(destination(KEY));
            steps.extend(within(KEY, range, false));
        }
        if let Some(bridge) = &surroundings.bridge {
            let mut value = bridge.clone().into_bytes();
            value.resize(16, 0);
            steps.push(Expr::Meta {
                key: Meta::OutName,
                to: KEY,
            });
            steps.push(Expr::Compare {
                from: KEY,
                how: Compare::Differ,
                value,
            });
        }
        steps.push(Expr::Masquerade);
        ops.push(rule(NAME, steps));
    }
}

/// What becomes of a packet of a class.
pub(super) fn verdict(class: &Class) -> Verdict {
    match class {
        Class::Refuse => Verdict::Goto(REFUSE.to_owned()),
        Class::Drop => Verdict::Drop,
        Class::Split(origin) => Verdict::Goto(split_name(*origin).to_owned()),
        Class::Guard => Verdict::Goto(GUARD.to_owned()),
        Class::Pick(picker) => Verdict::Goto(picker.chain()),
    }
}

/// Names of chains that choose endpoints begin so.
pub(super) const PICK: &str = "pick-";

impl Picker {
    /// The chain that chooses this way: all about it is in its name, so that a chain that is found is known.
    pub(super) fn chain(&self) -> String {
        let origin = match self.origin {
            Origin::Address => "address",
            Origin::Node => "node",
        };
        let reach = match self.reach {
            Reach::All => "",
            Reach::Near => "-near",
        };
        let masquerade = if self.masquerade { "-masquerade" } else { "" };
        let sticky = if self.sticky > 0 {
            format!("-sticky-{}", self.sticky)
        } else {
            String::new()
        };
        format!("{PICK}{origin}{reach}{masquerade}-{}{sticky}", self.count)
    }
}

/// Makes the chain that chooses endpoints in one way.
pub fn picker(picker: &Picker) -> Vec<Op> {
    let name = picker.chain();
    let mut ops = vec![plain_chain(&name)];
    if picker.masquerade {
        ops.push(rule(&name, mark()));
    }
    let find = |slot: Expr| {
        let (mut steps, from) = load(picker.origin);
        steps.push(slot);
        steps.push(Expr::Lookup {
            set: endpoints_of(picker.origin).to_owned(),
            from,
            to: Some(ADDRESS),
            invert: false,
        });
        steps.push(Expr::Translate {
            address: ADDRESS,
            port: PORT,
        });
        steps
    };
    let draw = |to| Expr::Random {
        to,
        modulus: u32::from(picker.count),
        offset: picker.base(),
    };
    if picker.sticky > 0 {
        let (protocol, port) = protocol_and_port(Reg::new(6), Reg::new(7));
        let client = [source(CLIENT), destination(Reg::new(5)), protocol, port];
        // A new client is given a slot; one that was here before keeps its own, and its time begins again.
        let remember = [
            draw(ADDRESS),
            Expr::Update {
                set: sets::STICKY.to_owned(),
                how: Update::Put,
                key: CLIENT,
                value: Some(ADDRESS),
                timeout_ms: u64::from(picker.sticky) * 1000,
            },
        ];
        ops.push(rule(&name, client.clone().into_iter().chain(remember)));
        let recall = [
            Expr::Lookup {
                set: sets::STICKY.to_owned(),
                from: CLIENT,
                to: Some(ADDRESS),
                invert: false,
            },
            Expr::SetMark { from: ADDRESS },
        ];
        ops.push(rule(&name, client.into_iter().chain(recall)));
        let recalled = Expr::Meta {
            key: Meta::Mark,
            to: SLOT,
        };
        ops.push(rule(&name, find(recalled)));
    }
    // Also for clients that could not be remembered, because there are too many.
    ops.push(rule(&name, find(draw(SLOT))));
    ops
}
