//! A range of addresses. Pure.

use std::net::{IpAddr, Ipv4Addr};

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    /// The first address: host bits are zero.
    pub network: IpAddr,
    pub prefix: u8,
}

impl Cidr {
    /// `10.96.0.0/16`, with no host bits set and room for at least a few Services.
    pub fn parse(text: &str) -> Result<Cidr, String> {
        let invalid = || format!("{text:?} is not a range like 10.96.0.0/16");
        let (address, prefix) = text.trim().split_once('/').ok_or_else(invalid)?;
        let network: IpAddr = address.parse().map_err(|_| invalid())?;
        let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
        let cidr = Cidr { network, prefix };
        if prefix > cidr.bits() {
            return Err(invalid());
        }
        if cidr.bits() - prefix < 3 {
            return Err(format!("{text:?} is too small: at least eight addresses are needed"));
        }
        if cidr.number() & cidr.host_mask() != 0 {
            return Err(format!("{text:?} has bits set beyond its prefix"));
        }
        Ok(cidr)
    }
    fn bits(&self) -> u8 {
        if self.network.is_ipv4() { 32 } else { 128 }
    }
    fn number(&self) -> u128 {
        number(self.network)
    }
    fn host_mask(&self) -> u128 {
        let hosts = u32::from(self.bits() - self.prefix);
        if hosts >= 128 { u128::MAX } else { (1 << hosts) - 1 }
    }
    /// How many addresses it has.
    pub fn len(&self) -> u128 {
        self.host_mask().saturating_add(1)
    }
    pub fn is_empty(&self) -> bool {
        false
    }
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.network.is_ipv4() && number(address) & !self.host_mask() == self.number()
    }
    /// The address `n` after the first.
    pub fn nth(&self, n: u128) -> Option<IpAddr> {
        if n > self.host_mask() {
            return None;
        }
        let number = self.number() + n;
        Some(match self.network {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).ok()?)),
            IpAddr::V6(_) => IpAddr::V6(number.into()),
        })
    }
    /// Whether a Service may have it: not the first address, nor, of IPv4, the last.
    pub fn usable(&self, address: IpAddr) -> bool {
        let Some(offset) = self.offset(address) else {
            return false;
        };
        offset != 0 && !(self.network.is_ipv4() && offset == self.host_mask())
    }
    /// The offsets of addresses for those who do not ask for a certain one. The low ones are left to those who do:
    /// min(max(16, size/16), 256) of them, as upstream.
    pub fn dynamic(&self) -> std::ops::Range<u128> {
        let reserved = if self.len() < 32 {
            1
        } else {
            (self.len() / 16).clamp(16, 256)
        };
        reserved..self.len().min(u128::from(u64::MAX))
    }
    /// How far `address` is from the first.
    pub fn offset(&self, address: IpAddr) -> Option<u128> {
        self.contains(address).then(|| number(address) - self.number())
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_knows_its_addresses() {
        let range = Cidr::parse("10.96.0.0/16").unwrap();
        assert_eq!((range.len(), range.nth(65536)), (65536, None));
        assert_eq!(range.offset("10.96.1.2".parse().unwrap()), Some(258));
        assert_eq!(range.offset("10.97.0.0".parse().unwrap()), None);
        let range = Cidr::parse("fd00::/64").unwrap();
        assert_eq!(range.nth(1), Some("fd00::1".parse().unwrap()));
        assert!(!range.contains("10.96.0.1".parse().unwrap()));
    }
}
