//! Who has which elements in the table now, and the transaction that makes them what they should be.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::layout::{PICK, note};
use super::{
    Class, Front, Group, Name, Network, Origin, Picker, Piece, Stage, allowed_element, endpoints_of, foundation,
    front_element, hairpin_element, map_of, picker, piece, sets, slot_element,
};
use crate::model::{Endpoint, Reach, ServicePort};
use crate::nft::{Data, Dump, Element, Op, Transaction, Value};

/// Whose elements they are. Where two want the same frontend the first one has it until it lets go.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    Service {
        namespace: Arc<str>,
        name: Arc<str>,
    },
    /// A pod of this node with ports of the node.
    Pod {
        namespace: Arc<str>,
        name: Arc<str>,
    },
}

/// What the table holds, by owner, and what has changed since the last transaction.
#[derive(Debug, Default)]
pub struct Book {
    /// Without what another owner has.
    pieces: HashMap<Owner, Piece>,
    fronts: HashMap<Front, Owner>,
    /// Who else would have a frontend.
    waiting: HashMap<Front, BTreeSet<Owner>>,
    /// Ways of choosing that have a chain. They stay when nobody uses them: endpoints come and go.
    pickers: HashSet<Picker>,
    hairpin: HashMap<Ipv4Addr, u32>,
    /// Where endpoints were when this program started.
    found: HashMap<(Name, Reach), Vec<Endpoint>>,
    changes: Changes,
    /// A slot is gone to which clients may return.
    left: bool,
}

