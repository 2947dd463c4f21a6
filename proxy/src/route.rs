//! The node's own bridge, the route by which Service addresses stay on this machine, and the kernel's settings.
//!
//! A packet that the node itself sends to a Service is routed before it is translated, so there has to be a route, also on a
//! laptop without a network. It leads to the bridge of the node's pods: what is not translated ends there, and the bridge's
//! address is a source that every pod can answer, whatever becomes of the other interfaces.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use netlink_sys::constants::NETLINK_ROUTE;
use nix::net::if_::if_nametoindex;

use crate::cidr::Cidr;
use crate::netlink::{ACK, CREATE, EXCLUSIVE, NESTED, REPLACE, Talk};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
/// Marks routes as ours (`proto 98` for ip): a number that nobody else uses.
const PROTOCOL: u8 = 98;
const MAIN: u8 = 254;
const LINK_SCOPE: u8 = 253;

/// A step of preparing the node failed; it may be tried again.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Error {
    what: String,
    #[source]
    cause: io::Error,
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    |cause| Error { what, cause }
}

/// Makes sure that the bridge is there, is up and has the gateway address of the pods. One that is there is kept: the
/// bridge plug-in makes the same one.
pub fn bridge(name: &str, pods: &Cidr) -> Result<(), Error> {
    let mut talk = Talk::open(NETLINK_ROUTE).map_err(failed("opening a routing socket"))?;
    let made = talk.ask(
        NEW_LINK,
        ACK | CREATE | EXCLUSIVE,
        &[0; 16],
        |a| {
            a.text(3, name);
            a.nest(18, |a| a.text(1, "bridge"));
        },
        |_, _| {},
    );
    match made {
        Err(e) if e.raw_os_error() != Some(libc::EEXIST) => return Err(failed(format!("making bridge {name}"))(e)),
        _ => {}
    }
    let index = index(name)?;
    const UP: u32 = 1;
    let mut link = vec![0; 4];
    for word in [index, UP, UP] {
        link.extend(word.to_ne_bytes());
    }
    talk.ask(NEW_LINK, ACK, &link, |_| {}, |_, _| {})
        .map_err(failed(format!("setting {name} up")))?;
    address(&mut talk, index, pods.gateway(), pods.prefix()).map_err(failed(format!("giving {name} its address")))
}

/// Removes the bridge. One that is not there is removed already.
pub fn remove_bridge(name: &str) -> Result<(), Error> {
    let Ok(index) = if_nametoindex(name) else {
        return Ok(());
    };
    let mut talk = Talk::open(NETLINK_ROUTE).map_err(failed("opening a routing socket"))?;
    let mut link = vec![0; 16];
    link[4..8].copy_from_slice(&index.to_ne_bytes());
    talk.ask(DELETE_LINK, ACK, &link, |_| {}, |_, _| {})
        .map_err(failed(format!("removing {name}")))
}

fn index(name: &str) -> Result<u32, Error> {
    if_nametoindex(name).map_err(|e| failed(format!("finding {name}"))(e.into()))
}

fn address(talk: &mut Talk, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    let mut fixed = vec![2, prefix, 0, 0];
    fixed.extend(index.to_ne_bytes());
    talk.ask(
        NEW_ADDRESS,
        ACK | CREATE | REPLACE,
        &fixed,
        |a| {
            a.bytes(2, &address.octets());
            a.bytes(1, &address.octets());
        },
        |_, _| {},
    )
}

fn route_message(services: &Cidr) -> [u8; 12] {
    let mut fixed = [0; 12];
    fixed[0] = 2;
    fixed[1] = services.prefix();
    fixed[4] = MAIN;
    fixed[5] = PROTOCOL;
    fixed[6] = LINK_SCOPE;
    fixed[7] = 1;
    fixed
}

/// Routes Service addresses to an interface, from `source` where one is given.
pub fn services(services: &Cidr, interface: &str, source: Option<Ipv4Addr>) -> Result<(), Error> {
    let mut talk = Talk::open(NETLINK_ROUTE).map_err(failed("opening a routing socket"))?;
    let index = index(interface)?;
    talk.ask(
        NEW_ROUTE,
        ACK | CREATE | REPLACE,
        &route_message(services),
        |a| {
            a.bytes(1, &services.first().octets());
            a.bytes(4, &index.to_ne_bytes());
            if let Some(source) = source {
                a.bytes(7, &source.octets());
            }
        },
        |_, _| {},
    )
    .map_err(failed(format!("routing {services} to {interface}")))
}

/// Removes every route of ours.
pub fn remove() -> Result<(), Error> {
    let mut talk = Talk::open(NETLINK_ROUTE).map_err(failed("opening a routing socket"))?;
    let mut ours = Vec::new();
    let mut all = [0; 12];
    all[0] = 2;
    talk.ask_all(
        GET_ROUTE,
        &all,
        |_| {},
        |answer| match answer {
            None => ours.clear(),
            Some((NEW_ROUTE, body)) if body.len() >= 12 && body[5] == PROTOCOL && body[4] == MAIN => {
                ours.push(body.to_vec())
            }
            Some(_) => {}
        },
    )
    .map_err(failed("reading routes"))?;
    for route in ours {
        let (fixed, attributes) = route.split_at(12);
        let deleted = talk.ask(
            DELETE_ROUTE,
            ACK,
            fixed,
            |a| {
                for (kind, value) in crate::netlink::attributes(attributes).filter(|(kind, _)| matches!(kind, 1 | 4)) {
                    a.bytes(kind & !NESTED, value);
                }
            },
            |_, _| {},
        );
        match deleted {
            Err(e) if e.raw_os_error() != Some(libc::ESRCH) => return Err(failed("removing a route")(e)),
            _ => {}
        }
    }
    Ok(())
}

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
/// There once br_netfilter is loaded; without it packets between two pods of a bridge bypass the packet filter.
const BRIDGE_FILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// Lets the node pass packets on, and the packet filter see those between pods. Says whether the latter could be done.
pub fn settings() -> Result<bool, Error> {
    ensure(Path::new(FORWARD)).map_err(failed(format!("setting {FORWARD}")))?;
    Ok(ensure(Path::new(BRIDGE_FILTER)).is_ok())
}

/// Whether the setting for bridges is missing because its module is not loaded.
pub fn lacks_bridge_filter() -> bool {
    !Path::new(BRIDGE_FILTER).exists()
}

/// Writes only where the value differs: others may watch these files.
fn ensure(path: &Path) -> io::Result<()> {
    if std::fs::read_to_string(path)?.trim() == "1" {
        Ok(())
    } else {
        std::fs::write(path, "1")
    }
}
