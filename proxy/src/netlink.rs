//! Netlink: messages written and read, and a conversation with the kernel.
//!
//! What the messages are about is not known here. A message is a header, fixed bytes of its subsystem, and attributes.
//! Lengths and types are in the machine's order; numbers in attributes as the subsystem has them.

use std::io;
use std::os::fd::AsFd;

use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};

pub(crate) const REQUEST: u16 = 0x1;
pub(crate) const ACK: u16 = 0x4;
pub(crate) const REPLACE: u16 = 0x100;
pub(crate) const EXCLUSIVE: u16 = 0x200;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const APPEND: u16 = 0x800;
const INTERRUPTED: u16 = 0x10;
pub(crate) const NESTED: u16 = 0x8000;
pub(crate) const ERROR: u16 = 2;
pub(crate) const DONE: u16 = 3;

/// The kernel's answer is cut off or malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a netlink message is cut off or malformed")]
pub(crate) struct Malformed;

/// A socket to one subsystem of the kernel, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Talk {
    socket: Socket,
    sequence: u32,
    port: u32,
}

impl Talk {
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        let own = socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // The kernel then copies only the head of a message into its error, not the whole of it.
        socket.set_cap_ack(true)?;
        Ok(Self {
            socket,
            sequence: 0,
            port: own.port_number(),
        })
    }

    /// The number by which the kernel knows this socket.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Takes that many sequence numbers; gives the one before the first.
    pub(crate) fn sequences(&mut self, count: u32) -> u32 {
        let before = self.sequence;
        self.sequence = self.sequence.wrapping_add(count);
        before
    }

    /// Sends in one piece, however large.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > 100_000 {
            setsockopt(&self.socket.as_fd(), sockopt::SndBufForce, &(bytes.len() * 2))?;
        }
        let sent = self.socket.send(bytes, 0)?;
        if sent == bytes.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// Reads what the kernel has answered already; `WouldBlock` where it has not.
    pub(crate) fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.clear();
        self.socket.recv(buffer, libc::MSG_DONTWAIT).map(|_| ())
    }

    /// Sends one message and waits for its end: an acknowledgement, or with `DUMP` the last of many answers.
    pub(crate) fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        fixed: &[u8],
        body: impl FnOnce(&mut Attributes<'_>),
        mut take: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        let sequence = self.sequences(1).wrapping_add(1);
        let mut bytes = Vec::with_capacity(256);
        message(&mut bytes, kind, REQUEST | flags, sequence, fixed, body);
        self.send(&bytes)?;
        let mut buffer = Vec::with_capacity(64 * 1024);
        let mut interrupted = false;
        loop {
            buffer.clear();
            self.socket.recv(&mut buffer, 0)?;
            for message in messages(&buffer) {
                let message = message.map_err(io::Error::other)?;
                if message.sequence != sequence {
                    continue;
                }
                interrupted |= message.flags & INTERRUPTED != 0;
                match message.kind {
                    DONE if interrupted => return Err(io::Error::from_raw_os_error(libc::EINTR)),
                    DONE => return Ok(()),
                    ERROR => {
                        return match message.code() {
                            0 => Ok(()),
                            code => Err(io::Error::from_raw_os_error(-code)),
                        };
                    }
                    kind => take(kind, message.body),
                }
            }
        }
    }

    /// The same for a question about many things, asked again where they changed meanwhile: `take` then hears `None` and
    /// starts over.
    pub(crate) fn ask_all(
        &mut self,
        kind: u16,
        fixed: &[u8],
        body: impl Fn(&mut Attributes<'_>),
        mut take: impl FnMut(Option<(u16, &[u8])>),
    ) -> io::Result<()> {
        for _ in 0..10 {
            take(None);
            match self.ask(kind, DUMP, fixed, &body, |kind, body| take(Some((kind, body)))) {
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
                other => return other,
            }
        }
        Err(io::Error::from_raw_os_error(libc::EINTR))
    }
}

