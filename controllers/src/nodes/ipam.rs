//! Node addresses.

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    base: u32,
    length: u8,
}

/// Not a network as `10.0.0.0/8` is one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an IPv4 network such as 10.244.0.0/16")]
pub struct NotANetwork(String);

impl std::str::FromStr for Cidr {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || NotANetwork(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(bad)?;
        let address: std::net::Ipv4Addr = address.parse().map_err(|_| bad())?;
        let length: u8 = length.parse().ok().filter(|length| *length <= 32).ok_or_else(bad)?;
        let base = address.to_bits() & mask(length);
        Ok(Cidr { base, length })
    }
}

fn mask(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}
