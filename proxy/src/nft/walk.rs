//! Follows a packet through a table in memory and says where it ends.
//!
//! Tests ask this instead of comparing rules: two different sets of rules that treat packets alike are equally right.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::fake::{Fake, Table};
use super::{
    Base, ChainType, Compare, Element, Expr, Header, Holds, Hook, Meta, Refusal, Reg, Side, Update, Value, Verdict,
};

/// The first packet of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub source: (Ipv4Addr, u16),
    pub destination: (Ipv4Addr, u16),
    /// 6 is TCP, 17 UDP, 132 SCTP.
    pub protocol: u8,
    pub mark: u32,
    /// The interface it leaves by, where it does.
    pub out: String,
}

impl Packet {
    pub fn new(protocol: u8, source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) -> Self {
        Self {
            source,
            destination,
            protocol,
            mark: 0,
            out: String::new(),
        }
    }
}

/// Where a packet ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// At this address, with its own source or with that of the node.
    Reaches {
        destination: (Ipv4Addr, u16),
        masqueraded: bool,
    },
    Dropped,
    Refused(Refusal),
}

struct Walk<'a> {
    table: &'a mut Table,
    /// Addresses of the node.
    local: &'a BTreeSet<Ipv4Addr>,
    /// What the random numbers are taken from.
    random: u32,
    packet: Packet,
    masqueraded: bool,
    translated: bool,
}

/// How a rule or chain ended.
enum Outcome {
    Next,
    Accept,
    Drop,
    Refused(Refusal),
    Return,
    Goto(String),
    Jump(String),
}

impl Fake {
    /// Follows a packet from outside or from a pod (`Prerouting`) or from the node itself (`Output`) to its end.
    /// `random` stands for the kernel's dice: consecutive numbers reach all endpoints.
    pub fn walk(&mut self, from: Hook, packet: Packet, local: &BTreeSet<Ipv4Addr>, random: u32) -> End {
        let destination = packet.destination;
        let Some(table) = self.table.as_mut() else {
            return End::Reaches {
                destination,
                masqueraded: false,
            };
        };
        let mut walk = Walk {
            table,
            local,
            random,
            packet,
            masqueraded: false,
            translated: false,
        };
        let mut hooks = vec![from];
        while let Some(hook) = hooks.pop() {
            match walk.hook(hook) {
                Outcome::Drop => return End::Dropped,
                Outcome::Refused(how) => return End::Refused(how),
                _ => {}
            }
            let here = walk.local.contains(&walk.packet.destination.0);
            match hook {
                Hook::Prerouting => hooks.push(if here { Hook::Input } else { Hook::Forward }),
                Hook::Forward | Hook::Output => hooks.push(Hook::Postrouting),
                Hook::Input | Hook::Postrouting => {}
            }
        }
        End::Reaches {
            destination: walk.packet.destination,
            masqueraded: walk.masqueraded,
        }
    }
}

