//! Netlink messages of the packet filter, written and read.
//!
//! Numbers are those of linux/netfilter/nf_tables.h. Lengths and types are in the machine's order, numbers inside attributes
//! in network order.

use super::{
    Base, Chain, ChainType, Compare, Data, Element, Expr, Header, Holds, Hook, Meta, Op, Refusal, Reg, Rule, Set, Side,
    Update, Value, Verdict, Word,
};
use crate::netlink::{ACK, APPEND, Attributes, CREATE, REQUEST, attribute, attributes, message, text};

const SUBSYSTEM: u16 = 10;
pub(super) const NEW_TABLE: u16 = SUBSYSTEM << 8;
pub(super) const GET_TABLE: u16 = SUBSYSTEM << 8 | 1;
pub(super) const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
pub(super) const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
pub(super) const GET_CHAIN: u16 = SUBSYSTEM << 8 | 4;
const DELETE_CHAIN: u16 = SUBSYSTEM << 8 | 5;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const DELETE_RULE: u16 = SUBSYSTEM << 8 | 8;
const NEW_SET: u16 = SUBSYSTEM << 8 | 9;
pub(super) const NEW_ELEMENT: u16 = SUBSYSTEM << 8 | 12;
pub(super) const GET_ELEMENT: u16 = SUBSYSTEM << 8 | 13;
const DELETE_ELEMENT: u16 = SUBSYSTEM << 8 | 14;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// The fixed part of the messages around a batch: the subsystem, in network order.
const BATCH: [u8; 4] = [0, 0, 0, 10];

/// IPv4. A table for IPv6 would differ in this number and in the length of addresses.
pub(super) const FAMILY: u8 = 2;
/// The fixed part of every question about rules.
pub(super) const FIXED: [u8; 4] = [FAMILY, 0, 0, 0];
/// Elements per message: an attribute's length has sixteen bits.
const ELEMENTS: usize = 400;

/// Messages for the kernel, one after the other.
pub(super) struct Batch<'a> {
    table: &'a str,
    pub(super) bytes: Vec<u8>,
    /// What each sequence number stands for, for errors: first number and words.
    pub(super) names: Vec<(u32, String)>,
    sequence: u32,
    last: usize,
}

impl<'a> Batch<'a> {
    pub(super) fn begin(table: &'a str, sequence: u32) -> Self {
        let mut batch = Self {
            table,
            bytes: Vec::with_capacity(4096),
            names: Vec::new(),
            sequence,
            last: 0,
        };
        batch.message(BATCH_BEGIN, 0, BATCH, |_| {});
        batch
    }

    /// Ends the batch; gives the bytes and the sequence number that the kernel will acknowledge.
    pub(super) fn end(mut self) -> (Vec<u8>, u32, Vec<(u32, String)>) {
        // The flags lie six bytes into the header.
        let flags = self.last + 6;
        let value = u16::from_ne_bytes([self.bytes[flags], self.bytes[flags + 1]]) | ACK;
        self.bytes[flags..flags + 2].copy_from_slice(&value.to_ne_bytes());
        let acknowledged = self.sequence;
        self.message(BATCH_END, 0, BATCH, |_| {});
        (self.bytes, acknowledged, self.names)
    }

