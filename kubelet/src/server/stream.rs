//! exec, attach and port-forward: a client's upgraded connection is joined with a streaming session of the runtime.
//!
//! Clients that speak what the runtime speaks (SPDY/3.1, WebSocket v4) get the bytes as they are. WebSocket v5, which no runtime
//! has, is translated to SPDY, for it alone can close standard input; a port-forward tunnel is SPDY in WebSocket messages.

use std::io;

use bytes::{Bytes, BytesMut};
use daemon::wire::{
    self, Peer, Socket,
    websocket::{self, Message, Op, Reader},
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::Mutex,
};
use tokio_util::sync::CancellationToken;

use super::spdy::{Decoder, Encoder, Frame};

/// WebSocket sub-protocols that only we speak.
const V5: &str = "v5.channel.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// The runtime's session could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the runtime's streaming address is not one: {0}")]
    Address(String),
    #[error("the runtime's streaming server cannot be reached")]
    Connect(#[source] io::Error),
    #[error("the runtime's streaming server does not speak as expected")]
    Http(#[source] hyper::Error),
    #[error("the runtime refused the session: {status} {message}")]
    Refused { status: StatusCode, message: String },
    #[error("the request is not an upgrade")]
    NotAnUpgrade,
}

/// Which streams a remote command has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// How the client wants to talk.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Speech {
    /// The runtime understands it.
    Same,
    V5,
    Tunnel,
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// The sub-protocols that a WebSocket client offers, most wanted first.
fn offered(headers: &HeaderMap) -> Vec<String> {
    let all = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok());
    all.flat_map(|v| v.split(',')).map(|p| p.trim().to_owned()).collect()
}

fn speech(headers: &HeaderMap) -> Result<Speech, Error> {
    let upgrade = header(headers, "upgrade").ok_or(Error::NotAnUpgrade)?;
    if !upgrade.eq_ignore_ascii_case("websocket") {
        return Ok(Speech::Same);
    }
    let offered = offered(headers);
    let has = |name: &str| offered.iter().any(|p| p == name);
    Ok(match (has(V5), has(TUNNEL)) {
        (true, _) => Speech::V5,
        (_, true) => Speech::Tunnel,
        _ => Speech::Same,
    })
}

/// Opens the runtime's session at `url` and joins it with the client's connection. The answer is for the client; the future
/// carries the connection for as long as it lasts.
pub async fn join<B>(
    mut request: Request<B>,
    url: &str,
    streams: Option<Streams>,
) -> Result<(Response<Empty<Bytes>>, impl Future<Output = ()> + Send + use<B>), Error>
where
    B: Send + 'static,
{
    let speech = speech(request.headers())?;
    let mut wanted = HeaderMap::new();
    match speech {
        Speech::Same => {
            for (name, value) in request.headers() {
                let text = name.as_str();
                let belongs = text.starts_with("sec-websocket") || text.starts_with("x-stream") || text == "upgrade";
                if belongs {
                    wanted.append(name.clone(), value.clone());
                }
            }
        }
        Speech::V5 | Speech::Tunnel => {
            let protocol = if speech == Speech::V5 {
                "v4.channel.k8s.io"
            } else {
                "portforward.k8s.io"
            };
            wanted.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
            wanted.insert("x-stream-protocol-version", HeaderValue::from_static(protocol));
        }
    }
    let (answer, runtime, far) = open(url, wanted).await?;
    let mut response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut().expect("a fresh builder has headers");
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    match speech {
        Speech::Same => {
            for (name, value) in &answer {
                let text = name.as_str();
                if text.starts_with("sec-websocket") || text.starts_with("x-stream") || text == "upgrade" {
                    headers.append(name.clone(), value.clone());
                }
            }
        }
        Speech::V5 | Speech::Tunnel => {
            let key = header(request.headers(), "sec-websocket-key").ok_or(Error::NotAnUpgrade)?;
            let accept = HeaderValue::try_from(websocket::accept(key)).map_err(|_| Error::NotAnUpgrade)?;
            let chosen = if speech == Speech::V5 { V5 } else { TUNNEL };
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(chosen));
        }
    }
    let response = response
        .body(Empty::new())
        .expect("the parts were checked when they were put in");
    let peers = (request.extensions().get::<Peer>().cloned(), Some(far));
    let client = hyper::upgrade::on(&mut request);
    let carry = async move {
        let client = match client.await {
            Ok(client) => TokioIo::new(client),
            Err(error) => return tracing::debug!(%error, "the client did not upgrade"),
        };
        let ended = match speech {
            Speech::Same => wire::relay(client, runtime, peers).await,
            Speech::Tunnel => tunnel(client, runtime, peers).await,
            Speech::V5 => {
                let streams = streams.unwrap_or(Streams {
                    stdin: true,
                    stdout: true,
                    stderr: true,
                    tty: false,
                });
                translate(client, runtime, streams, peers).await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a streaming session broke");
        }
    };
    Ok((response, carry))
}

