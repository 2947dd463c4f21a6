//! What load balancers ask this node: whether the proxy works, and whether a Service has endpoints here.
//!
//! The answers are a few fixed lines, so requests are read only as far as their end.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::model::Check;

/// A request's head at most; what is longer gets no answer.
const LONGEST: usize = 8 * 1024;
/// For a whole request and its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections at a time per port; more wait in the kernel's queue.
const CONNECTIONS: usize = 16;

/// What the proxy says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) healthy: bool,
    services: BTreeMap<(Arc<str>, Arc<str>), Check>,
}

impl Status {
    /// Says whether something changed.
    pub(crate) fn set(&mut self, namespace: &Arc<str>, name: &Arc<str>, check: Option<Check>) -> bool {
        let key = (namespace.clone(), name.clone());
        match check {
            Some(check) => self.services.insert(key, check.clone()) != Some(check),
            None => self.services.remove(&key).is_some(),
        }
    }

    fn answer(&self, asked: &Asked) -> (u16, String) {
        match asked {
            Asked::Proxy if self.healthy => (200, "{\"healthy\":true}".to_owned()),
            Asked::Proxy => (503, "{\"healthy\":false}".to_owned()),
            Asked::Service(port) => {
                let found = self.services.iter().find(|(_, check)| check.port == *port);
                let Some(((namespace, name), check)) = found else {
                    return (404, "{}".to_owned());
                };
                let code = if check.near > 0 && self.healthy { 200 } else { 503 };
                let body = format!(
                    "{{\"service\":{{\"namespace\":\"{namespace}\",\"name\":\"{name}\"}},\"localEndpoints\":{},\"serviceProxyHealthy\":{}}}",
                    check.near, self.healthy
                );
                (code, body)
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Asked {
    Proxy,
    Service(u16),
}

/// Serves the proxy's own address, where one is given, and one port per Service that wants it, as these come and go.
pub(crate) async fn serve(
    own: Option<SocketAddr>,
    mut status: watch::Receiver<Status>,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let mut tasks = JoinSet::new();
    if let Some(address) = own {
        listen(&mut tasks, address, Asked::Proxy, &status, stop.child_token());
    }
    let mut ports: BTreeMap<u16, CancellationToken> = BTreeMap::new();
    loop {
        let wanted: Vec<u16> = status.borrow_and_update().services.values().map(|c| c.port).collect();
        ports.retain(|port, token| {
            let stay = wanted.contains(port);
            if !stay {
                token.cancel();
            }
            stay
        });
        for port in wanted {
            ports.entry(port).or_insert_with(|| {
                let token = stop.child_token();
                let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
                listen(&mut tasks, address, Asked::Service(port), &status, token.clone());
                token
            });
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Ok(()) = status.changed() => {}
            Some(_) = tasks.join_next() => {}
        }
    }
    tasks.shutdown().await;
    Ok(())
}

fn listen(
    tasks: &mut JoinSet<()>,
    address: SocketAddr,
    asked: Asked,
    status: &watch::Receiver<Status>,
    stop: CancellationToken,
) {
    let status = status.clone();
    tasks.spawn(async move {
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            // Routing works without; the address may be another program's.
            Err(error) => return warn!(%address, %error, "cannot answer health checks"),
        };
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(_) = connections.join_next() => {}
                Ok((stream, _)) = listener.accept(), if connections.len() < CONNECTIONS => {
                    let status = status.clone();
                    connections.spawn(async move {
                        // Who hangs up or dawdles gets nothing.
                        let _ = tokio::time::timeout(PATIENCE, answer(stream, asked, status)).await;
                    });
                }
            }
        }
    });
}

async fn answer(mut stream: TcpStream, asked: Asked, status: watch::Receiver<Status>) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        let read = stream.read(&mut buffer).await?;
        if read == 0 || head.len() + read > LONGEST {
            return Ok(());
        }
        head.extend_from_slice(&buffer[..read]);
    }
    let (code, body) = status.borrow().answer(&asked);
    let reason = match code {
        200 => "OK",
        404 => "Not Found",
        _ => "Service Unavailable",
    };
    let text = format!(
        "HTTP/1.1 {code} {reason}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(port: u16) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_service_is_healthy_here_while_it_has_endpoints_here() {
        let free = |_| std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let held: Vec<_> = (0..2).map(free).collect();
        let ports: Vec<_> = held.iter().map(|l| l.local_addr().unwrap().port()).collect();
        drop(held);
        let (told, status) = watch::channel(Status {
            healthy: true,
            ..Status::default()
        });
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(Some(([127, 0, 0, 1], ports[0]).into()), status, stop.clone()));
        let (namespace, name): (Arc<str>, Arc<str>) = ("a".into(), "web".into());
        let set = |near| {
            told.send_modify(|s| {
                s.set(&namespace, &name, Some(Check { port: ports[1], near }));
            });
        };
        set(1);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, ports[1])).await.is_err() {
            tokio::task::yield_now().await;
        }
        assert!(get(ports[1]).await.ends_with(
            "{\"service\":{\"namespace\":\"a\",\"name\":\"web\"},\"localEndpoints\":1,\"serviceProxyHealthy\":true}"
        ));
        set(0);
        assert!(get(ports[1]).await.starts_with("HTTP/1.1 503 "));
        assert!(get(ports[0]).await.starts_with("HTTP/1.1 200 "));
        told.send_modify(|s| s.healthy = false);
        assert!(get(ports[0]).await.starts_with("HTTP/1.1 503 "));
        told.send_modify(|s| {
            s.set(&namespace, &name, None);
        });
        while TcpStream::connect((Ipv4Addr::LOCALHOST, ports[1])).await.is_ok() {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        tasks.join_all().await;
    }
}
