//! The node ports in use as upstream stores them: one object with a bitmap, changed by compare-and-swap. Pure.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::object::Object;

/// A set of ports within a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ports {
    range: RangeInclusive<u16>,
    used: BTreeSet<u16>,
}

/// Why a port cannot be had. Worded as portallocator (1.36).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("provided port is already allocated")]
    Taken,
    #[error("provided port is not in the valid range. The range of valid ports is {}-{}", .0.start(), .0.end())]
    Outside(RangeInclusive<u16>),
    #[error("range is full")]
    Full,
}

impl Ports {
    pub(super) fn new(range: RangeInclusive<u16>) -> Ports {
        Ports {
            range,
            used: BTreeSet::new(),
        }
    }

    /// What the stored object says. `None`: it is about another range, or is no such object.
    pub(super) fn read(range: RangeInclusive<u16>, object: &Object) -> Option<Ports> {
        if object.str_at(&["range"]) != spell(&range) {
            return None;
        }
        let bytes = STANDARD.decode(object.str_at(&["data"])).ok()?;
        // A big integer, the highest byte first: bit n is the n-th port of the range.
        let used = bytes
            .iter()
            .rev()
            .enumerate()
            .flat_map(|(at, byte)| {
                (0..8)
                    .filter(move |bit| byte & (1 << bit) != 0)
                    .map(move |bit| at * 8 + bit)
            })
            .filter_map(|offset| range.start().checked_add(u16::try_from(offset).ok()?))
            .filter(|port| range.contains(port))
            .collect();
        Some(Ports { range, used })
    }

    pub(super) fn write(&self) -> Object {
        let highest = self
            .used
            .last()
            .map_or(0, |port| usize::from(port - self.range.start()) / 8 + 1);
        let mut bytes = vec![0_u8; highest];
        for port in &self.used {
            let offset = usize::from(port - self.range.start());
            bytes[highest - 1 - offset / 8] |= 1 << (offset % 8);
        }
        let object = json!({
            "apiVersion": "v1", "kind": "RangeAllocation", "metadata": {},
            "range": spell(&self.range), "data": STANDARD.encode(bytes),
        });
        match object {
            Value::Object(map) => Object(map),
            _ => unreachable!("written as an object above"),
        }
    }

    pub(super) fn take(&mut self, port: u16) -> Result<(), Refused> {
        if !self.range.contains(&port) {
            return Err(Refused::Outside(self.range.clone()));
        }
        if self.used.insert(port) {
            Ok(())
        } else {
            Err(Refused::Taken)
        }
    }

    /// Any free port; `random` picks. The low ones are left to those who ask for a certain port, as long as others are free.
    pub(super) fn take_any(&mut self, random: impl Fn(usize) -> usize) -> Result<u16, Refused> {
        let reserved = reserved(self.range.len());
        let first = *self.range.start();
        let (low, high): (Vec<u16>, Vec<u16>) = self
            .range
            .clone()
            .filter(|port| !self.used.contains(port))
            .partition(|port| usize::from(port - first) < reserved);
        let free = if high.is_empty() { low } else { high };
        if free.is_empty() {
            return Err(Refused::Full);
        }
        let port = free[random(free.len())];
        self.used.insert(port);
        Ok(port)
    }

    pub(super) fn range(&self) -> RangeInclusive<u16> {
        self.range.clone()
    }

    pub(super) fn give_back(&mut self, port: u16) {
        self.used.remove(&port);
    }
}

fn spell(range: &RangeInclusive<u16>) -> String {
    format!("{}-{}", range.start(), range.end())
}

/// Upstream's static band: min(max(16, size/32), 128).
fn reserved(size: usize) -> usize {
    if size < 16 { 0 } else { (size / 32).clamp(16, 128) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bitmap_is_upstreams() {
        let mut ports = Ports::new(30000..=32767);
        ports.take(30000).unwrap();
        ports.take(30009).unwrap();
        let object = ports.write();
        // big.Int with bits 0 and 9: 0x0201.
        assert_eq!(object.str_at(&["data"]), STANDARD.encode([0x02, 0x01]));
        assert_eq!(object.str_at(&["range"]), "30000-32767");
        assert_eq!(Ports::read(30000..=32767, &object), Some(ports));
        assert_eq!(Ports::read(30000..=32000, &object), None);
    }

    #[test]
    fn a_port_is_taken_once_and_only_within_the_range() {
        let mut ports = Ports::new(30000..=30015);
        assert_eq!(ports.take(30001), Ok(()));
        assert_eq!(ports.take(30001), Err(Refused::Taken));
        assert_eq!(
            ports.take(80).unwrap_err().to_string(),
            "provided port is not in the valid range. The range of valid ports is 30000-30015"
        );
        for _ in 0..15 {
            ports.take_any(|_| 0).unwrap();
        }
        assert_eq!(ports.take_any(|_| 0), Err(Refused::Full));
        ports.give_back(30007);
        assert_eq!(ports.take_any(|_| 0), Ok(30007));
    }

    #[test]
    fn low_ports_go_last_to_those_who_do_not_care() {
        let mut ports = Ports::new(30000..=30099);
        let first: Vec<u16> = (0..84).map(|_| ports.take_any(|_| 0).unwrap()).collect();
        assert_eq!((first[0], first[83]), (30016, 30099));
        assert_eq!(ports.take_any(|_| 0), Ok(30000));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(taken in proptest::collection::btree_set(30000_u16..=32767, 0..40)) {
            let mut ports = Ports::new(30000..=32767);
            for port in &taken {
                ports.take(*port).unwrap();
            }
            prop_assert_eq!(Ports::read(30000..=32767, &ports.write()), Some(ports));
        }
    }
}