/// Writes one message.
pub(crate) fn message(
    into: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    fixed: &[u8],
    body: impl FnOnce(&mut Attributes<'_>),
) {
    let start = into.len();
    into.extend_from_slice(&[0; 4]);
    into.extend_from_slice(&kind.to_ne_bytes());
    into.extend_from_slice(&flags.to_ne_bytes());
    into.extend_from_slice(&sequence.to_ne_bytes());
    into.extend_from_slice(&[0; 4]);
    into.extend_from_slice(fixed);
    body(&mut Attributes { bytes: into });
    let len = u32::try_from(into.len() - start).expect("a message holds a few hundred elements at most");
    into[start..start + 4].copy_from_slice(&len.to_ne_bytes());
}

/// Writes attributes at the end of a message.
pub(crate) struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(value.len() + 4).expect("attributes are cut to size before");
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let len = u16::try_from(value.len() + 5).expect("names are short");
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        body(&mut Attributes { bytes: self.bytes });
        let len = u16::try_from(self.bytes.len() - start).expect("lists are cut to size before");
        self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

/// A message of the kernel: its type, sequence number, sender and what follows the netlink header.
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) sender: u32,
    pub(crate) body: &'a [u8],
}

impl Received<'_> {
    /// The error number of an `ERROR` message; 0 is an acknowledgement.
    pub(crate) fn code(&self) -> i32 {
        self.body
            .get(..4)
            .map_or(-libc::EBADMSG, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
    }
}

/// Splits what one read gave into messages; a message that is cut off is an error.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Result<Received<'_>, Malformed>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let word = |at: usize| {
            bytes
                .get(at..at + 4)
                .map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
        };
        let (Some(len), Some(kind), Some(sequence), Some(sender)) = (word(0), word(4), word(8), word(12)) else {
            bytes = &[];
            return Some(Err(Malformed));
        };
        let len = len as usize;
        if len < 16 || len > bytes.len() {
            bytes = &[];
            return Some(Err(Malformed));
        }
        let both = kind.to_ne_bytes();
        let kind = u16::from_ne_bytes([both[0], both[1]]);
        let flags = u16::from_ne_bytes([both[2], both[3]]);
        let body = &bytes[16..len];
        bytes = &bytes[len.next_multiple_of(4).min(bytes.len())..];
        Some(Ok(Received {
            kind,
            flags,
            sequence,
            sender,
            body,
        }))
    })
}

/// Attributes of a message or of a nest: (type without flags, value).
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (len, kind) = match bytes {
            [a, b, c, d, ..] => (
                u16::from_ne_bytes([*a, *b]) as usize,
                u16::from_ne_bytes([*c, *d]) & 0x3fff,
            ),
            _ => return None,
        };
        if len < 4 || len > bytes.len() {
            return None;
        }
        let value = &bytes[4..len];
        bytes = &bytes[len.next_multiple_of(4).min(bytes.len())..];
        Some((kind, value))
    })
}

pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(k, _)| *k == kind).map(|(_, value)| value)
}

pub(crate) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        message(&mut bytes, 7, REQUEST, 9, &[2, 0, 0, 0], |a| {
            a.text(1, "abc");
            a.nest(2, |a| a.number(3, 5));
        });
        let all: Vec<_> = messages(&bytes).collect();
        let [
            Ok(Received {
                kind: 7,
                flags: REQUEST,
                sequence: 9,
                body,
                ..
            }),
        ] = &all[..]
        else {
            panic!("one message")
        };
        assert_eq!(text(attribute(&body[4..], 1).unwrap()), "abc");
        assert_eq!(attribute(attribute(&body[4..], 2).unwrap(), 3).unwrap(), [0, 0, 0, 5]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes).flatten() {
                for (_, value) in attributes(message.body) {
                    let _ = (text(value), attributes(value).count());
                }
            }
            prop_assert!(attributes(&bytes).count() <= bytes.len());
        }
    }
}
