//! Questions about other names go to the host's resolvers; their answers are kept for a while.
//!
//! A question is passed on as it came but for its number, so that whatever it asks for beyond our understanding works.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::{debug, info};

use crate::resolv::{Files, Resolvers};
use crate::wire;

/// For one server. Two of them fit into what a client waits.
const PATIENCE: Duration = Duration::from_millis(1500);
const ATTEMPTS: usize = 3;
/// Questions on their way at a time; more are answered with a failure, and asked again by whoever still cares.
const LIMIT: usize = 512;
/// Of one and the same question. A resolver that asks us back would ask for ever.
const SAME: usize = 8;
/// Seconds for which an answer is kept at most.
const LONGEST: u32 = 30;
/// Bytes of answers that are kept at most.
const KEPT: usize = 256 * 1024;
/// How often the resolvers' files are looked at, at most, and only when somebody asks.
const FRESH: Duration = Duration::from_secs(5);

/// What makes two questions the same: the question in lower case, and what the client can understand.
type Key = (Box<[u8]>, bool, bool);

#[derive(Debug)]
struct Kept {
    response: Box<[u8]>,
    places: Box<[usize]>,
    since: Instant,
    seconds: u32,
}

/// Answers by question. The oldest goes first when there is no room.
#[derive(Debug, Default)]
struct Cache {
    kept: HashMap<Key, Kept>,
    order: VecDeque<Key>,
    bytes: usize,
}

impl Cache {
    fn get(&mut self, key: &Key) -> Option<Vec<u8>> {
        let kept = self.kept.get(key)?;
        let elapsed = u32::try_from(kept.since.elapsed().as_secs()).unwrap_or(u32::MAX);
        if elapsed >= kept.seconds {
            return None;
        }
        let mut response = kept.response.to_vec();
        wire::age(&mut response, &kept.places, elapsed);
        Some(response)
    }

    fn put(&mut self, key: Key, response: &[u8]) {
        let Some((seconds, places)) = wire::keep(response, LONGEST) else {
            return;
        };
        let size = |key: &Key, response: &[u8]| 2 * key.0.len() + response.len() + 128;
        let kept = Kept {
            response: response.into(),
            places: places.into(),
            since: Instant::now(),
            seconds,
        };
        self.bytes += size(&key, response);
        match self.kept.insert(key.clone(), kept) {
            Some(old) => self.bytes -= size(&key, &old.response),
            None => self.order.push_back(key),
        }
        while self.bytes > KEPT {
            let Some(oldest) = self.order.pop_front() else { return };
            if let Some(old) = self.kept.remove(&oldest) {
                self.bytes -= size(&oldest, &old.response);
            }
        }
    }
}

/// Passes questions on.
#[derive(Debug)]
pub(crate) struct Forwarder {
    files: Files,
    own: HashSet<IpAddr>,
    resolvers: Mutex<(Resolvers, Option<Instant>)>,
    /// The server that answered last is asked first.
    preferred: AtomicUsize,
    cache: Mutex<Cache>,
    room: Semaphore,
    asking: Mutex<HashMap<Key, usize>>,
}

/// Counts a question as long as it is on its way.
struct Asking<'a> {
    forwarder: &'a Forwarder,
    key: Key,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut asking = self.forwarder.asking.lock().expect("no holder of this lock panics");
        if let Some(count) = asking.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                asking.remove(&self.key);
            }
        }
    }
}

impl Forwarder {
    pub(crate) fn new(files: Files, own: HashSet<IpAddr>) -> Self {
        Self {
            files,
            own,
            resolvers: Mutex::default(),
            preferred: AtomicUsize::new(0),
            cache: Mutex::default(),
            room: Semaphore::new(LIMIT),
            asking: Mutex::default(),
        }
    }

    #[cfg(test)]
    pub(crate) fn to(servers: Vec<SocketAddr>) -> Self {
        let forwarder = Self::new(
            Files {
                main: "/nonexistent".into(),
                behind_stub: "/nonexistent".into(),
            },
            HashSet::new(),
        );
        let far = Instant::now() + Duration::from_secs(100_000);
        let mut resolvers = Resolvers::default();
        resolvers.servers = servers;
        *forwarder.resolvers.lock().unwrap() = (resolvers, Some(far));
        forwarder
    }

