//! The kernel's packet filter over a netlink socket: batches out, dumps in, and the news of a lost table.

use std::io;

use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, constants::NETLINK_NETFILTER};

use super::wire::{self, Batch};
use super::{Dump, Error, Nft, Transaction};
use crate::netlink::{self, Attributes, Talk, messages};

/// Multicast group of changes to packet rules (`NFNLGRP_NFTABLES`).
const CHANGES: u32 = 7;

/// One table of the kernel of this network namespace.
#[derive(Debug)]
pub struct Kernel {
    talk: Talk,
    table: String,
    /// What the last transaction cost, for those who watch it.
    pub last: Sent,
}

/// What a transaction cost on the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    pub messages: usize,
    pub bytes: usize,
}

impl Kernel {
    /// A socket into the network namespace of the calling thread.
    pub fn open(table: &str) -> Result<Self, Error> {
        let talk = Talk::open(NETLINK_NETFILTER).map_err(Error::Socket)?;
        Ok(Self {
            talk,
            table: table.to_owned(),
            last: Sent::default(),
        })
    }
}

impl Nft for Kernel {
    fn apply(&mut self, transaction: &Transaction) -> Result<(), Error> {
        if transaction.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::begin(&self.table, self.talk.sequences(0));
        for op in &transaction.ops {
            batch.op(op);
        }
        let (bytes, acknowledged, names) = batch.end();
        self.last = Sent {
            messages: names.len() + 2,
            bytes: bytes.len(),
        };
        self.talk
            .sequences(u32::try_from(self.last.messages).expect("sequence numbers have 32 bits"));
        self.talk.send(&bytes).map_err(Error::Socket)?;
        // The kernel has worked when the send returns: every answer lies in the socket. Of several errors the first tells why.
        let mut failure = None;
        let mut answered = false;
        let mut buffer = Vec::with_capacity(16 * 1024);
        while !answered {
            match self.talk.receive(&mut buffer) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(Error::Socket(e)),
            }
            for message in messages(&buffer) {
                let message = message.map_err(|_| Error::Malformed)?;
                if message.kind != netlink::ERROR {
                    continue;
                }
                let code = message.code();
                if code != 0 && failure.is_none() {
                    let at = names.iter().find(|(sequence, _)| *sequence == message.sequence);
                    failure = Some(Error::Refused {
                        what: at.map_or_else(|| "the transaction".to_owned(), |(_, what)| what.clone()),
                        cause: io::Error::from_raw_os_error(-code),
                    });
                }
                answered |= message.sequence == acknowledged;
            }
        }
        match failure {
            Some(error) => Err(error),
            None if answered => Ok(()),
            None => Err(Error::Malformed),
        }
    }

    fn dump(&mut self, sets: &[&str]) -> Result<Option<Dump>, Error> {
        let Self { talk, table, .. } = self;
        let mut note = None;
        talk.ask_all(
            wire::GET_TABLE,
            &wire::FIXED,
            |_| {},
            |answer| match answer {
                None => note = None,
                Some((wire::NEW_TABLE, body)) => {
                    if let Some((name, have)) = wire::table(body)
                        && name == *table
                    {
                        note = Some(have);
                    }
                }
                Some(_) => {}
            },
        )
        .map_err(Error::Socket)?;
        let Some(note) = note else { return Ok(None) };
        let mut dump = Dump {
            note,
            ..Dump::default()
        };
        talk.ask_all(
            wire::GET_CHAIN,
            &wire::FIXED,
            |_| {},
            |answer| match answer {
                None => dump.chains.clear(),
                Some((wire::NEW_CHAIN, body)) => {
                    if let Some((of, name)) = wire::chain(body)
                        && of == *table
                    {
                        dump.chains.push(name);
                    }
                }
                Some(_) => {}
            },
        )
        .map_err(Error::Socket)?;
        for set in sets {
            let mut elements = Vec::new();
            let ask = |a: &mut Attributes<'_>| {
                a.text(1, table);
                a.text(2, set);
            };
            let asked = talk.ask_all(wire::GET_ELEMENT, &wire::FIXED, ask, |answer| match answer {
                None => elements.clear(),
                Some((wire::NEW_ELEMENT, body)) => elements.extend(wire::elements(body)),
                Some(_) => {}
            });
            match asked {
                Ok(()) => {
                    // The kernel's order is that of its hash table.
                    elements.sort_by(|a, b| a.key.cmp(&b.key));
                    dump.sets.insert((*set).to_owned(), elements);
                }
                // Another version of this program had other sets.
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
                Err(e) => return Err(Error::Socket(e)),
            }
        }
        Ok(Some(dump))
    }
}

/// Hears of changes to packet rules that others make.
pub struct Watch {
    socket: TokioSocket,
    table: String,
    own: u32,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

impl Watch {
    /// Changes made through `own` are not told.
    pub fn open(own: &Kernel) -> Result<Self, Error> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER).map_err(Error::Socket)?;
        let inner = socket.socket_mut();
        inner.bind(&SocketAddr::new(0, 0)).map_err(Error::Socket)?;
        inner.add_membership(CHANGES).map_err(Error::Socket)?;
        // News that did not fit are no error: what is dropped are mostly our own elements.
        inner.set_no_enobufs(true).map_err(Error::Socket)?;
        Ok(Self {
            socket,
            table: own.table.clone(),
            own: own.talk.port(),
        })
    }

    /// Waits until somebody else deletes the table (`nft flush ruleset` does).
    pub async fn lost(&mut self) -> Result<(), Error> {
        let mut buffer = bytes::BytesMut::with_capacity(16 * 1024);
        loop {
            buffer.clear();
            buffer.reserve(16 * 1024);
            self.socket.recv(&mut buffer).await.map_err(Error::Socket)?;
            for message in messages(&buffer) {
                // A message larger than the buffer is one of elements.
                let Ok(message) = message else { break };
                let gone = message.kind == wire::DELETE_TABLE
                    && message.sender != self.own
                    && wire::table(message.body).is_some_and(|(name, _)| name == self.table);
                if gone {
                    return Ok(());
                }
            }
        }
    }
}