impl Walk<'_> {
    fn hook(&mut self, hook: Hook) -> Outcome {
        let mut chains: Vec<(i32, ChainType, String)> = self
            .table
            .chains
            .values()
            .filter_map(|(chain, _)| match chain.base {
                Some(Base {
                    kind,
                    hook: at,
                    priority,
                }) if at == hook => Some((priority, kind, chain.name.clone())),
                _ => None,
            })
            .collect();
        chains.sort_by_key(|(priority, ..)| *priority);
        for (_, _, name) in chains {
            match self.chain(&name) {
                Outcome::Drop => return Outcome::Drop,
                Outcome::Refused(how) => return Outcome::Refused(how),
                _ => {}
            }
        }
        Outcome::Accept
    }

    fn chain(&mut self, name: &str) -> Outcome {
        let rules = self
            .table
            .chains
            .get(name)
            .map(|(_, rules)| rules.clone())
            .unwrap_or_default();
        for rule in rules {
            let outcome = match self.rule(&rule) {
                Outcome::Next => continue,
                Outcome::Jump(target) => match self.chain(&target) {
                    Outcome::Return => continue,
                    other => other,
                },
                Outcome::Goto(target) => return self.chain(&target),
                other => other,
            };
            return outcome;
        }
        Outcome::Return
    }

    fn verdict(verdict: &Verdict) -> Outcome {
        match verdict {
            Verdict::Accept => Outcome::Accept,
            Verdict::Drop => Outcome::Drop,
            Verdict::Return => Outcome::Return,
            Verdict::Jump(chain) => Outcome::Jump(chain.clone()),
            Verdict::Goto(chain) => Outcome::Goto(chain.clone()),
        }
    }

    /// The element whose key, or range, holds the words.
    fn find(&self, set: &str, key: &[u8]) -> Option<Element> {
        let (spec, elements) = self.table.sets.get(set)?;
        if !spec.ranges {
            return elements.get(key).cloned();
        }
        let within = |element: &&Element| {
            let until = element.until.as_deref().unwrap_or(&element.key);
            key.chunks(4)
                .zip(element.key.chunks(4).zip(until.chunks(4)))
                .all(|(k, (low, high))| (low..=high).contains(&k))
        };
        elements.values().find(within).cloned()
    }

    fn rule(&mut self, steps: &[Expr]) -> Outcome {
        let mut words = [0u8; 64];
        let at = |reg: &Reg| usize::from(reg.0) * 4;
        for step in steps {
            match step {
                Expr::Payload { header, offset, to, .. } => {
                    let mut word = [0; 4];
                    match (header, offset) {
                        (Header::Network, 12) => word = self.packet.source.0.octets(),
                        (Header::Network, 16) => word = self.packet.destination.0.octets(),
                        (Header::Transport, 0) => word[..2].copy_from_slice(&self.packet.source.1.to_be_bytes()),
                        (Header::Transport, 2) => word[..2].copy_from_slice(&self.packet.destination.1.to_be_bytes()),
                        _ => return Outcome::Next,
                    }
                    words[at(to)..at(to) + 4].copy_from_slice(&word);
                }
                Expr::Meta { key, to } => {
                    let mut value = vec![0; 4];
                    match key {
                        Meta::Mark => value = self.packet.mark.to_ne_bytes().to_vec(),
                        Meta::L4Proto => value[0] = self.packet.protocol,
                        Meta::OutName => {
                            value = self.packet.out.clone().into_bytes();
                            value.resize(16, 0);
                        }
                        Meta::OutIndex | Meta::InName => return Outcome::Next,
                    }
                    words[at(to)..at(to) + value.len()].copy_from_slice(&value);
                }
                Expr::CtStatus { to } => {
                    let status: u32 = if self.translated { 0x20 } else { 0 };
                    words[at(to)..at(to) + 4].copy_from_slice(&status.to_ne_bytes());
                }
                Expr::SetMark { from } => {
                    let word = &words[at(from)..at(from) + 4];
                    self.packet.mark = u32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
                }
                Expr::Compare { from, how, value } => {
                    let equal = words[at(from)..at(from) + value.len()] == value[..];
                    if equal != (*how == Compare::Equal) {
                        return Outcome::Next;
                    }
                }
                Expr::Bits { from, to, mask, xor } => {
                    for n in 0..mask.len() {
                        words[at(to) + n] = words[at(from) + n] & mask[n] ^ xor[n];
                    }
                }
                Expr::Immediate { to, value } => words[at(to)..at(to) + value.len()].copy_from_slice(value),
                Expr::Lookup { set, from, to, invert } => {
                    let length = self.table.sets.get(set).map_or(0, |(set, _)| set.key.len() * 4);
                    let found = self.find(set, &words[at(from)..at(from) + length]);
                    if found.is_some() == *invert {
                        return Outcome::Next;
                    }
                    if let (Some(to), Some(Value::Data(data))) = (to, found.and_then(|e| e.value)) {
                        words[at(to)..at(to) + data.len()].copy_from_slice(&data);
                    }
                }
                Expr::Dispatch { map, from } => {
                    let length = self.table.sets.get(map).map_or(0, |(set, _)| set.key.len() * 4);
                    match self
                        .find(map, &words[at(from)..at(from) + length])
                        .and_then(|e| e.value)
                    {
                        Some(Value::Verdict(verdict)) => return Self::verdict(&verdict),
                        _ => return Outcome::Next,
                    }
                }
                Expr::Random { to, modulus, offset } => {
                    let value = self.random % modulus + offset;
                    words[at(to)..at(to) + 4].copy_from_slice(&value.to_ne_bytes());
                }
                Expr::AddressType { of, to } => {
                    let address = match of {
                        Side::Source => self.packet.source.0,
                        Side::Destination => self.packet.destination.0,
                    };
                    let local = self.local.contains(&address) || address.is_loopback();
                    let kind: u32 = if local { 2 } else { 1 };
                    words[at(to)..at(to) + 4].copy_from_slice(&kind.to_ne_bytes());
                }
                Expr::Translate { address, port } => {
                    let (a, p) = (&words[at(address)..at(address) + 4], &words[at(port)..at(port) + 2]);
                    self.packet.destination = (Ipv4Addr::new(a[0], a[1], a[2], a[3]), u16::from_be_bytes([p[0], p[1]]));
                    self.translated = true;
                    return Outcome::Accept;
                }
                Expr::Masquerade => {
                    self.masqueraded = true;
                    return Outcome::Accept;
                }
                Expr::Reject(how) => return Outcome::Refused(*how),
                Expr::Update {
                    set, how, key, value, ..
                } => {
                    let Some((spec, elements)) = self.table.sets.get_mut(set) else {
                        return Outcome::Next;
                    };
                    let key = words[at(key)..at(key) + spec.key.len() * 4].to_vec();
                    match how {
                        Update::Put => {
                            let data = value.map(|v| {
                                let length = match &spec.holds {
                                    Holds::Values(words) => words.len() * 4,
                                    Holds::Nothing | Holds::Verdicts => 0,
                                };
                                Value::Data(words[at(&v)..at(&v) + length].to_vec())
                            });
                            // An element that is there keeps its value, as in the kernel.
                            elements.entry(key.clone()).or_insert(Element {
                                key,
                                until: None,
                                value: data,
                            });
                        }
                        Update::Delete => {
                            elements.remove(&key);
                        }
                    }
                }
                Expr::Verdict(verdict) => return Self::verdict(verdict),
            }
        }
        Outcome::Next
    }
}