    fn message(&mut self, kind: u16, flags: u16, fixed: [u8; 4], body: impl FnOnce(&mut Attributes<'_>)) {
        self.sequence = self.sequence.wrapping_add(1);
        self.last = self.bytes.len();
        message(&mut self.bytes, kind, REQUEST | flags, self.sequence, &fixed, body);
    }

    fn send(&mut self, what: impl FnOnce() -> String, kind: u16, flags: u16, body: impl FnOnce(&mut Attributes<'_>)) {
        self.message(kind, flags, FIXED, body);
        self.names.push((self.sequence, what()));
    }

    pub(super) fn op(&mut self, op: &Op) {
        let table = self.table;
        match op {
            // Adding before deleting makes the deletion hold where there was none.
            Op::DeleteTable => {
                self.send(|| "the table".to_owned(), NEW_TABLE, CREATE, |a| a.text(1, table));
                self.send(
                    || "deleting the table".to_owned(),
                    DELETE_TABLE,
                    0,
                    |a| a.text(1, table),
                );
            }
            Op::AddTable { note } => self.send(
                || "the table".to_owned(),
                NEW_TABLE,
                CREATE,
                |a| {
                    a.text(1, table);
                    a.bytes(6, note);
                },
            ),
            Op::AddSet(set) => self.send(
                || format!("set {}", set.name),
                NEW_SET,
                CREATE,
                |a| write_set(a, table, set),
            ),
            Op::AddChain(chain) => {
                self.send(
                    || format!("chain {}", chain.name),
                    NEW_CHAIN,
                    CREATE,
                    |a| write_chain(a, table, chain),
                );
            }
            Op::AddRule(rule) => self.send(
                || format!("a rule of chain {}", rule.chain),
                NEW_RULE,
                CREATE | APPEND,
                |a| write_rule(a, table, rule),
            ),
            Op::AddElements { set, elements } => {
                for some in elements.chunks(ELEMENTS) {
                    self.send(
                        || format!("elements of {set}"),
                        NEW_ELEMENT,
                        CREATE,
                        |a| write_elements(a, table, set, some, true),
                    );
                }
            }
            Op::DeleteElements { set, elements } => {
                for some in elements.chunks(ELEMENTS) {
                    self.send(
                        || format!("deleting elements of {set}"),
                        DELETE_ELEMENT,
                        0,
                        |a| write_elements(a, table, set, some, false),
                    );
                }
            }
            Op::FlushChain(name) => self.send(
                || format!("emptying chain {name}"),
                DELETE_RULE,
                0,
                |a| {
                    a.text(1, table);
                    a.text(2, name);
                },
            ),
            Op::DeleteChain(name) => self.send(
                || format!("deleting chain {name}"),
                DELETE_CHAIN,
                0,
                |a| {
                    a.text(1, table);
                    a.text(3, name);
                },
            ),
        }
    }
}

/// What nft messages say beyond generic attributes.
trait Words {
    fn register(&mut self, kind: u16, reg: Reg);
    fn data(&mut self, kind: u16, value: &[u8]);
    fn verdict(&mut self, kind: u16, verdict: &Verdict);
    fn step(&mut self, name: &str, body: impl FnOnce(&mut Attributes<'_>));
}

impl Words for Attributes<'_> {
    fn register(&mut self, kind: u16, reg: Reg) {
        // The words begin behind the four old sixteen-byte registers.
        self.number(kind, 8 + u32::from(reg.0));
    }

    fn data(&mut self, kind: u16, value: &[u8]) {
        self.nest(kind, |a| a.bytes(1, value));
    }

    fn verdict(&mut self, kind: u16, verdict: &Verdict) {
        let (code, chain): (i32, Option<&str>) = match verdict {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Jump(chain) => (-3, Some(chain)),
            Verdict::Goto(chain) => (-4, Some(chain)),
            Verdict::Return => (-5, None),
        };
        self.nest(kind, |a| {
            a.nest(2, |a| {
                a.bytes(1, &code.to_be_bytes());
                if let Some(chain) = chain {
                    a.text(2, chain);
                }
            });
        });
    }

    /// One step of a rule: its name and its own attributes.
    fn step(&mut self, name: &str, body: impl FnOnce(&mut Attributes<'_>)) {
        self.nest(1, |a| {
            a.text(1, name);
            a.nest(2, body);
        });
    }
}

fn write_set(a: &mut Attributes<'_>, table: &str, set: &Set) {
    const INTERVAL: u32 = 0x4;
    const MAP: u32 = 0x8;
    const TIMEOUT: u32 = 0x10;
    const EVAL: u32 = 0x20;
    const CONCAT: u32 = 0x80;
    let mut flags = 0;
    if set.ranges {
        flags |= INTERVAL | CONCAT;
    }
    if set.dynamic.is_some() {
        flags |= TIMEOUT | EVAL;
    }
    if set.holds != Holds::Nothing {
        flags |= MAP;
    }
    a.text(1, table);
    a.text(2, &set.name);
    a.number(3, flags);
    a.number(4, type_of(&set.key));
    a.number(5, length_of(&set.key));
    match &set.holds {
        Holds::Nothing => {}
        Holds::Verdicts => a.number(6, 0xffff_ff00),
        Holds::Values(words) => {
            a.number(6, type_of(words));
            a.number(7, length_of(words));
        }
    }
    if set.ranges || set.dynamic.is_some() {
        a.nest(9, |a| {
            if let Some(size) = set.dynamic {
                a.number(1, size);
            }
            if set.ranges {
                a.nest(2, |a| {
                    for _ in &set.key {
                        a.nest(1, |a| a.number(1, 4));
                    }
                });
            }
        });
    }
    // Required, and read by nobody: sets are named here.
    a.number(10, 1);
}

/// Each word is a data type of the nft tool, six bits each.
fn type_of(words: &[Word]) -> u32 {
    words.iter().fold(0, |all, word| {
        let one = match word {
            Word::Address => 7,
            Word::Protocol => 12,
            Word::Port => 13,
            Word::Number => 19,
        };
        all << 6 | one
    })
}

fn length_of(words: &[Word]) -> u32 {
    u32::try_from(words.len() * 4).expect("a key has a few words")
}

fn write_chain(a: &mut Attributes<'_>, table: &str, chain: &Chain) {
    a.text(1, table);
    a.text(3, &chain.name);
    if let Some(Base { kind, hook, priority }) = chain.base {
        a.nest(4, |a| {
            a.number(
                1,
                match hook {
                    Hook::Prerouting => 0,
                    Hook::Input => 1,
                    Hook::Forward => 2,
                    Hook::Output => 3,
                    Hook::Postrouting => 4,
                },
            );
            a.bytes(2, &priority.to_be_bytes());
        });
        a.number(5, 1);
        a.text(
            7,
            match kind {
                ChainType::Filter => "filter",
                ChainType::Nat => "nat",
            },
        );
    }
}

fn write_rule(a: &mut Attributes<'_>, table: &str, rule: &Rule) {
    a.text(1, table);
    a.text(2, &rule.chain);
    a.nest(4, |a| {
        for step in &rule.steps {
            write_step(a, step);
        }
    });
}

fn meta_key(key: Meta) -> u32 {
    match key {
        Meta::Mark => 3,
        Meta::OutIndex => 5,
        Meta::InName => 6,
        Meta::OutName => 7,
        Meta::L4Proto => 16,
    }
}

fn write_step(a: &mut Attributes<'_>, step: &Expr) {
    match step {
        Expr::Payload {
            header,
            offset,
            len,
            to,
        } => a.step("payload", |a| {
            a.register(1, *to);
            a.number(
                2,
                match header {
                    Header::Network => 1,
                    Header::Transport => 2,
                },
            );
            a.number(3, *offset);
            a.number(4, *len);
        }),
        Expr::Meta { key, to } => a.step("meta", |a| {
            a.register(1, *to);
            a.number(2, meta_key(*key));
        }),
        Expr::SetMark { from } => a.step("meta", |a| {
            a.number(2, meta_key(Meta::Mark));
            a.register(3, *from);
        }),
        Expr::CtStatus { to } => a.step("ct", |a| {
            a.register(1, *to);
            a.number(2, 2);
        }),
        Expr::Compare { from, how, value } => a.step("cmp", |a| {
            a.register(1, *from);
            a.number(
                2,
                match how {
                    Compare::Equal => 0,
                    Compare::Differ => 1,
                },
            );
            a.data(3, value);
        }),
        Expr::Bits { from, to, mask, xor } => a.step("bitwise", |a| {
            a.register(1, *from);
            a.register(2, *to);
            a.number(3, u32::try_from(mask.len()).expect("a few words"));
            a.data(4, mask);
            a.data(5, xor);
        }),
        Expr::Immediate { to, value } => a.step("immediate", |a| {
            a.register(1, *to);
            a.data(2, value);
        }),
        Expr::Lookup { set, from, to, invert } => a.step("lookup", |a| {
            a.text(1, set);
            a.register(2, *from);
            if let Some(to) = to {
                a.register(3, *to);
            }
            if *invert {
                a.number(5, 1);
            }
        }),
        Expr::Dispatch { map, from } => a.step("lookup", |a| {
            a.text(1, map);
            a.register(2, *from);
            // Register 0 receives verdicts.
            a.number(3, 0);
        }),
        Expr::Random { to, modulus, offset } => a.step("numgen", |a| {
            a.register(1, *to);
            a.number(2, *modulus);
            a.number(3, 1);
            a.number(4, *offset);
        }),
        Expr::AddressType { of, to } => a.step("fib", |a| {
            a.register(1, *to);
            a.number(2, 3);
            a.number(
                3,
                match of {
                    Side::Source => 1,
                    Side::Destination => 2,
                },
            );
        }),
        Expr::Translate { address, port } => a.step("nat", |a| {
            a.number(1, 1);
            a.number(2, u32::from(FAMILY));
            a.register(3, *address);
            a.register(5, *port);
        }),
        Expr::Masquerade => a.step("masq", |a| {
            // Random source ports: two flows that start together must not race for one port.
            a.number(1, 0x10);
        }),
        Expr::Reject(how) => a.step("reject", |a| match how {
            Refusal::TcpReset => {
                a.number(1, 1);
                a.bytes(2, &[0]);
            }
            Refusal::PortUnreachable => {
                a.number(1, 0);
                a.bytes(2, &[3]);
            }
        }),
        Expr::Update {
            set,
            how,
            key,
            value,
            timeout_ms,
        } => a.step("dynset", |a| {
            a.text(1, set);
            a.number(
                3,
                match how {
                    Update::Put => 1,
                    Update::Delete => 2,
                },
            );
            a.register(4, *key);
            if let Some(value) = value {
                a.register(5, *value);
            }
            if *how == Update::Put {
                a.bytes(6, &timeout_ms.to_be_bytes());
            }
        }),
        Expr::Verdict(verdict) => a.step("immediate", |a| {
            a.number(1, 0);
            a.verdict(2, verdict);
        }),
    }
}

fn write_elements(a: &mut Attributes<'_>, table: &str, set: &str, elements: &[Element], values: bool) {
    a.text(1, table);
    a.text(2, set);
    a.nest(3, |a| {
        for Element { key, until, value } in elements {
            a.nest(1, |a| {
                a.data(1, key);
                if let Some(until) = until {
                    a.data(10, until);
                }
                match value {
                    Some(Value::Data(value)) if values => a.data(2, value),
                    Some(Value::Verdict(verdict)) if values => a.verdict(2, verdict),
                    _ => {}
                }
            });
        }
    });
}

/// What follows the fixed part.
fn rest(body: &[u8]) -> &[u8] {
    body.get(FIXED.len()..).unwrap_or_default()
}

/// The elements in the attributes of one message.
pub(super) fn elements(body: &[u8]) -> Vec<Element> {
    let Some(list) = attribute(rest(body), 3) else {
        return Vec::new();
    };
    attributes(list)
        .filter_map(|(_, element)| {
            let key = attribute(attribute(element, 1)?, 1)?.to_vec();
            let until = attribute(element, 10).and_then(|d| attribute(d, 1)).map(<[u8]>::to_vec);
            let value = attribute(element, 2).and_then(|data| match (attribute(data, 1), attribute(data, 2)) {
                (Some(value), _) => Some(Value::Data(value.to_vec())),
                (None, Some(verdict)) => Some(Value::Verdict(verdict_of(verdict)?)),
                (None, None) => None,
            });
            Some(Element { key, until, value })
        })
        .collect()
}

fn verdict_of(bytes: &[u8]) -> Option<Verdict> {
    let code: [u8; 4] = attribute(bytes, 1)?.try_into().ok()?;
    let chain = || attribute(bytes, 2).map(text);
    Some(match i32::from_be_bytes(code) {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        -5 => Verdict::Return,
        _ => return None,
    })
}

/// The note of a table, from the attributes of its message.
pub(super) fn table(body: &[u8]) -> Option<(String, Data)> {
    let body = rest(body);
    Some((
        text(attribute(body, 1)?),
        attribute(body, 6).unwrap_or_default().to_vec(),
    ))
}

/// A chain's table and name.
pub(super) fn chain(body: &[u8]) -> Option<(String, String)> {
    let body = rest(body);
    Some((text(attribute(body, 1)?), text(attribute(body, 3)?)))
}
