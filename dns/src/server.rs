//! The sockets: messages in, answers out.
//!
//! A question about the cluster is answered where it was read; one for the host's resolvers waits in a task of its own.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use hickory_proto::rr::{Name, Record};

use crate::answer::{self, Request, Step, Via};
use crate::forward::Forwarder;
use crate::zone::Zone;

/// TCP connections at a time; more wait in the kernel's queue.
const CONNECTIONS: usize = 128;
/// For the next question of a connection, and for taking an answer.
const IDLE: Duration = Duration::from_secs(10);

/// What answering needs. Shared by both sockets.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) zone: RwLock<Zone>,
    /// Whether the zone shows the cluster.
    pub(crate) known: std::sync::atomic::AtomicBool,
    pub(crate) forwarder: Forwarder,
    pub(crate) turn: AtomicUsize,
}

/// What is left to do for a message.
enum Rest {
    Nothing,
    Reply(Vec<u8>),
    Ask(Box<Later>),
}

/// A question on its way to others.
struct Later {
    request: Box<Request>,
    /// As it came, or about the other name that it stands for.
    bytes: Vec<u8>,
    alias: Option<Box<Record>>,
}

impl Server {
    pub(crate) fn new(zone: Zone, forwarder: Forwarder) -> Self {
        Self {
            zone: RwLock::new(zone),
            known: false.into(),
            forwarder,
            turn: AtomicUsize::new(0),
        }
    }

    fn step(&self, bytes: &[u8], via: Via) -> Rest {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let zone = self.zone.read().expect("no holder of this lock panics");
        let known = self.known.load(Ordering::Acquire).then_some(&*zone);
        match answer::step(bytes, via, known, |name: &Name| zone.holds(name), turn) {
            Step::Ignore => Rest::Nothing,
            Step::Reply(bytes) => Rest::Reply(bytes),
            Step::Forward(request) => Rest::Ask(Box::new(Later {
                request,
                bytes: bytes.to_vec(),
                alias: None,
            })),
            Step::Chase {
                request,
                record,
                target,
            } => match request.about(&target) {
                Some(bytes) => Rest::Ask(Box::new(Later {
                    request,
                    bytes,
                    alias: Some(record),
                })),
                None => Rest::Reply(request.chased(*record, None)),
            },
        }
    }

    async fn later(&self, later: Later) -> Vec<u8> {
        let Later { request, bytes, alias } = later;
        if let Some(record) = alias {
            let response = self.forwarder.ask(&bytes, false, false, false, true).await;
            return request.chased(*record, response.as_deref());
        }
        let whole = request.via() == Via::Tcp;
        let asked = self
            .forwarder
            .ask(&bytes, request.dnssec(), request.unchecked(), request.edns(), whole);
        match asked.await {
            // Kept since another client asked, who could take more.
            Some(response) if response.len() > request.longest() => request.truncated(),
            Some(response) => response,
            None => request.failure(),
        }
    }

    /// Answers UDP until `stop`.
    pub(crate) async fn udp(self: Arc<Self>, socket: UdpSocket, stop: CancellationToken) -> io::Result<()> {
        let socket = Arc::new(socket);
        let mut waiting = JoinSet::new();
        let mut buffer = vec![0; 4096];
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(_) = waiting.join_next() => {}
                received = socket.recv_from(&mut buffer) => {
                    // An earlier answer may have met a closed port: that is the client's affair.
                    let Ok((length, client)) = received else { continue };
                    match self.step(&buffer[..length], Via::Udp) {
                        Rest::Nothing => {}
                        Rest::Reply(bytes) => send(&socket, &bytes, client).await,
                        // As many as the forwarder has room for wait; the others fail at once.
                        Rest::Ask(later) => {
                            let (server, socket) = (self.clone(), socket.clone());
                            waiting.spawn(async move { send(&socket, &server.later(*later).await, client).await });
                        }
                    }
                }
            }
        }
    }

    /// Answers TCP until `stop`.
    pub(crate) async fn tcp(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) -> io::Result<()> {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(_) = connections.join_next() => {}
                accepted = listener.accept(), if connections.len() < CONNECTIONS => {
                    match accepted {
                        Ok((stream, _)) => {
                            let server = self.clone();
                            connections.spawn(async move {
                                if let Err(error) = server.connection(stream).await {
                                    debug!(%error, "connection ended");
                                }
                            });
                        }
                        // Out of file descriptors, say: those of others come back.
                        Err(error) => {
                            debug!(%error, "cannot accept");
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                    }
                }
            }
        }
    }

    async fn connection(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let length = match timeout(IDLE, stream.read_u16()).await? {
                Ok(length) => usize::from(length),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(e) => return Err(e),
            };
            let mut bytes = vec![0; length];
            timeout(IDLE, stream.read_exact(&mut bytes)).await??;
            let reply = match self.step(&bytes, Via::Tcp) {
                Rest::Nothing => return Ok(()),
                Rest::Reply(reply) => reply,
                Rest::Ask(later) => self.later(*later).await,
            };
            let mut framed = u16::try_from(reply.len())
                .map_err(io::Error::other)?
                .to_be_bytes()
                .to_vec();
            framed.extend_from_slice(&reply);
            timeout(IDLE, stream.write_all(&framed)).await??;
        }
    }
}