#[derive(Debug, Default)]
struct Changes {
    pickers: BTreeSet<Picker>,
    add: HashMap<(&'static str, Data), Element>,
    delete: HashMap<(&'static str, Data), Element>,
}

impl Changes {
    /// An addition and a deletion of the same element leave nothing.
    fn add(&mut self, set: &'static str, element: Element) {
        let key = (set, element.key.clone());
        match self.delete.get(&key) {
            Some(old) if *old == element => {
                self.delete.remove(&key);
            }
            _ => {
                self.add.insert(key, element);
            }
        }
    }

    fn delete(&mut self, set: &'static str, element: Element) {
        let key = (set, element.key.clone());
        if self.add.remove(&key).is_none() {
            self.delete.insert(key, element);
        }
    }
}

impl Piece {
    fn elements(&self) -> Vec<(&'static str, Element)> {
        let mut all = Vec::new();
        for (front, class) in &self.fronts {
            all.push((map_of(front.name.origin(), front.stage), front_element(front, class)));
        }
        for group in &self.groups {
            for (slot, endpoint) in group.slots.iter().enumerate() {
                all.push((endpoints_of(group.name.origin()), slot_element(group, slot, endpoint)));
            }
        }
        all.extend(
            self.allowed
                .iter()
                .map(|(name, source)| (sets::ALLOWED, allowed_element(name, source))),
        );
        all
    }
}

impl Book {
    /// Starts from what a former run left in the kernel: endpoints keep their slots.
    pub fn remember(&mut self, dump: &Dump) {
        let mut slots: HashMap<(Name, Reach), Vec<(u32, Endpoint)>> = HashMap::new();
        for origin in [Origin::Address, Origin::Node] {
            for element in dump.sets.get(endpoints_of(origin)).into_iter().flatten() {
                let Some((name, [a, b, c, d])) = Name::read(origin, &element.key) else {
                    continue;
                };
                let slot = u32::from_ne_bytes([*a, *b, *c, *d]);
                let reach = if slot & 1 << 31 == 0 { Reach::All } else { Reach::Near };
                let Some(Value::Data(value)) = &element.value else {
                    continue;
                };
                let Some(endpoint) = Endpoint::read(value) else {
                    continue;
                };
                slots.entry((name, reach)).or_default().push((slot, endpoint));
            }
        }
        self.found = slots
            .into_iter()
            .map(|(group, mut slots)| {
                slots.sort_by_key(|(slot, _)| *slot);
                (group, slots.into_iter().map(|(_, endpoint)| endpoint).collect())
            })
            .collect();
    }

    /// Says what an owner should have: nothing, where there are no ports. Gives the owners that have to be asked again
    /// because something that they want became free.
    pub fn set(&mut self, owner: &Owner, ports: &[ServicePort]) -> Vec<Owner> {
        let old = self.pieces.remove(owner).unwrap_or_default();
        let mut new = piece(ports, |name, reach| {
            let now = old
                .groups
                .iter()
                .find(|g| g.name == name && g.reach == reach)
                .map(|g| g.slots.as_slice());
            now.or_else(|| self.found.get(&(name, reach)).map(Vec::as_slice))
        });

        let mut free = BTreeSet::new();
        for (front, _) in &old.fronts {
            self.fronts.remove(front);
            free.insert(*front);
        }
        for all in self.waiting.values_mut() {
            all.remove(owner);
        }
        let mut mine = HashSet::new();
        new.fronts.retain(|(front, _)| {
            if self.fronts.contains_key(front) {
                self.waiting.entry(*front).or_default().insert(owner.clone());
                return false;
            }
            free.remove(front);
            mine.insert(*front)
        });
        for front in &mine {
            self.fronts.insert(*front, owner.clone());
        }
        // Endpoints and admitted clients belong to whoever has the address itself.
        new.groups.retain(|g| {
            mine.contains(&Front {
                name: g.name,
                stage: Stage::First,
            })
        });
        new.allowed.retain(|(name, _)| {
            mine.contains(&Front {
                name: *name,
                stage: Stage::First,
            })
        });

        for (_, class) in &new.fronts {
            if let Class::Pick(picker) = class
                && self.pickers.insert(*picker)
            {
                self.changes.pickers.insert(*picker);
            }
        }
        let mut gone: HashMap<_, _> = old
            .elements()
            .into_iter()
            .map(|(set, e)| ((set, e.key.clone()), e))
            .collect();
        for (set, element) in new.elements() {
            match gone.remove(&(set, element.key.clone())) {
                Some(same) if same == element => {}
                Some(other) => {
                    self.changes.delete(set, other);
                    self.changes.add(set, element);
                }
                None => self.changes.add(set, element),
            }
        }
        for ((set, _), element) in gone {
            self.changes.delete(set, element);
        }
        for group in old.groups.iter().filter(|g| g.sticky) {
            let now = new
                .groups
                .iter()
                .find(|g| g.name == group.name && g.reach == group.reach);
            self.left |= now.is_none_or(|g| g.slots.len() < group.slots.len());
        }
        self.count_hairpin(&old.hairpin, &new.hairpin);
        if !new.fronts.is_empty() || !new.hairpin.is_empty() {
            self.pieces.insert(owner.clone(), new);
        }

        self.waiting.retain(|_, owners| !owners.is_empty());
        let mut again = BTreeSet::new();
        for front in free {
            again.extend(self.waiting.get(&front).into_iter().flatten().cloned());
        }
        again.into_iter().collect()
    }

    fn count_hairpin(&mut self, old: &[Ipv4Addr], new: &[Ipv4Addr]) {
        for address in new {
            let count = self.hairpin.entry(*address).or_default();
            *count += 1;
            if *count == 1 {
                self.changes.add(sets::HAIRPIN, hairpin_element(*address));
            }
        }
        for address in old {
            let count = self.hairpin.get_mut(address).expect("it was counted when it came");
            *count -= 1;
            if *count == 0 {
                self.hairpin.remove(address);
                self.changes.delete(sets::HAIRPIN, hairpin_element(*address));
            }
        }
    }

    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.pieces.keys()
    }

    /// Whether clients may be remembered with endpoints that left; asking ends it.
    pub fn clients_left(&mut self) -> bool {
        std::mem::take(&mut self.left)
    }

    /// Which of these elements of `sticky` lead to a slot that is no more. Whoever was with an endpoint that left goes to the one
    /// in its place, if there is one.
    pub fn stale(&self, clients: &[Element]) -> Vec<Element> {
        let mut groups: HashMap<Name, Vec<&Group>> = HashMap::new();
        for group in self.pieces.values().flat_map(|p| &p.groups).filter(|g| g.sticky) {
            groups.entry(group.name).or_default().push(group);
        }
        let is_served = |client: &&Element| {
            let (_, key) = client.key.split_at_checked(4)?;
            let (name, _) = Name::read(Origin::Address, key)?;
            let node = Name {
                address: Ipv4Addr::UNSPECIFIED,
                ..name
            };
            let Some(Value::Data(value)) = &client.value else {
                return None;
            };
            let slot = u32::from_ne_bytes(value.first_chunk().copied()?);
            let within = |g: &&Group| slot.checked_sub(g.base()).is_some_and(|n| (n as usize) < g.slots.len());
            Some(groups.get(&name).or_else(|| groups.get(&node))?.iter().any(within))
        };
        clients.iter().filter(|c| is_served(c) != Some(true)).cloned().collect()
    }

    /// The frontends and endpoints that an owner has.
    pub fn piece(&self, owner: &Owner) -> Option<&Piece> {
        self.pieces.get(owner)
    }

    /// The transaction for all that was said since the last one.
    pub fn changes(&mut self) -> Transaction {
        let Changes { pickers, add, delete } = std::mem::take(&mut self.changes);
        let mut ops: Vec<Op> = pickers.iter().flat_map(picker).collect();
        let (mut adding, mut deleting) = (by_set(add), by_set(delete));
        for set in sets::OURS {
            if let Some(elements) = deleting.remove(set) {
                ops.push(Op::DeleteElements {
                    set: set.to_owned(),
                    elements,
                });
            }
        }
        for set in sets::OURS {
            if let Some(elements) = adding.remove(set) {
                ops.push(Op::AddElements {
                    set: set.to_owned(),
                    elements,
                });
            }
        }
        Transaction { ops }
    }

    /// All elements that the table should have, but those that dispatch.
    fn wanted(&self) -> HashMap<(&'static str, Data), Element> {
        let of_pieces = self.pieces.values().flat_map(Piece::elements);
        let hairpin = self.hairpin.keys().map(|a| (sets::HAIRPIN, hairpin_element(*a)));
        of_pieces
            .chain(hairpin)
            .map(|(set, e)| ((set, e.key.clone()), e))
            .collect()
    }

    /// The transaction that makes the table from nothing, in place of any that is there.
    pub fn whole(&mut self, surroundings: &Network) -> Transaction {
        self.changes = Changes::default();
        self.forget_unused();
        let mut ops = foundation(surroundings);
        let pickers: BTreeSet<_> = self.pickers.iter().collect();
        ops.extend(pickers.into_iter().flat_map(picker));
        let mut all = by_set(self.wanted());
        for set in sets::OURS {
            if let Some(elements) = all.remove(set) {
                ops.push(Op::AddElements {
                    set: set.to_owned(),
                    elements,
                });
            }
        }
        Transaction { ops }
    }

    fn forget_unused(&mut self) {
        let classes = self.pieces.values().flat_map(|p| &p.fronts).map(|(_, class)| class);
        self.pickers = classes
            .filter_map(|c| if let Class::Pick(p) = c { Some(*p) } else { None })
            .collect();
    }

    /// The transaction that turns the table as it was found into the one that is wanted: only the differences, so that what
    /// works goes on working. Replaces the table where another version or other surroundings made it.
    /// `pods` says whether the ports that pods want are known yet; until they are, those found stay.
    pub fn settle(&mut self, surroundings: &Network, found: Option<&Dump>, pods: bool) -> Transaction {
        let mine = found.filter(|dump| dump.note == note(surroundings));
        let Some(dump) = mine else {
            return self.whole(surroundings);
        };
        self.changes = Changes::default();
        self.found = HashMap::new();
        self.forget_unused();

        let mut wanted = self.wanted();
        let mut changes = Changes::default();
        let found: HashSet<_> = dump.chains.iter().filter(|name| name.starts_with(PICK)).collect();
        let used: HashSet<String> = self.pickers.iter().map(Picker::chain).collect();
        changes
            .pickers
            .extend(self.pickers.iter().filter(|p| !found.contains(&p.chain())));
        let mut ops = Vec::new();
        for set in sets::OURS {
            for element in dump.sets.get(set).into_iter().flatten() {
                match wanted.remove(&(set, element.key.clone())) {
                    Some(same) if same == *element => {}
                    Some(other) => {
                        changes.delete(set, element.clone());
                        changes.add.insert((set, other.key.clone()), other);
                    }
                    None if !pods && of_node(set) => {}
                    None => changes.delete(set, element.clone()),
                }
            }
        }
        changes.add.extend(wanted);
        self.changes = changes;
        ops.extend(self.changes().ops);
        // Ways of choosing that nobody uses, now that nothing leads there.
        if pods {
            let mut idle: Vec<_> = found.into_iter().filter(|name| !used.contains(*name)).collect();
            idle.sort();
            ops.extend(idle.into_iter().map(|name| Op::DeleteChain(name.clone())));
        }
        // Clients may return to endpoints that left while nobody looked.
        self.left = self.pieces.values().flat_map(|p| &p.groups).any(|g| g.sticky);
        Transaction { ops }
    }
}

/// Whether elements of a set may belong to ports that pods want.
fn of_node(set: &str) -> bool {
    sets::NODE.contains(&set) || set == sets::NODE_ENDPOINTS || set == sets::HAIRPIN
}

/// Elements by set, sorted, so that equal changes make equal transactions.
fn by_set(all: HashMap<(&'static str, Data), Element>) -> HashMap<&'static str, Vec<Element>> {
    let mut sets: HashMap<&'static str, Vec<Element>> = HashMap::new();
    for ((set, _), element) in all {
        sets.entry(set).or_default().push(element);
    }
    for elements in sets.values_mut() {
        elements.sort_by(|a, b| a.key.cmp(&b.key));
    }
    sets
}