type Runtime = TokioIo<Upgraded>;

async fn open(url: &str, headers: HeaderMap) -> Result<(HeaderMap, Runtime, Peer), Error> {
    let uri: http::Uri = url.parse().map_err(|_| Error::Address(url.to_owned()))?;
    let authority = uri.authority().ok_or_else(|| Error::Address(url.to_owned()))?;
    let address = (
        authority.host().trim_matches(['[', ']']),
        authority.port_u16().unwrap_or(80),
    );
    let stream = TcpStream::connect(address).await.map_err(Error::Connect)?;
    let stream = Socket::new(stream).map_err(Error::Connect)?;
    let peer = stream.peer();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(Error::Http)?;
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut request = Request::post(path)
        .header(header::HOST, authority.as_str())
        .header(header::CONNECTION, "Upgrade");
    // A WebSocket handshake is a GET by definition.
    if headers
        .get(header::UPGRADE)
        .is_some_and(|u| u.as_bytes().eq_ignore_ascii_case(b"websocket"))
    {
        request = request.method("GET");
    }
    if let Some(all) = request.headers_mut() {
        all.extend(headers);
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|_| Error::Address(url.to_owned()))?;
    let mut connection = Box::pin(connection.with_upgrades());
    let asked = sender.send_request(request);
    tokio::pin!(asked);
    // The connection's future moves the bytes; it ends by itself once the upgrade took them over.
    let mut ended = false;
    let answer = loop {
        tokio::select! {
            answer = &mut asked => break answer.map_err(Error::Http)?,
            end = &mut connection, if !ended => {
                end.map_err(Error::Http)?;
                ended = true;
            }
        }
    };
    let status = answer.status();
    let headers = answer.headers().clone();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        let body = async { answer.into_body().collect().await.map(|b| b.to_bytes()) };
        tokio::pin!(body);
        let text = loop {
            tokio::select! {
                text = &mut body => break text.unwrap_or_default(),
                _ = &mut connection, if !ended => ended = true,
            }
        };
        return Err(Error::Refused {
            status,
            message: String::from_utf8_lossy(&text).trim().to_owned(),
        });
    }
    let upgraded = hyper::upgrade::on(answer);
    tokio::pin!(upgraded);
    let upgraded = loop {
        tokio::select! {
            upgraded = &mut upgraded => break upgraded.map_err(Error::Http)?,
            end = &mut connection, if !ended => {
                end.map_err(Error::Http)?;
                ended = true;
            }
        }
    };
    Ok((headers, TokioIo::new(upgraded), peer))
}

/// As much as is gathered before it is written.
const BATCH: usize = 64 << 10;