async fn send(socket: &UdpSocket, bytes: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, client).await {
        debug!(%client, %error, "cannot answer");
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{RData, Record, RecordType};

    use super::*;
    use crate::zone::Entry;

    /// A resolver on loopback that answers every name with one address, or cut, or not at all.
    struct Resolver {
        address: SocketAddr,
        asked: Arc<AtomicUsize>,
        _tasks: JoinSet<()>,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Mood {
        Good,
        Cut,
        Failing,
        Silent,
    }

    fn respond(request: &[u8], mood: Mood, over_udp: bool) -> Vec<u8> {
        let request = Message::from_vec(request).unwrap();
        let mut response = Message::response(request.metadata.id, OpCode::Query);
        response.add_queries(request.queries.clone());
        if mood == Mood::Failing {
            response.metadata.response_code = ResponseCode::ServFail;
        } else if mood == Mood::Cut && over_udp {
            response.metadata.truncation = true;
        } else {
            let data = RData::A(A::new(192, 0, 2, 1));
            response.add_answer(Record::from_rdata(request.queries[0].name().clone(), 60, data));
        }
        response.to_vec().unwrap()
    }

    impl Resolver {
        async fn start(mood: Mood) -> Self {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = tcp.local_addr().unwrap();
            let udp = UdpSocket::bind(address).await.unwrap();
            let asked = Arc::new(AtomicUsize::new(0));
            let mut tasks = JoinSet::new();
            let count = asked.clone();
            tasks.spawn(async move {
                let mut buffer = [0; 1500];
                while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                    count.fetch_add(1, Ordering::Relaxed);
                    if mood == Mood::Silent {
                        continue;
                    }
                    // A forged answer comes first: wrong number.
                    let response = respond(&buffer[..length], mood, true);
                    let mut forged = response.clone();
                    forged[0] ^= 1;
                    udp.send_to(&forged, from).await.unwrap();
                    udp.send_to(&response, from).await.unwrap();
                }
            });
            tasks.spawn(async move {
                while let Ok((mut stream, _)) = tcp.accept().await {
                    let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
                    stream.read_exact(&mut bytes).await.unwrap();
                    let response = respond(&bytes, mood, false);
                    stream.write_u16(u16::try_from(response.len()).unwrap()).await.unwrap();
                    stream.write_all(&response).await.unwrap();
                }
            });
            Self {
                address,
                asked,
                _tasks: tasks,
            }
        }
    }

    struct Lab {
        address: SocketAddr,
        _tasks: JoinSet<io::Result<()>>,
    }

    impl Lab {
        async fn start(resolvers: &[&Resolver]) -> Self {
            let mut zone = Zone::new("cluster.local", None, vec![]).unwrap();
            let addresses = vec!["10.96.0.7".parse().unwrap()];
            zone.set(
                "a",
                "web",
                Some(Entry::Cluster {
                    addresses,
                    ports: vec![],
                }),
            );
            zone.set(
                "a",
                "out",
                Some(Entry::External {
                    target: "example.com".into(),
                }),
            );
            let forwarder = Forwarder::to(resolvers.iter().map(|r| r.address).collect());
            let server = Arc::new(Server::new(zone, forwarder));
            server.known.store(true, Ordering::Release);
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = tcp.local_addr().unwrap();
            let udp = UdpSocket::bind(address).await.unwrap();
            let mut tasks = JoinSet::new();
            tasks.spawn(server.clone().udp(udp, CancellationToken::new()));
            tasks.spawn(server.tcp(tcp, CancellationToken::new()));
            Self { address, _tasks: tasks }
        }

        fn question(name: &str) -> Vec<u8> {
            let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
            message.metadata.recursion_desired = true;
            message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
            message.to_vec().unwrap()
        }

        async fn udp(&self, name: &str) -> Message {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            socket.send_to(&Self::question(name), self.address).await.unwrap();
            let mut buffer = [0; 1500];
            let length = timeout(Duration::from_secs(20), socket.recv(&mut buffer))
                .await
                .unwrap()
                .unwrap();
            let message = Message::from_vec(&buffer[..length]).unwrap();
            assert_eq!(message.metadata.id, 4711);
            message
        }

        async fn tcp(&self, names: &[&str]) -> Vec<Message> {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            let mut all = Vec::new();
            for name in names {
                let question = Self::question(name);
                stream.write_u16(u16::try_from(question.len()).unwrap()).await.unwrap();
                stream.write_all(&question).await.unwrap();
                let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut bytes).await.unwrap();
                all.push(Message::from_vec(&bytes).unwrap());
            }
            all
        }
    }

    fn shown(message: &Message) -> String {
        message
            .answers
            .iter()
            .map(|r| r.data.to_string())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[tokio::test]
    async fn our_names_and_those_of_others_are_answered_on_both_sockets() {
        let resolver = Resolver::start(Mood::Good).await;
        let lab = Lab::start(&[&resolver]).await;
        assert_eq!(shown(&lab.udp("web.a.svc.cluster.local.").await), "10.96.0.7");
        assert_eq!(shown(&lab.udp("example.com.").await), "192.0.2.1");
        let both = lab.tcp(&["web.a.svc.cluster.local.", "example.org."]).await;
        assert_eq!(both.iter().map(shown).collect::<Vec<_>>(), ["10.96.0.7", "192.0.2.1"]);
        assert_eq!(
            shown(&lab.udp("out.a.svc.cluster.local.").await),
            "example.com. 192.0.2.1"
        );
    }

    #[tokio::test]
    async fn answers_of_others_are_kept_and_spelled_as_asked() {
        let resolver = Resolver::start(Mood::Good).await;
        let lab = Lab::start(&[&resolver]).await;
        lab.udp("example.com.").await;
        let again = lab.udp("EXAMPLE.com.").await;
        assert_eq!(again.queries[0].name().to_ascii(), "EXAMPLE.com.");
        assert_eq!(shown(&again), "192.0.2.1");
        assert_eq!(resolver.asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_resolver_that_fails_is_passed_over_and_not_asked_first_again() {
        let (bad, good) = (Resolver::start(Mood::Failing).await, Resolver::start(Mood::Good).await);
        let lab = Lab::start(&[&bad, &good]).await;
        assert_eq!(shown(&lab.udp("a.example.com.").await), "192.0.2.1");
        assert_eq!(shown(&lab.udp("b.example.com.").await), "192.0.2.1");
        assert_eq!(
            (bad.asked.load(Ordering::Relaxed), good.asked.load(Ordering::Relaxed)),
            (1, 2)
        );
    }

    #[tokio::test]
    async fn a_resolver_that_is_silent_is_passed_over() {
        let (bad, good) = (Resolver::start(Mood::Silent).await, Resolver::start(Mood::Good).await);
        let lab = Lab::start(&[&bad, &good]).await;
        assert_eq!(shown(&lab.udp("example.com.").await), "192.0.2.1");
    }

    #[tokio::test]
    async fn nobody_to_ask_is_a_failure_at_once() {
        let lab = Lab::start(&[]).await;
        assert_eq!(
            lab.udp("example.com.").await.metadata.response_code,
            ResponseCode::ServFail
        );
        // The alias is still true.
        assert_eq!(shown(&lab.udp("out.a.svc.cluster.local.").await), "example.com.");
    }

    #[tokio::test]
    async fn cut_answers_are_fetched_whole_for_those_who_can_take_them() {
        let resolver = Resolver::start(Mood::Cut).await;
        let lab = Lab::start(&[&resolver]).await;
        assert!(lab.udp("example.com.").await.metadata.truncation);
        assert_eq!(shown(&lab.tcp(&["example.com."]).await[0]), "192.0.2.1");
    }

    #[tokio::test]
    async fn a_resolver_that_asks_us_back_does_not_ask_for_ever() {
        // The server is its own resolver.
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).await.unwrap();
        let zone = Zone::new("cluster.local", None, vec![]).unwrap();
        let server = Arc::new(Server::new(zone, Forwarder::to(vec![address])));
        let mut tasks = JoinSet::new();
        tasks.spawn(server.udp(udp, CancellationToken::new()));
        let lab = Lab { address, _tasks: tasks };
        let response = lab.udp("example.com.").await;
        assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    }
}