    /// The response to a question, with the question's number, or `None` where nobody could answer.
    /// `whole`: the client can take a response of any length.
    pub(crate) async fn ask(
        &self,
        request: &[u8],
        dnssec: bool,
        unchecked: bool,
        edns: bool,
        whole: bool,
    ) -> Option<Vec<u8>> {
        let id = wire::id(request)?;
        let question: Box<[u8]> = wire::question(request)?.to_ascii_lowercase().into();
        // Two bits of what the client understands; a response with EDNS is no answer to a question without.
        let key: Key = (question, dnssec || unchecked, edns);
        if !unchecked && let Some(mut response) = self.cached(&key, request) {
            wire::set_id(&mut response, id);
            return Some(response);
        }
        let _room = self.room.try_acquire().ok()?;
        let _asking = self.begin(&key)?;
        let servers = self.servers();
        let mut last = None;
        let first = self.preferred.load(Ordering::Relaxed);
        let attempts = if servers.is_empty() {
            0
        } else {
            ATTEMPTS.max(servers.len())
        };
        for attempt in 0..attempts {
            let at = (first + attempt) % servers.len();
            match exchange(servers[at], request, whole).await {
                Ok(response) => {
                    let failed = matches!(wire::code(&response), Some(wire::SERVER_FAILURE | wire::REFUSED));
                    if !failed {
                        self.preferred.store(at, Ordering::Relaxed);
                        if !unchecked {
                            self.cache
                                .lock()
                                .expect("no holder of this lock panics")
                                .put(key.clone(), &response);
                        }
                    }
                    last = Some(response);
                    if !failed {
                        break;
                    }
                    // Asking the same server again would give the same answer.
                    if attempt + 1 >= servers.len() {
                        break;
                    }
                }
                Err(error) => debug!(server = %servers[at], %error, "no answer"),
            }
        }
        let mut response = last?;
        wire::set_id(&mut response, id);
        Some(response)
    }

    /// A kept answer, with the question as it was spelled this time: clients compare.
    fn cached(&self, key: &Key, request: &[u8]) -> Option<Vec<u8>> {
        let mut response = self.cache.lock().expect("no holder of this lock panics").get(key)?;
        let question = wire::question(request)?;
        response.get_mut(12..12 + question.len())?.copy_from_slice(question);
        Some(response)
    }

    fn begin(&self, key: &Key) -> Option<Asking<'_>> {
        let mut asking = self.asking.lock().expect("no holder of this lock panics");
        let count = asking.entry(key.clone()).or_default();
        if *count >= SAME {
            return None;
        }
        *count += 1;
        Some(Asking {
            forwarder: self,
            key: key.clone(),
        })
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let mut held = self.resolvers.lock().expect("no holder of this lock panics");
        let (resolvers, looked) = &mut *held;
        let now = Instant::now();
        if looked.is_none_or(|at| now.saturating_duration_since(at) >= FRESH && at <= now) {
            *looked = Some(now);
            if self.files.refresh(resolvers, &self.own) {
                info!(servers = ?resolvers.servers, "the host's resolvers");
                // Another network: what was learned in the last one may be wrong here.
                *self.cache.lock().expect("no holder of this lock panics") = Cache::default();
            }
        }
        resolvers.servers.clone()
    }
}

/// One question to one server. A cut answer is asked for again over TCP where the client can take it whole.
async fn exchange(server: SocketAddr, request: &[u8], whole: bool) -> io::Result<Vec<u8>> {
    let response = timeout(PATIENCE, over_udp(server, request)).await??;
    if whole && wire::is_truncated(&response) {
        return timeout(PATIENCE, over_tcp(server, request)).await?;
    }
    Ok(response)
}

async fn over_udp(server: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    // A port and a number of its own for each question: a forged answer has to guess both.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let id = rand::random();
    let mut sent = request.to_vec();
    wire::set_id(&mut sent, id);
    socket.send(&sent).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if fits(&buffer[..length], id, request) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn over_tcp(server: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let id = rand::random();
    let mut sent = u16::try_from(request.len())
        .map_err(io::Error::other)?
        .to_be_bytes()
        .to_vec();
    sent.extend_from_slice(request);
    wire::set_id(&mut sent[2..], id);
    stream.write_all(&sent).await?;
    let mut response = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut response).await?;
    if fits(&response, id, request) {
        Ok(response)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Whether these bytes answer that question.
fn fits(response: &[u8], id: u16, request: &[u8]) -> bool {
    let same = || match (wire::question(response), wire::question(request)) {
        (Some(have), Some(want)) => have.eq_ignore_ascii_case(want),
        _ => false,
    };
    wire::id(response) == Some(id) && wire::is_response(response) && same()
}