/// Bytes of the tunnel are the payload of binary messages, in both directions.
async fn tunnel(
    client: impl AsyncRead + AsyncWrite,
    runtime: impl AsyncRead + AsyncWrite,
    peers: (Option<Peer>, Option<Peer>),
) -> io::Result<()> {
    let (from_client, to_client) = tokio::io::split(client);
    let (mut from_runtime, mut to_runtime) = tokio::io::split(runtime);
    let to_client = Mutex::new(to_client);
    let done = CancellationToken::new();
    let heard = done.clone();
    let mut reader = Reader::new(from_client);
    let inward = async {
        let forward = async {
            while let Some(message) = reader.next().await? {
                match message {
                    Message::Data(data) => {
                        to_runtime.write_all(&data).await?;
                        to_runtime.flush().await?;
                    }
                    Message::Ping(data) => websocket::write(&mut *to_client.lock().await, Op::Pong, &data).await?,
                    Message::Close => break,
                }
            }
            to_runtime.shutdown().await
        };
        match unless(&heard, forward).await {
            Some(ended) if told(&ended) => ended,
            _ => reader.drain().await,
        }
    };
    let outward = async {
        let (mut buffer, mut out) = (BytesMut::with_capacity(BATCH), BytesMut::new());
        let ended = loop {
            buffer.clear();
            match from_runtime.read_buf(&mut buffer).await {
                Ok(0) => break Ok(()),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
            out.clear();
            websocket::put(&mut out, Op::Binary, &[], &buffer);
            send(&to_client, &out).await?;
        };
        ended.and(websocket::close(&mut *to_client.lock().await, 1000).await)
    };
    wire::both(inward, outward, peers.0, peers.1, done).await
}

/// Whether the client ended its part itself, by a goodbye or by nonsense. When instead the runtime takes no more, the client
/// has yet to hear why, and when the connection broke, reading on shows that at once.
fn told(ended: &io::Result<()>) -> bool {
    ended
        .as_ref()
        .err()
        .is_none_or(|error| error.kind() == io::ErrorKind::InvalidData)
}

/// What the work comes to, or nothing where it was called off.
async fn unless<T>(off: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = off.cancelled() => None,
    }
}

async fn send(to: &Mutex<impl AsyncWrite + Unpin>, bytes: &[u8]) -> io::Result<()> {
    let mut to = to.lock().await;
    to.write_all(bytes).await?;
    to.flush().await
}

/// Channels of the WebSocket protocol.
mod channel {
    pub(super) const STDIN: u8 = 0;
    pub(super) const STDOUT: u8 = 1;
    pub(super) const STDERR: u8 = 2;
    pub(super) const ERROR: u8 = 3;
    pub(super) const RESIZE: u8 = 4;
    /// Only in v5: the channel named by the next byte is closed.
    pub(super) const CLOSE: u8 = 255;
}

/// Frames towards the runtime, with the compression that they share.
struct Outgoing<W> {
    encoder: Encoder,
    bytes: BytesMut,
    inner: W,
}

impl<W: AsyncWrite + Unpin> Outgoing<W> {
    /// Gathers a frame, and sends what was gathered when that is much.
    async fn put(&mut self, frame: &Frame) -> io::Result<()> {
        self.encoder.encode(frame, &mut self.bytes)?;
        if self.bytes.len() < BATCH {
            return Ok(());
        }
        self.send().await
    }

    async fn send(&mut self) -> io::Result<()> {
        self.inner.write_all(&self.bytes).await?;
        self.bytes.clear();
        self.inner.flush().await
    }
}

