//! Joins two connections for as long as both last.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::Peer;

/// How long what is under way may still take once one side has ended.
pub const LINGER: Duration = Duration::from_secs(5);
const BUFFER: usize = 64 << 10;

/// Drives both directions of a joined pair. `outward` runs towards the client; when it ends, `done` tells `inward` that nobody
/// listens to the client any more: what it still sends is to be read and dropped, for a socket that is closed over unread
/// bytes destroys what its peer has not read yet. A client that has gone ends both, whatever they wait for, and at the
/// `backend` nothing waits to be sent after that.
pub async fn both(
    inward: impl Future<Output = io::Result<()>>,
    outward: impl Future<Output = io::Result<()>>,
    client: Option<Peer>,
    backend: Option<Peer>,
    done: CancellationToken,
) -> io::Result<()> {
    tokio::pin!(inward, outward);
    let gone = async {
        match client {
            Some(client) => client.gone().await,
            None => std::future::pending().await,
        }
    };
    let late = |_| {
        backend.iter().for_each(Peer::abandon);
        io::Error::from(io::ErrorKind::TimedOut)
    };
    tokio::select! {
        biased;
        ended = &mut outward => {
            done.cancel();
            // The client had all there was; how it goes is its own affair.
            drop(tokio::time::timeout(LINGER, inward).await);
            ended
        }
        ended = &mut inward => {
            ended?;
            tokio::time::timeout(LINGER, outward).await.map_err(late)?
        }
        () = gone => {
            let rest = async { tokio::join!(inward, outward) };
            let (inward, outward) = tokio::time::timeout(LINGER, rest).await.map_err(late)?;
            inward.and(outward)
        }
    }
}

/// Carries bytes between a client and what it asked for until either has ended.
pub async fn relay(
    client: impl AsyncRead + AsyncWrite,
    backend: impl AsyncRead + AsyncWrite,
    peers: (Option<Peer>, Option<Peer>),
) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_backend, mut to_backend) = tokio::io::split(backend);
    let done = CancellationToken::new();
    let heard = done.clone();
    let inward = async {
        let mut buffer = BytesMut::with_capacity(BUFFER);
        let mut open = true;
        while read(&mut from_client, &mut buffer).await? > 0 {
            if open {
                let write = write(&mut to_backend, &buffer);
                open = tokio::select! {
                    biased;
                    written = write => written.is_ok(),
                    () = heard.cancelled() => false,
                };
            }
        }
        if open { to_backend.shutdown().await } else { Ok(()) }
    };
    let outward = async {
        let mut buffer = BytesMut::with_capacity(BUFFER);
        loop {
            match read(&mut from_backend, &mut buffer).await {
                Ok(0) => return to_client.shutdown().await,
                Ok(_) => write(&mut to_client, &buffer).await?,
                Err(error) => {
                    // The client is told that there is no more, whyever.
                    drop(to_client.shutdown().await);
                    return Err(error);
                }
            }
        }
    };
    both(inward, outward, peers.0, peers.1, done).await
}

async fn read(from: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> io::Result<usize> {
    buffer.clear();
    from.read_buf(buffer).await
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinSet;

    use super::*;
    use crate::wire::Socket;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (listener.accept().await.unwrap().0, client)
    }

    #[tokio::test]
    async fn the_last_words_of_a_backend_arrive_though_the_client_still_sends() {
        for _ in 0..20 {
            let ((near, mut client), (far, mut backend)) = (pair().await, pair().await);
            let near = Socket::new(near).unwrap();
            let peer = near.peer();
            let mut tasks = JoinSet::new();
            tasks.spawn(async move { drop(relay(near, far, (Some(peer), None)).await) });
            tasks.spawn(async move {
                let mut some = [0; 10];
                backend.read_exact(&mut some).await.unwrap();
                backend.write_all(&[1; 500_000]).await.unwrap();
                // It goes with most of what it was sent unread, and says so by a reset.
            });
            let (mut from, mut to) = client.split();
            let sending = async {
                // Until nobody takes any more.
                while to.write_all(&[0; 8192]).await.is_ok() {
                    tokio::task::yield_now().await;
                }
            };
            let mut got = Vec::new();
            tokio::select! {
                read = from.read_to_end(&mut got) => { read.unwrap(); }
                () = sending => panic!("the client was cut off"),
            }
            // A reset of the backend may cost what the backend's own kernel had not sent, and nothing more.
            assert!(got.iter().all(|byte| *byte == 1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_goes_while_the_backend_does_not_listen_takes_both_along() {
        let (near, mut client) = pair().await;
        let (far, mut backend) = tokio::io::duplex(1000);
        let near = Socket::new(near).unwrap();
        let peer = near.peer();
        let mut tasks = JoinSet::new();
        tasks.spawn(relay(near, far, (Some(peer), None)));
        // More than is taken over, and little enough for the end to arrive behind it.
        client.write_all(&[0; 80_000]).await.unwrap();
        drop(client);
        assert!(tasks.join_next().await.unwrap().unwrap().is_err());
        // What had been taken is there, then the end.
        let mut all = Vec::new();
        backend.read_to_end(&mut all).await.unwrap();
        assert_eq!(all.len(), 1000);
    }

    #[tokio::test]
    async fn both_directions_are_carried_to_their_ends() {
        let (near, client) = tokio::io::duplex(100);
        let (far, backend) = tokio::io::duplex(100);
        let mut tasks = JoinSet::new();
        tasks.spawn(relay(near, far, (None, None)));
        let echo = async {
            let (mut from, mut to) = tokio::io::split(backend);
            tokio::io::copy(&mut from, &mut to).await.unwrap();
            to.shutdown().await.unwrap();
        };
        let ask = async {
            let (mut from, mut to) = tokio::io::split(client);
            let text: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
            let send = async {
                to.write_all(&text).await.unwrap();
                to.shutdown().await.unwrap();
            };
            let mut back = Vec::new();
            let (_, read) = tokio::join!(send, from.read_to_end(&mut back));
            read.unwrap();
            assert!(back == text);
        };
        tokio::join!(echo, ask);
        tasks.join_next().await.unwrap().unwrap().unwrap();
    }
}
