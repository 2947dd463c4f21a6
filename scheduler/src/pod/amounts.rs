//! Amounts of resources, as sums that pods add to and take from.

use std::collections::BTreeMap;

use api::quantity::Quantity;

/// CPU in thousandths, the rest in their own unit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Amounts {
    pub cpu: i64,
    pub memory: i64,
    pub ephemeral: i64,
    pub other: BTreeMap<Box<str>, i64>,
}

impl Amounts {
    /// Upstream's reading of a resource list: CPU in millis, the rest rounded up to whole units.
    pub fn from_list<'a>(list: impl IntoIterator<Item = (&'a str, Quantity)>) -> Self {
        let mut amounts = Amounts::default();
        for (name, quantity) in list {
            match name {
                "cpu" => amounts.cpu = quantity.as_milli(),
                "memory" => amounts.memory = quantity.as_i64(),
                "ephemeral-storage" => amounts.ephemeral = quantity.as_i64(),
                "pods" => {}
                other => {
                    amounts.other.insert(other.into(), quantity.as_i64());
                }
            }
        }
        amounts
    }

    /// The amount of one resource, by its name.
    pub fn of(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral,
            other => self.other.get(other).copied().unwrap_or(0),
        }
    }

    pub fn add(&mut self, more: &Amounts) {
        self.change(more, 1);
    }

    pub fn subtract(&mut self, less: &Amounts) {
        self.change(less, -1);
    }

    fn change(&mut self, by: &Amounts, sign: i64) {
        self.cpu += sign * by.cpu;
        self.memory += sign * by.memory;
        self.ephemeral += sign * by.ephemeral;
        if by.other.is_empty() {
            return;
        }
        for (name, amount) in &by.other {
            *self.other.entry(name.clone()).or_default() += sign * amount;
        }
        self.other.retain(|_, amount| *amount != 0);
    }
}
