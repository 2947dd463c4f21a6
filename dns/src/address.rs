//! The address of the cluster's DNS, on the node itself.
//!
//! It is put on the loopback interface, for this host alone (scope host): the kernel then delivers what pods and the node send
//! there without any translation, and never chooses it as the source of other traffic. Every node has its own server there.

use std::io;
use std::net::Ipv4Addr;

use netlink_sys::constants::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const ERROR: u16 = 2;
const REQUEST_ACK: u16 = 0x5;
const CREATE_REPLACE: u16 = 0x500;
const HOST_SCOPE: u8 = 254;

/// Puts the address on the loopback interface. It may be there already.
pub(crate) fn add(address: Ipv4Addr) -> io::Result<()> {
    change(NEW_ADDRESS, REQUEST_ACK | CREATE_REPLACE, address)
}

/// Takes the address away, if it is there.
pub(crate) fn remove(address: Ipv4Addr) -> io::Result<()> {
    match change(DELETE_ADDRESS, REQUEST_ACK, address) {
        Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
        other => other,
    }
}

fn change(kind: u16, flags: u16, address: Ipv4Addr) -> io::Result<()> {
    let loopback = nix::net::if_::if_nametoindex("lo").map_err(io::Error::from)?;
    let mut message = Vec::with_capacity(40);
    // Header, the fixed part, and two attributes of one address each: local (2) and address (1).
    message.extend(40u32.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    message.extend([2, 32, 0, HOST_SCOPE]);
    message.extend(loopback.to_ne_bytes());
    for attribute in [2u16, 1] {
        message.extend(8u16.to_ne_bytes());
        message.extend(attribute.to_ne_bytes());
        message.extend(address.octets());
    }
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&message, 0)?;
    let mut answer = Vec::with_capacity(1024);
    socket.recv(&mut answer, 0)?;
    match answer[..] {
        [_, _, _, _, a, b, ..] if u16::from_ne_bytes([a, b]) != ERROR => Err(io::ErrorKind::InvalidData.into()),
        [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, a, b, c, d, ..] => match i32::from_ne_bytes([a, b, c, d]) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(-code)),
        },
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn the_address_comes_once_and_goes() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: network namespaces need root");
            return;
        }
        // The namespace ends with the thread.
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let address = Ipv4Addr::new(10, 96, 0, 10);
            let listen = || UdpSocket::bind((address, 53)).map(|_| ());
            // A namespace that has had no address yet lets bind to any.
            add(Ipv4Addr::new(127, 0, 0, 9)).unwrap();
            assert!(listen().is_err());
            add(address).unwrap();
            add(address).unwrap();
            listen().unwrap();
            remove(address).unwrap();
            remove(address).unwrap();
            assert!(listen().is_err());
        });
        thread.join().unwrap();
    }
}
