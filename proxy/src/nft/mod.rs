//! Packet rules as values: a transaction of tables, chains, rules and set elements goes in, the kernel's state comes out.
//! Nothing here knows what a Service is, and no process is started: the kernel is spoken to over netlink.
//! Invariant: a transaction is applied as a whole or not at all, by the kernel and by the fake alike.

mod fake;
mod kernel;
mod render;
mod walk;
mod wire;

use std::collections::BTreeMap;
use std::io;

pub use fake::Fake;
pub use kernel::{Kernel, Watch};
pub use walk::{End, Packet};

/// Bytes of a key or a value: each field padded to four bytes, in network order where the kernel's registers have it so.
pub type Data = Vec<u8>;

/// Where values lie while a rule runs: one of sixteen words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reg(u8);

impl Reg {
    /// The word with this number.
    ///
    /// # Panics
    /// Beyond the sixteenth: rules are written by this program, not by its users.
    pub const fn new(word: u8) -> Self {
        assert!(word < 16, "there are sixteen words");
        Self(word)
    }
}

/// When a base chain sees packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChainType {
    Filter,
    Nat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Base {
    pub kind: ChainType,
    pub hook: Hook,
    pub priority: i32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub name: String,
    /// None for a chain that only others go to.
    pub base: Option<Base>,
}

/// What becomes of a packet, or where its evaluation goes on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Header {
    Network,
    Transport,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Meta {
    Mark,
    L4Proto,
    /// Index of the interface that the packet leaves by.
    OutIndex,
    OutName,
    InName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compare {
    Equal,
    Differ,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Source,
    Destination,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    TcpReset,
    PortUnreachable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Update {
    /// Adds the element, or gives it its time again.
    Put,
    Delete,
}

/// One step of a rule. A step that does not hold ends the rule, and the next rule is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    Payload {
        header: Header,
        offset: u32,
        len: u32,
        to: Reg,
    },
    Meta {
        key: Meta,
        to: Reg,
    },
    SetMark {
        from: Reg,
    },
    /// The connection's status bits (`IPS_*`).
    CtStatus {
        to: Reg,
    },
    Compare {
        from: Reg,
        how: Compare,
        value: Data,
    },
    /// `to = (from & mask) ^ xor`
    Bits {
        from: Reg,
        to: Reg,
        mask: Data,
        xor: Data,
    },
    Immediate {
        to: Reg,
        value: Data,
    },
    /// `to` receives the value of a map's element; without it only membership counts.
    Lookup {
        set: String,
        from: Reg,
        to: Option<Reg>,
        invert: bool,
    },
    /// Goes where the element of a verdict map says.
    Dispatch {
        map: String,
        from: Reg,
    },
    /// A random number below `modulus`, plus `offset`, in the machine's byte order.
    Random {
        to: Reg,
        modulus: u32,
        offset: u32,
    },
    /// Kind of address (`RTN_*`) of the packet's source or destination, as the routing tables see it.
    AddressType {
        of: Side,
        to: Reg,
    },
    Translate {
        address: Reg,
        port: Reg,
    },
    Masquerade,
    Reject(Refusal),
    Update {
        set: String,
        how: Update,
        key: Reg,
        value: Option<Reg>,
        timeout_ms: u64,
    },
    Verdict(Verdict),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub chain: String,
    pub steps: Vec<Expr>,
}

/// What the words of a key or value mean: for `nft list`, and to know their length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Word {
    Address,
    Protocol,
    Port,
    /// Any number, in the machine's byte order.
    Number,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holds {
    /// A set: keys alone.
    Nothing,
    Values(Vec<Word>),
    Verdicts,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub name: String,
    pub key: Vec<Word>,
    pub holds: Holds,
    /// Keys may be ranges, word by word.
    pub ranges: bool,
    /// Rules add elements; they leave when their time is over. The number bounds how many there are.
    pub dynamic: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Value {
    Data(Data),
    Verdict(Verdict),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Element {
    pub key: Data,
    /// The upper end, where keys are ranges.
    pub until: Option<Data>,
    pub value: Option<Value>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Nothing happens where there is none.
    DeleteTable,
    AddTable {
        note: Data,
    },
    AddSet(Set),
    AddChain(Chain),
    AddRule(Rule),
    AddElements {
        set: String,
        elements: Vec<Element>,
    },
    DeleteElements {
        set: String,
        elements: Vec<Element>,
    },
    FlushChain(String),
    DeleteChain(String),
}

/// Changes that happen together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    pub ops: Vec<Op>,
}

impl Transaction {
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Elements added and removed.
    pub fn elements(&self) -> usize {
        let count = |op: &Op| match op {
            Op::AddElements { elements, .. } | Op::DeleteElements { elements, .. } => elements.len(),
            _ => 0,
        };
        self.ops.iter().map(count).sum()
    }
}

/// What the kernel holds of our table. Rules are not read back: the note says which program wrote them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dump {
    pub note: Data,
    pub chains: Vec<String>,
    /// Elements by set; dynamic sets are left out.
    pub sets: BTreeMap<String, Vec<Element>>,
}

/// All but `Refused` may be retried as they are; after `Refused` the table has to be built again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("talking to the kernel's packet filter")]
    Socket(#[source] io::Error),
    #[error("the kernel refused {what}")]
    Refused {
        what: String,
        #[source]
        cause: io::Error,
    },
    #[error("the kernel's answer is cut off or malformed")]
    Malformed,
}

/// A table of packet rules: the kernel's, or one in memory that behaves like it.
pub trait Nft {
    fn apply(&mut self, transaction: &Transaction) -> Result<(), Error>;
    /// `None` where there is no table. `sets` names what to read.
    fn dump(&mut self, sets: &[&str]) -> Result<Option<Dump>, Error>;
}
