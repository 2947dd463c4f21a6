//! Transactions and rules as text, for goldens and logs, in words close to those of the nft tool.

use std::fmt;
use std::net::Ipv4Addr;

use super::{
    Chain, Compare, Data, Element, Expr, Header, Holds, Meta, Op, Refusal, Reg, Rule, Side, Transaction, Update, Value,
    Verdict,
};

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for op in &self.ops {
            match op {
                Op::DeleteTable => writeln!(f, "delete table")?,
                Op::AddTable { .. } => writeln!(f, "add table")?,
                Op::AddSet(set) => {
                    let kind = if set.holds == Holds::Nothing { "set" } else { "map" };
                    writeln!(f, "add {kind} {}", set.name)?;
                }
                Op::AddChain(Chain { name, base: None }) => writeln!(f, "add chain {name}")?,
                Op::AddChain(Chain { name, base: Some(base) }) => {
                    writeln!(f, "add chain {name} {:?} {:?} {}", base.kind, base.hook, base.priority)?;
                }
                Op::AddRule(rule) => writeln!(f, "add rule {rule}")?,
                Op::AddElements { set, elements } => {
                    for element in elements {
                        writeln!(f, "add element {set} {element}")?;
                    }
                }
                Op::DeleteElements { set, elements } => {
                    for element in elements {
                        writeln!(f, "delete element {set} {}", Words(&element.key))?;
                    }
                }
                Op::FlushChain(name) => writeln!(f, "flush chain {name}")?,
                Op::DeleteChain(name) => writeln!(f, "delete chain {name}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.chain)?;
        for step in &self.steps {
            write!(f, " [{step}]")?;
        }
        Ok(())
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Words(&self.key))?;
        if let Some(until) = &self.until {
            write!(f, "-{}", Words(until))?;
        }
        match &self.value {
            None => Ok(()),
            Some(Value::Data(data)) => write!(f, " : {}", Words(data)),
            Some(Value::Verdict(verdict)) => write!(f, " : {verdict}"),
        }
    }
}

/// Words as dotted numbers: addresses read well, ports as their two bytes.
struct Words<'a>(&'a Data);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, word) in self.0.chunks(4).enumerate() {
            if n > 0 {
                f.write_str(" . ")?;
            }
            match word {
                [a, b, c, d] => write!(f, "{}", Ipv4Addr::new(*a, *b, *c, *d))?,
                other => write!(f, "{other:?}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

impl fmt::Display for Reg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "w{}", self.0)
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Payload {
                header,
                offset,
                len,
                to,
            } => {
                let header = match header {
                    Header::Network => "ip",
                    Header::Transport => "th",
                };
                write!(f, "{to} = {header}[{offset}+{len}]")
            }
            Self::Meta { key, to } => {
                let key = match key {
                    Meta::Mark => "mark",
                    Meta::L4Proto => "l4proto",
                    Meta::OutIndex => "oif",
                    Meta::OutName => "oifname",
                    Meta::InName => "iifname",
                };
                write!(f, "{to} = {key}")
            }
            Self::CtStatus { to } => write!(f, "{to} = ct status"),
            Self::SetMark { from } => write!(f, "mark = {from}"),
            Self::Compare {
                from,
                how: Compare::Equal,
                value,
            } => write!(f, "{from} == {}", Words(value)),
            Self::Compare {
                from,
                how: Compare::Differ,
                value,
            } => write!(f, "{from} != {}", Words(value)),
            Self::Bits { from, to, mask, xor } => write!(f, "{to} = {from} & {} ^ {}", Words(mask), Words(xor)),
            Self::Immediate { to, value } => write!(f, "{to} = {}", Words(value)),
            Self::Lookup {
                set,
                from,
                to: Some(to),
                ..
            } => write!(f, "{to} = {set}[{from}]"),
            Self::Lookup {
                set,
                from,
                to: None,
                invert,
            } => {
                write!(f, "{from} {}in {set}", if *invert { "not " } else { "" })
            }
            Self::Dispatch { map, from } => write!(f, "goto {map}[{from}]"),
            Self::Random { to, modulus, offset } => write!(f, "{to} = random % {modulus} + {offset}"),
            Self::AddressType { of: Side::Source, to } => write!(f, "{to} = type of source"),
            Self::AddressType {
                of: Side::Destination,
                to,
            } => write!(f, "{to} = type of destination"),
            Self::Translate { address, port } => write!(f, "dnat {address}:{port}"),
            Self::Masquerade => f.write_str("masquerade"),
            Self::Reject(Refusal::TcpReset) => f.write_str("reject with tcp reset"),
            Self::Reject(Refusal::PortUnreachable) => f.write_str("reject with port unreachable"),
            Self::Update {
                set,
                how: Update::Put,
                key,
                value,
                timeout_ms,
            } => {
                write!(f, "put {set}[{key}]")?;
                if let Some(value) = value {
                    write!(f, " = {value}")?;
                }
                write!(f, " for {timeout_ms} ms")
            }
            Self::Update {
                set,
                how: Update::Delete,
                key,
                ..
            } => write!(f, "delete {set}[{key}]"),
            Self::Verdict(verdict) => verdict.fmt(f),
        }
    }
}