/// WebSocket v5 to SPDY and back.
async fn translate<C, R>(client: C, runtime: R, streams: Streams, peers: (Option<Peer>, Option<Peer>)) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite,
    R: AsyncRead + AsyncWrite,
{
    let (from_client, to_client) = tokio::io::split(client);
    let (mut from_runtime, to_runtime) = tokio::io::split(runtime);
    let to_client = Mutex::new(to_client);
    let mut to_runtime = Outgoing {
        encoder: Encoder::default(),
        bytes: BytesMut::new(),
        inner: to_runtime,
    };
    // In the order in which the runtime's server expects them.
    let wanted = [
        ("error", channel::ERROR, true),
        ("stdin", channel::STDIN, streams.stdin),
        ("stdout", channel::STDOUT, streams.stdout),
        ("stderr", channel::STDERR, streams.stderr && !streams.tty),
        ("resize", channel::RESIZE, streams.tty),
    ];
    let mut opened: Vec<(u32, u8)> = Vec::new();
    for (kind, channel, wanted) in wanted {
        if wanted {
            let stream = opened.len() as u32 * 2 + 1;
            let headers = vec![("streamtype".to_owned(), kind.to_owned())];
            let fin = false;
            to_runtime.put(&Frame::SynStream { stream, fin, headers }).await?;
            opened.push((stream, channel));
        }
    }
    to_runtime.send().await?;
    let to_runtime = Mutex::new(to_runtime);
    let stream_of = |channel: u8| opened.iter().find(|(_, c)| *c == channel).map(|(s, _)| *s);
    let done = CancellationToken::new();
    let heard = done.clone();
    let mut reader = Reader::new(from_client);
    let inward = async {
        let forward = async {
            'read: while let Some(first) = reader.next().await? {
                let mut to_runtime = to_runtime.lock().await;
                let mut next = Some(first);
                while let Some(message) = next {
                    match message {
                        Message::Ping(data) => {
                            websocket::write(&mut *to_client.lock().await, Op::Pong, &data).await?;
                        }
                        Message::Close => break 'read,
                        Message::Data(data) => {
                            if let Some(frame) = frame(data, stream_of) {
                                to_runtime.put(&frame).await?;
                            }
                        }
                    }
                    next = reader.ready()?;
                }
                to_runtime.send().await?;
            }
            Ok(())
        };
        match unless(&heard, forward).await {
            // The command loses its streams and, with most shells, ends.
            Some(Ok(())) => {
                let mut to_runtime = to_runtime.lock().await;
                to_runtime.send().await.and(to_runtime.inner.shutdown().await)
            }
            Some(ended) if told(&ended) => ended,
            _ => reader.drain().await,
        }
    };
    let outward = async {
        let mut decoder = Decoder::default();
        let (mut buffer, mut out) = (BytesMut::new(), BytesMut::new());
        // Those that the runtime still sends on.
        let mut open: Vec<u32> = opened
            .iter()
            .filter(|(_, c)| matches!(*c, channel::ERROR | channel::STDOUT | channel::STDERR))
            .map(|(s, _)| *s)
            .collect();
        let ended = loop {
            while let Some(frame) = decoder.decode(&mut buffer)? {
                match frame {
                    Frame::Data { stream, fin, data } => {
                        let to = opened.iter().find(|(s, _)| *s == stream).map(|(_, c)| *c);
                        if let Some(channel) = to.filter(|_| !data.is_empty()) {
                            websocket::put(&mut out, Op::Binary, &[channel], &data);
                        }
                        if fin {
                            open.retain(|s| *s != stream);
                        }
                    }
                    Frame::SynReply { stream, fin: true, .. } | Frame::Reset { stream, .. } => {
                        open.retain(|s| *s != stream)
                    }
                    // Even identifiers are the other side's pings, to be answered.
                    Frame::Ping(id) if id % 2 == 0 => {
                        let mut to_runtime = to_runtime.lock().await;
                        to_runtime.put(&Frame::Ping(id)).await?;
                        to_runtime.send().await?;
                    }
                    Frame::GoAway { .. } => open.clear(),
                    Frame::SynReply { .. } | Frame::SynStream { .. } | Frame::Ping(_) | Frame::Other => {}
                }
            }
            if !out.is_empty() {
                send(&to_client, &out).await?;
                out.clear();
            }
            if open.is_empty() {
                break Ok(());
            }
            buffer.reserve(BATCH);
            match from_runtime.read_buf(&mut buffer).await {
                Ok(0) => break Ok(()),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        ended.and(websocket::close(&mut *to_client.lock().await, 1000).await)
    };
    wire::both(inward, outward, peers.0, peers.1, done).await
}

/// What a client's message is towards the runtime. Its first byte names the channel.
fn frame(mut data: Bytes, stream_of: impl Fn(u8) -> Option<u32>) -> Option<Frame> {
    if data.is_empty() {
        return None;
    }
    let (stream, fin, data) = match data.split_to(1)[0] {
        channel::CLOSE => (stream_of(*data.first()?)?, true, Bytes::new()),
        channel => (stream_of(channel)?, false, data),
    };
    Some(Frame::Data { stream, fin, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(k, v)| (http::HeaderName::from_static(k), HeaderValue::from_static(v)))
            .collect()
    }

    #[test]
    fn what_the_runtime_speaks_is_passed_and_the_rest_translated() {
        let of = |pairs: &[_]| speech(&headers(pairs)).unwrap();
        assert_eq!(of(&[("upgrade", "SPDY/3.1")]), Speech::Same);
        assert_eq!(
            of(&[
                ("upgrade", "websocket"),
                ("sec-websocket-protocol", "v4.channel.k8s.io")
            ]),
            Speech::Same
        );
        let both = "v5.channel.k8s.io, v4.channel.k8s.io";
        assert_eq!(
            of(&[("upgrade", "websocket"), ("sec-websocket-protocol", both)]),
            Speech::V5
        );
        assert_eq!(
            of(&[("upgrade", "websocket"), ("sec-websocket-protocol", TUNNEL)]),
            Speech::Tunnel
        );
        assert!(speech(&HeaderMap::new()).is_err());
    }

    /// A client's frame, masked with zeros.
    fn client(data: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x82, 0x80 | data.len() as u8, 0, 0, 0, 0];
        frame.extend_from_slice(data);
        frame
    }

    #[tokio::test]
    async fn closing_standard_input_reaches_the_runtime_and_its_answer_the_client() {
        let (ours, mut browser) = tokio::io::duplex(4096);
        let (theirs, mut runtime) = tokio::io::duplex(4096);
        let streams = Streams {
            stdin: true,
            stdout: true,
            stderr: true,
            tty: false,
        };
        let mut session = tokio::task::JoinSet::new();
        session.spawn(translate(ours, theirs, streams, (None, None)));
        browser.write_all(&client(b"\x00hi")).await.unwrap();
        browser.write_all(&client(b"\xff\x00")).await.unwrap();
        let (mut decoder, mut encoder, mut buffer) = (Decoder::default(), Encoder::default(), BytesMut::new());
        let mut seen = Vec::new();
        while seen.len() < 6 {
            runtime.read_buf(&mut buffer).await.unwrap();
            while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
                seen.push(frame);
            }
        }
        let kinds: Vec<&str> = seen
            .iter()
            .filter_map(|f| match f {
                Frame::SynStream { headers, .. } => Some(headers[0].1.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(kinds, ["error", "stdin", "stdout", "stderr"]);
        assert_eq!(
            seen[4],
            Frame::Data {
                stream: 3,
                fin: false,
                data: Bytes::from_static(b"hi")
            }
        );
        assert_eq!(
            seen[5],
            Frame::Data {
                stream: 3,
                fin: true,
                data: Bytes::new()
            }
        );
        let mut out = BytesMut::new();
        for (stream, text) in [(5, &b"hi"[..]), (1, b"{}")] {
            encoder
                .encode(
                    &Frame::Data {
                        stream,
                        fin: true,
                        data: Bytes::from_static(text),
                    },
                    &mut out,
                )
                .unwrap();
        }
        encoder
            .encode(
                &Frame::Data {
                    stream: 7,
                    fin: true,
                    data: Bytes::new(),
                },
                &mut out,
            )
            .unwrap();
        runtime.write_all(&out).await.unwrap();
        let mut got = vec![0; 14];
        browser.read_exact(&mut got).await.unwrap();
        assert_eq!(got, b"\x82\x03\x01hi\x82\x03\x03{}\x88\x02\x03\xe8");
    }

    #[tokio::test]
    async fn a_command_that_ends_before_its_input_still_tells_how() {
        let (ours, browser) = tokio::io::duplex(4096);
        let (theirs, mut runtime) = tokio::io::duplex(4096);
        let streams = Streams {
            stdin: true,
            stdout: true,
            stderr: false,
            tty: false,
        };
        let mut session = tokio::task::JoinSet::new();
        session.spawn(translate(ours, theirs, streams, (None, None)));
        let (mut from, mut to) = tokio::io::split(browser);
        session.spawn(async move {
            // More than anybody takes; it goes on until the connection ends.
            while to.write_all(&client(&[0; 100])).await.is_ok() {}
            Ok(())
        });
        let mut some = [0; 1000];
        runtime.read_exact(&mut some).await.unwrap();
        let (mut encoder, mut out) = (Encoder::default(), BytesMut::new());
        for (stream, text) in [(1, &b"{}"[..]), (5, b"")] {
            let (fin, data) = (true, Bytes::from_static(text));
            encoder.encode(&Frame::Data { stream, fin, data }, &mut out).unwrap();
        }
        runtime.write_all(&out).await.unwrap();
        drop(runtime);
        let mut got = [0; 9];
        from.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"\x82\x03\x03{}\x88\x02\x03\xe8");
    }
}
