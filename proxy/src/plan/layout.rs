//! The table itself: sets, base chains and the chains that classes lead to.

use std::net::Ipv4Addr;

use super::{Class, Network, Origin, Picker, Stage, scope, sets};
use crate::cidr::Cidr;
use crate::model::{Reach, TCP};
use crate::nft::{
    Base, Chain, ChainType, Compare, Data, Element, Expr, Header, Holds, Hook, Meta, Op, Refusal, Reg, Rule, Set, Side,
    Update, Value, Verdict, Word,
};

/// Our table.
pub const TABLE: &str = "coracle";

/// The bit of the packet mark that asks for the node's address, from the decision to the end of the same packet's way
/// through this node. It is the one that Kubernetes nodes use for this.
pub const MARK: u32 = 0x4000;

/// Changes with the meaning of chains, sets or classes: a table with another number is replaced.
const VERSION: u32 = 1;

/// Classes that are always there, by the map that dispatches them.
pub(super) const FIXED: &[(&str, &[Class])] = &[
    (
        sets::DISPATCH,
        &[
            Class::Refuse,
            Class::Drop,
            Class::Split(Origin::Address),
            Class::Split(Origin::Node),
            Class::Guard,
        ],
    ),
    (
        sets::ADMITTED,
        &[Class::Refuse, Class::Drop, Class::Split(Origin::Address)],
    ),
    (sets::CHOSEN, &[Class::Refuse, Class::Drop]),
];

const REFUSE: &str = "refuse";
const GUARD: &str = "guard";

/// Elements of `sticky` at most; clients beyond that get any endpoint.
const STICKY: u32 = 262_144;

// Words of a rule. A frontend's key lies in 0–3; its value in 4–8: class, class, and the Service's name in 6–8. So a slot
// number in 9 completes the key of `endpoints`, and the client's address in 5 that of `sticky`. An endpoint lies in 10–11.
const KEY: Reg = Reg::new(0);
const CLASS: Reg = Reg::new(4);
const CLIENT: Reg = Reg::new(5);
const NAME: Reg = Reg::new(6);
const SLOT: Reg = Reg::new(9);
const ADDRESS: Reg = Reg::new(10);
const PORT: Reg = Reg::new(11);

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

/// Loads the frontend's key, finds it and leaves class and name.
fn find(origin: Origin, stage: Stage) -> Vec<Expr> {
    vec![
        match origin {
            Origin::Address => destination(KEY),
            Origin::Node => Expr::Immediate {
                to: KEY,
                value: Ipv4Addr::UNSPECIFIED.octets().to_vec(),
            },
        },
        Expr::Meta {
            key: Meta::L4Proto,
            to: Reg::new(1),
        },
        Expr::Payload {
            header: Header::Transport,
            offset: 2,
            len: 2,
            to: Reg::new(2),
        },
        Expr::Immediate {
            to: Reg::new(3),
            value: (stage as u32).to_ne_bytes().to_vec(),
        },
        Expr::Lookup {
            set: sets::SERVICES.to_owned(),
            from: KEY,
            to: Some(CLASS),
            invert: false,
        },
    ]
}

/// Each stage has a map of its own: one for all would lead from a chain back to itself, and the kernel refuses loops.
pub(super) fn dispatch_map(stage: Stage) -> &'static str {
    match stage {
        Stage::First => sets::DISPATCH,
        Stage::Admitted => sets::ADMITTED,
        Stage::Inside | Stage::Outside => sets::CHOSEN,
    }
}

