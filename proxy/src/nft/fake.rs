//! A table in memory that accepts and refuses what the kernel would.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::{Chain, Data, Dump, Element, Error, Expr, Holds, Meta, Nft, Op, Reg, Set, Transaction, Value, Verdict};

/// A table in memory. Tests ask it where a packet ends.
#[derive(Debug, Clone, Default)]
pub struct Fake {
    pub(super) table: Option<Table>,
    /// Transactions so far, for tests that count.
    pub applied: Vec<Transaction>,
    /// The next transaction fails, as when another program changed the rules.
    pub fail_next: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) note: Data,
    pub(super) sets: BTreeMap<String, (Set, BTreeMap<Data, Element>)>,
    pub(super) chains: BTreeMap<String, (Chain, Vec<Vec<Expr>>)>,
}

fn refused(what: &str, errno: i32) -> Error {
    Error::Refused {
        what: what.to_owned(),
        cause: io::Error::from_raw_os_error(errno),
    }
}

impl Fake {
    /// Whether two tables hold the same.
    pub fn same(&self, other: &Self) -> bool {
        self.table == other.table
    }

    fn op(table: &mut Option<Table>, op: &Op) -> Result<(), Error> {
        match op {
            Op::DeleteTable => {
                *table = None;
                return Ok(());
            }
            Op::AddTable { note } => {
                let table = table.get_or_insert_with(Table::default);
                table.note.clone_from(note);
                return Ok(());
            }
            _ => {}
        }
        let table = table.as_mut().ok_or_else(|| refused("the table", libc::ENOENT))?;
        match op {
            Op::DeleteTable | Op::AddTable { .. } => {}
            Op::AddSet(set) => {
                table
                    .sets
                    .entry(set.name.clone())
                    .or_insert_with(|| (set.clone(), BTreeMap::new()));
            }
            Op::AddChain(chain) => {
                table
                    .chains
                    .entry(chain.name.clone())
                    .or_insert_with(|| (chain.clone(), Vec::new()));
            }
            Op::AddRule(rule) => {
                check(table, &rule.steps)?;
                let (_, rules) = table
                    .chains
                    .get_mut(&rule.chain)
                    .ok_or_else(|| refused(&rule.chain, libc::ENOENT))?;
                rules.push(rule.steps.clone());
            }
            Op::AddElements { set, elements } => {
                for element in elements {
                    if let Some(Value::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain))) = &element.value
                        && !table.chains.contains_key(chain)
                    {
                        return Err(refused(chain, libc::ENOENT));
                    }
                    let (spec, have) = table.sets.get_mut(set).ok_or_else(|| refused(set, libc::ENOENT))?;
                    let length = |words: &[super::Word]| words.len() * 4;
                    let good = element.key.len() == length(&spec.key)
                        && element.until.is_some() == spec.ranges
                        && match (&spec.holds, &element.value) {
                            (Holds::Nothing, None) | (Holds::Verdicts, Some(Value::Verdict(_))) => true,
                            (Holds::Values(words), Some(Value::Data(data))) => data.len() == length(words),
                            _ => false,
                        };
                    if !good {
                        return Err(refused(set, libc::EINVAL));
                    }
                    if have.get(&element.key).is_some_and(|old| old != element) {
                        return Err(refused(set, libc::EEXIST));
                    }
                    have.insert(element.key.clone(), element.clone());
                }
            }
            Op::DeleteElements { set, elements } => {
                let (_, have) = table.sets.get_mut(set).ok_or_else(|| refused(set, libc::ENOENT))?;
                for element in elements {
                    have.remove(&element.key).ok_or_else(|| refused(set, libc::ENOENT))?;
                }
            }
            Op::FlushChain(name) => {
                table
                    .chains
                    .get_mut(name)
                    .ok_or_else(|| refused(name, libc::ENOENT))?
                    .1
                    .clear();
            }
            Op::DeleteChain(name) => {
                if table.targets().contains(name) {
                    return Err(refused(name, libc::EBUSY));
                }
                table.chains.remove(name).ok_or_else(|| refused(name, libc::ENOENT))?;
            }
        }
        Ok(())
    }
}

/// The chain that a verdict leads to.
fn target(verdict: &Verdict) -> Option<&String> {
    match verdict {
        Verdict::Jump(chain) | Verdict::Goto(chain) => Some(chain),
        Verdict::Accept | Verdict::Drop | Verdict::Return => None,
    }
}

impl Table {
    /// Chains that the elements of a map lead to.
    fn targets_of_map(&self, map: &str) -> impl Iterator<Item = &String> {
        let elements = self.sets.get(map).into_iter().flat_map(|(_, all)| all.values());
        elements.filter_map(|e| match &e.value {
            Some(Value::Verdict(verdict)) => target(verdict),
            _ => None,
        })
    }

    /// Chains that a chain leads to.
    fn targets_of_chain(&self, chain: &str) -> BTreeSet<&String> {
        let steps = self
            .chains
            .get(chain)
            .into_iter()
            .flat_map(|(_, rules)| rules.iter().flatten());
        let mut all = BTreeSet::new();
        for step in steps {
            match step {
                Expr::Verdict(verdict) => all.extend(target(verdict)),
                Expr::Dispatch { map, .. } => all.extend(self.targets_of_map(map)),
                _ => {}
            }
        }
        all
    }

