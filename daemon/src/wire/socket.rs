//! A TCP socket whose other end can be watched without reading from it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// A peer that vanished without a word is found after about two and a half minutes.
const KEEPALIVE: Duration = Duration::from_secs(15);
const PROBES: u32 = 9;

/// A TCP connection; read and written as `TcpStream` is.
#[derive(Debug)]
pub struct Socket(Arc<TcpStream>);

/// The other end of a [`Socket`], for as long as that is open.
#[derive(Debug, Clone)]
pub struct Peer(Weak<TcpStream>);

impl Socket {
    /// Small writes go out at once, and a peer that no longer answers is noticed.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE)
            .with_retries(PROBES);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok(Socket(Arc::new(stream)))
    }

    pub fn peer(&self) -> Peer {
        Peer(Arc::downgrade(&self.0))
    }
}

impl Peer {
    /// Resolves when the other end has closed or broken the connection, also while bytes that it sent before are still unread.
    pub async fn gone(&self) {
        if let Some(stream) = self.0.upgrade() {
            // Ready for "priority" means urgent data, which nobody sends, or the end of the peer's sending. Plain readiness
            // to read would be there all the time.
            drop(stream.ready(Interest::PRIORITY).await);
        }
    }
}

impl Peer {
    /// What is still unsent is not worth waiting for: when the socket is closed, the other end learns it at once, even one
    /// that does not read.
    pub fn abandon(&self) {
        if let Some(stream) = self.0.upgrade() {
            // A socket that is gone already needs no haste.
            drop(SockRef::from(&*stream).set_linger(Some(Duration::ZERO)));
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Socket {
    fn poll_with(&self, cx: &mut Context<'_>, attempt: impl Fn() -> io::Result<usize>) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match attempt() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_with(cx, || self.0.try_write(bytes))
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_with(cx, || self.0.try_write_vectored(bytes))
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.0).shutdown(std::net::Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Socket::new(listener.accept().await.unwrap().0).unwrap(), client)
    }

    #[tokio::test]
    async fn a_peer_that_has_gone_is_noticed_behind_bytes_that_nobody_read() {
        let (mut socket, mut client) = pair().await;
        client.write_all(&[7; 100_000]).await.unwrap();
        let peer = socket.peer();
        let here = tokio::time::timeout(Duration::from_millis(50), peer.gone()).await;
        assert!(here.is_err(), "the peer is still there");
        drop(client);
        peer.gone().await;
        let mut all = Vec::new();
        socket.read_to_end(&mut all).await.unwrap();
        assert_eq!(all.len(), 100_000);
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_the_end_is_passed_on() {
        let (mut socket, mut client) = pair().await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut asked = String::new();
        socket.read_to_string(&mut asked).await.unwrap();
        socket.write_all(b"answer").await.unwrap();
        socket.shutdown().await.unwrap();
        let mut answered = String::new();
        client.read_to_string(&mut answered).await.unwrap();
        assert_eq!((asked.as_str(), answered.as_str()), ("question", "answer"));
    }

    #[tokio::test]
    async fn an_abandoned_connection_ends_for_a_peer_that_reads_nothing() {
        let (mut socket, client) = pair().await;
        let client = Socket::new(client).unwrap();
        let server = client.peer();
        // Its end of a stream would wait behind what the peer has no room for.
        let filled = async { while socket.write_all(&[0; 65536]).await.is_ok() {} };
        assert!(tokio::time::timeout(Duration::from_millis(200), filled).await.is_err());
        socket.peer().abandon();
        drop(socket);
        server.gone().await;
    }

    #[tokio::test]
    async fn of_a_closed_socket_the_peer_counts_as_gone() {
        let (socket, _client) = pair().await;
        let peer = socket.peer();
        drop(socket);
        peer.gone().await;
    }
}
