//! Flows that the kernel remembers although their endpoint is gone.
//!
//! TCP notices that nobody answers. A UDP client that goes on sending from one port keeps its flow alive for ever, and with it
//! the translation to the old endpoint; so the flow has to be forgotten. The same holds for a flow that began before the
//! Service had endpoints.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::Ipv4Addr;

use netlink_sys::constants::NETLINK_NETFILTER;

use crate::model::{Endpoint, UDP};
use crate::netlink::{ACK, NESTED, Talk, attribute};

const NEW: u16 = 1 << 8;
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const FIXED: [u8; 4] = [2, 0, 0, 0];

const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;

/// Which UDP flows may stay: for each address and port in question, the endpoints that serve it now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Serving {
    pub fronts: HashMap<(Ipv4Addr, u16), HashSet<Endpoint>>,
    /// The same for ports of the node; `local` says which addresses those are.
    pub node: HashMap<u16, HashSet<Endpoint>>,
    pub local: HashSet<Ipv4Addr>,
}

impl Serving {
    pub fn is_empty(&self) -> bool {
        self.fronts.is_empty() && self.node.is_empty()
    }

    /// Whether a flow to `to` that is answered by `by` leads to nobody who serves, or past those who do.
    fn is_stale(&self, to: (Ipv4Addr, u16), by: (Ipv4Addr, u16)) -> bool {
        let node = || self.node.get(&to.1).filter(|_| self.local.contains(&to.0));
        let Some(serving) = self.fronts.get(&to).or_else(node) else {
            return false;
        };
        // An endpoint may be the Service's own address: that of the cluster's DNS is.
        let served = serving.contains(&Endpoint {
            address: by.0,
            port: by.1,
        });
        !served && (to != by || !serving.is_empty())
    }
}

/// Forgets the flows that are stale; says how many there were.
pub fn forget(serving: &Serving) -> io::Result<usize> {
    let mut talk = Talk::open(NETLINK_NETFILTER)?;
    let mut stale = Vec::new();
    talk.ask_all(
        GET,
        &FIXED,
        |_| {},
        |answer| match answer {
            None => stale.clear(),
            Some((NEW, body)) => {
                let body = body.get(FIXED.len()..).unwrap_or_default();
                if let Some((to, by)) = flow(body)
                    && serving.is_stale(to, by)
                    && let (Some(original), Some(id)) = (attribute(body, ORIGINAL), attribute(body, ID))
                {
                    stale.push((original.to_vec(), id.to_vec()));
                }
            }
            Some(_) => {}
        },
    )?;
    for (original, id) in &stale {
        let deleted = talk.ask(
            DELETE,
            ACK,
            &FIXED,
            |a| {
                a.bytes(ORIGINAL | NESTED, original);
                a.bytes(ID, id);
            },
            |_, _| {},
        );
        match deleted {
            // It ended by itself meanwhile.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            other => other?,
        }
    }
    Ok(stale.len())
}

/// An address and port.
type At = (Ipv4Addr, u16);

/// Where a UDP flow was sent, and who answers it.
fn flow(body: &[u8]) -> Option<(At, At)> {
    let (_, to) = tuple(attribute(body, ORIGINAL)?)?;
    let (by, _) = tuple(attribute(body, REPLY)?)?;
    Some((to, by))
}

fn tuple(bytes: &[u8]) -> Option<(At, At)> {
    let (ip, protocol) = (attribute(bytes, 1)?, attribute(bytes, 2)?);
    if attribute(protocol, 1)? != [UDP] {
        return None;
    }
    let address = |kind| {
        attribute(ip, kind)?
            .try_into()
            .ok()
            .map(|bytes: [u8; 4]| Ipv4Addr::from(bytes))
    };
    let port = |kind| attribute(protocol, kind)?.try_into().ok().map(u16::from_be_bytes);
    Some(((address(1)?, port(2)?), (address(2)?, port(3)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_to_nobody_and_past_somebody_are_stale() {
        let ip = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        let endpoint = Endpoint {
            address: ip("10.244.0.5"),
            port: 53,
        };
        let serving = Serving {
            fronts: [
                ((ip("10.96.0.7"), 53), [endpoint].into()),
                ((ip("10.96.0.8"), 53), [].into()),
                (
                    (ip("10.96.0.10"), 53),
                    [Endpoint {
                        address: ip("10.96.0.10"),
                        port: 53,
                    }]
                    .into(),
                ),
            ]
            .into(),
            node: [(30053, [endpoint].into())].into(),
            local: [ip("192.0.2.10")].into(),
        };
        for (to, by, want) in [
            ("10.96.0.7:53", "10.244.0.5:53", false),
            ("10.96.0.7:53", "10.244.0.6:53", true),
            ("10.96.0.7:53", "10.244.0.5:54", true),
            ("10.96.0.7:53", "10.96.0.7:53", true),
            ("10.96.0.8:53", "10.244.0.5:53", true),
            ("10.96.0.8:53", "10.96.0.8:53", false),
            ("10.96.0.9:53", "10.244.0.6:53", false),
            ("192.0.2.10:30053", "10.244.0.6:53", true),
            ("192.0.2.10:30053", "10.244.0.5:53", false),
            ("192.0.2.99:30053", "192.0.2.99:30053", false),
            ("10.96.0.10:53", "10.96.0.10:53", false),
        ] {
            let at = |text: &str| {
                let (address, port) = text.split_once(':').unwrap();
                (ip(address), port.parse().unwrap())
            };
            assert_eq!(serving.is_stale(at(to), at(by)), want, "{to} {by}");
        }
    }
}
