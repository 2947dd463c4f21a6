//! IPv4 ranges in CIDR notation.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A range of addresses that share a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    address: u32,
    prefix: u8,
}

/// Not of the form `10.96.0.0/16`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IPv4 range in CIDR notation")]
pub struct Invalid(String);

impl Cidr {
    /// The range around an address; bits behind the prefix are cleared.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        let mask = mask(prefix)?;
        Some(Self {
            address: address.to_bits() & mask,
            prefix,
        })
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        mask(self.prefix).is_some_and(|mask| address.to_bits() & mask == self.address)
    }

    pub fn first(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address)
    }

    pub fn last(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address | !self.mask().to_bits())
    }

    pub fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(mask(self.prefix).expect("checked when it was made"))
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The address that the node itself has among its pods: the first usable one, as the bridge plug-in and host-local choose it.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address | 1)
    }
}

fn mask(prefix: u8) -> Option<u32> {
    (prefix <= 32).then(|| u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0))
}

impl FromStr for Cidr {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parse = || {
            let (address, prefix) = text.trim().split_once('/')?;
            Self::new(address.parse().ok()?, prefix.parse().ok()?)
        };
        parse().ok_or_else(|| Invalid(text.to_owned()))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first(), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_their_addresses() {
        let cidr: Cidr = "10.244.3.7/16".parse().unwrap();
        assert_eq!(cidr.to_string(), "10.244.0.0/16");
        assert_eq!(cidr.gateway(), Ipv4Addr::new(10, 244, 0, 1));
        assert_eq!(cidr.last(), Ipv4Addr::new(10, 244, 255, 255));
        assert!(cidr.contains(Ipv4Addr::new(10, 244, 9, 9)) && !cidr.contains(Ipv4Addr::new(10, 245, 0, 0)));
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains(Ipv4Addr::BROADCAST) && all.mask().is_unspecified());
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "fd00::/64", "a/8"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