fn dispatch(origin: Origin, stage: Stage) -> Vec<Expr> {
    let mut steps = find(origin, stage);
    steps.push(Expr::Dispatch {
        map: dispatch_map(stage).to_owned(),
        from: CLASS,
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
            sets::SERVICES,
            &[Address, Protocol, Port, Number],
            Holds::Values(vec![Number, Number, Address, Protocol, Port]),
        ),
        set(sets::DISPATCH, &[Number, Number], Holds::Verdicts),
        set(sets::ADMITTED, &[Number, Number], Holds::Verdicts),
        set(sets::CHOSEN, &[Number, Number], Holds::Verdicts),
        set(
            sets::ENDPOINTS,
            &[Address, Protocol, Port, Number],
            Holds::Values(vec![Address, Port]),
        ),
        set(
            sets::MEMBERS,
            &[Address, Protocol, Port, Number, Address, Port],
            Holds::Nothing,
        ),
        set(sets::HAIRPIN, &[Address, Address], Holds::Nothing),
        Op::AddSet(Set {
            name: sets::STICKY.to_owned(),
            key: vec![Address, Address, Protocol, Port],
            holds: Holds::Values(vec![Address, Port]),
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
    refuse(&mut ops, surroundings);
    for origin in [Origin::Address, Origin::Node] {
        split(&mut ops, origin, surroundings);
    }
    guard(&mut ops);
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        entry(&mut ops, name, hook, surroundings);
    }
    leave(&mut ops, surroundings);
    for (map, classes) in FIXED {
        ops.push(Op::AddElements {
            set: (*map).to_owned(),
            elements: classes.iter().map(dispatch_element).collect(),
        });
    }
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
    let mut steps = vec![
        destination(KEY),
        Expr::Meta {
            key: Meta::L4Proto,
            to: Reg::new(1),
        },
        Expr::Payload {
            header: Header::Transport,
            offset: 2,
            len: 2,
            to: Reg::new(2),
        },
        source(Reg::new(3)),
        Expr::Lookup {
            set: sets::ALLOWED.to_owned(),
            from: KEY,
            to: None,
            invert: false,
        },
    ];
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

/// The chain of a class.
pub(super) fn chain_name(class: &Class) -> Option<String> {
    Some(match class {
        Class::Refuse => REFUSE.to_owned(),
        Class::Drop => return None,
        Class::Split(origin) => split_name(*origin).to_owned(),
        Class::Guard => GUARD.to_owned(),
        Class::Pick(p) => {
            let origin = match p.origin {
                Origin::Address => "address",
                Origin::Node => "node",
            };
            let stage = match p.stage {
                Stage::First => "",
                Stage::Inside => "-inside",
                Stage::Outside => "-outside",
                Stage::Admitted => "-admitted",
            };
            let reach = match p.reach {
                Reach::All => "",
                Reach::Near => "-near",
            };
            let masquerade = if p.masquerade { "-masquerade" } else { "" };
            let sticky = if p.sticky > 0 {
                format!("-sticky-{}", p.sticky)
            } else {
                String::new()
            };
            format!("pick-{origin}{stage}{reach}{masquerade}-{}{sticky}", p.count)
        }
    })
}

pub(super) fn dispatch_element(class: &Class) -> Element {
    let key = class.words().iter().flat_map(|w| w.to_ne_bytes()).collect();
    let verdict = chain_name(class).map_or(Verdict::Drop, Verdict::Goto);
    Element {
        key,
        until: None,
        value: Some(Value::Verdict(verdict)),
    }
}

/// Makes the chain that chooses endpoints in one way, and leads its class there.
pub fn picker(picker: &Picker) -> Vec<Op> {
    let class = Class::Pick(*picker);
    let name = chain_name(&class).expect("a picker has a chain");
    let mut ops = vec![plain_chain(&name)];
    if picker.masquerade {
        ops.push(rule(&name, mark()));
    }
    let found = || find(picker.origin, picker.stage);
    let finish = [Expr::Translate {
        address: ADDRESS,
        port: PORT,
    }];
    let timeout_ms = u64::from(picker.sticky) * 1000;
    let remember = Expr::Update {
        set: sets::STICKY.to_owned(),
        how: Update::Put,
        key: CLIENT,
        value: Some(ADDRESS),
        timeout_ms,
    };
    if picker.sticky > 0 {
        // A client that was here before, if its endpoint still serves.
        let mut again = found();
        again.extend([
            source(CLIENT),
            Expr::Lookup {
                set: sets::STICKY.to_owned(),
                from: CLIENT,
                to: Some(ADDRESS),
                invert: false,
            },
            Expr::Immediate {
                to: SLOT,
                value: scope(picker.reach).to_ne_bytes().to_vec(),
            },
            Expr::Lookup {
                set: sets::MEMBERS.to_owned(),
                from: NAME,
                to: None,
                invert: false,
            },
            remember.clone(),
        ]);
        again.extend(finish.clone());
        ops.push(rule(&name, again));
        let mut forget = found();
        forget.extend([
            source(CLIENT),
            // The kernel wants the value of a map's element named, also to delete it.
            Expr::Lookup {
                set: sets::STICKY.to_owned(),
                from: CLIENT,
                to: Some(ADDRESS),
                invert: false,
            },
            Expr::Update {
                set: sets::STICKY.to_owned(),
                how: Update::Delete,
                key: CLIENT,
                value: Some(ADDRESS),
                timeout_ms: 0,
            },
        ]);
        ops.push(rule(&name, forget));
    }
    let mut choose = found();
    choose.push(match picker.count {
        1 => Expr::Immediate {
            to: SLOT,
            value: scope(picker.reach).to_ne_bytes().to_vec(),
        },
        count => Expr::Random {
            to: SLOT,
            modulus: u32::from(count),
            offset: scope(picker.reach),
        },
    });
    choose.push(Expr::Lookup {
        set: sets::ENDPOINTS.to_owned(),
        from: NAME,
        to: Some(ADDRESS),
        invert: false,
    });
    if picker.sticky > 0 {
        choose.push(source(CLIENT));
        choose.push(remember);
    }
    choose.extend(finish);
    ops.push(rule(&name, choose));
    ops.push(Op::AddElements {
        set: dispatch_map(picker.stage).to_owned(),
        elements: vec![dispatch_element(&class)],
    });
    ops
}