    /// Chains that something leads to.
    fn targets(&self) -> BTreeSet<&String> {
        let maps = self.sets.keys().flat_map(|map| self.targets_of_map(map));
        let chains = self.chains.keys().flat_map(|chain| self.targets_of_chain(chain));
        maps.chain(chains).collect()
    }

    /// As in the kernel: a way through more chains than this counts as a loop.
    fn check_loops(&self) -> Result<(), Error> {
        const DEEPEST: usize = 16;
        let bases = self.chains.values().filter(|(chain, _)| chain.base.is_some());
        let mut level: BTreeSet<&String> = bases.map(|(chain, _)| &chain.name).collect();
        for _ in 0..DEEPEST {
            level = level
                .into_iter()
                .flat_map(|chain| self.targets_of_chain(chain))
                .collect();
        }
        if level.is_empty() {
            Ok(())
        } else {
            Err(refused("the transaction", libc::EMLINK))
        }
    }
}

/// Words that a step reads or writes: the first one and how many.
type Words = Vec<(Reg, usize)>;

/// What the kernel checks of a rule: sets and chains exist, and no word is read before it was written.
fn check(table: &Table, steps: &[Expr]) -> Result<(), Error> {
    let mut written = [false; 16];
    let words = |bytes: usize| bytes.div_ceil(4);
    let set = |name: &String| {
        table
            .sets
            .get(name)
            .map(|(set, _)| set)
            .ok_or_else(|| refused(name, libc::ENOENT))
    };
    let length = |set: &Set| match &set.holds {
        Holds::Values(words) => words.len(),
        Holds::Nothing | Holds::Verdicts => 0,
    };
    for step in steps {
        let (reads, writes): (Words, Words) = match step {
            Expr::Payload { len, to, .. } => (vec![], vec![(*to, words(*len as usize))]),
            Expr::Meta {
                key: Meta::OutName | Meta::InName,
                to,
            } => (vec![], vec![(*to, 4)]),
            Expr::Meta { to, .. } | Expr::AddressType { to, .. } | Expr::CtStatus { to } | Expr::Random { to, .. } => {
                (vec![], vec![(*to, 1)])
            }
            Expr::SetMark { from } => (vec![(*from, 1)], vec![]),
            Expr::Compare { from, value, .. } => (vec![(*from, words(value.len()))], vec![]),
            Expr::Bits { from, to, mask, .. } => (vec![(*from, words(mask.len()))], vec![(*to, words(mask.len()))]),
            Expr::Immediate { to, value } => (vec![], vec![(*to, words(value.len()))]),
            Expr::Lookup {
                set: name, from, to, ..
            } => {
                let set = set(name)?;
                (
                    vec![(*from, set.key.len())],
                    to.iter().map(|to| (*to, length(set))).collect(),
                )
            }
            Expr::Dispatch { map, from } => {
                let set = set(map)?;
                if set.holds != Holds::Verdicts {
                    return Err(refused(map, libc::EINVAL));
                }
                (vec![(*from, set.key.len())], vec![])
            }
            Expr::Translate { address, port } => (vec![(*address, 1), (*port, 1)], vec![]),
            Expr::Update {
                set: name, key, value, ..
            } => {
                let set = set(name)?;
                if set.dynamic.is_none() {
                    return Err(refused(name, libc::EOPNOTSUPP));
                }
                let value = value.iter().map(|v| (*v, length(set)));
                (std::iter::once((*key, set.key.len())).chain(value).collect(), vec![])
            }
            Expr::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain)) if !table.chains.contains_key(chain) => {
                return Err(refused(chain, libc::ENOENT));
            }
            Expr::Verdict(_) | Expr::Masquerade | Expr::Reject(_) => (vec![], vec![]),
        };
        for (reg, count) in reads {
            let at = reg.0 as usize;
            if !written.get(at..at + count).is_some_and(|w| w.iter().all(|w| *w)) {
                return Err(refused(&format!("{step} reads what was not written"), libc::ENODATA));
            }
        }
        for (reg, count) in writes {
            let at = reg.0 as usize;
            written
                .get_mut(at..at + count)
                .ok_or_else(|| refused("a register", libc::ERANGE))?
                .fill(true);
        }
    }
    Ok(())
}

impl Nft for Fake {
    fn apply(&mut self, transaction: &Transaction) -> Result<(), Error> {
        if transaction.is_empty() {
            return Ok(());
        }
        if std::mem::take(&mut self.fail_next) {
            return Err(refused("the transaction", libc::EBUSY));
        }
        let mut table = self.table.clone();
        for op in &transaction.ops {
            Self::op(&mut table, op)?;
        }
        if let Some(table) = &table {
            table.check_loops()?;
        }
        self.table = table;
        self.applied.push(transaction.clone());
        Ok(())
    }

    fn dump(&mut self, sets: &[&str]) -> Result<Option<Dump>, Error> {
        Ok(self.table.as_ref().map(|table| Dump {
            note: table.note.clone(),
            chains: table.chains.keys().cloned().collect(),
            sets: sets
                .iter()
                .filter_map(|name| Some(((*name).to_owned(), table.sets.get(*name)?.1.values().cloned().collect())))
                .collect(),
        }))
    }
}
