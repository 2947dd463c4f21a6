//! What the API server only carries: logs, exec, attach and port forwarding from the kubelet, and the proxies to pods,
//! services and nodes. An upgrade passes through as bytes in both directions, whatever protocol it is: the far end
//! answers it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use daemon::wire;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, UPGRADE};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rand::seq::IndexedRandom;
use rustls::pki_types::ServerName;
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::{Call, messages, options};
use crate::admission::Operation;
use crate::authz;
use crate::cache::Filter;
use crate::object::Object;
use crate::registry::Row;
use crate::registry::read::At;
use crate::registry::row::Subresource;
use crate::registry::write::Gate;
use crate::status::{About, Reason, Status};

const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// What a kubelet says about a refusal is short.
const REFUSAL_LIMIT: usize = 64 * 1024;
const KUBELET_PORT: i64 = 10250;

/// How the server reaches the kubelets: its client certificate and whose serving certificates it believes.
#[derive(Debug, Clone)]
pub struct KubeletAccess {
    pub tls: Arc<rustls::ClientConfig>,
    /// Types of node addresses in the order in which they are tried; none: `InternalIP` first.
    pub addresses: Vec<String>,
}

/// A kubelet's certificate names its addresses, and a node's host name need not resolve here.
const ADDRESSES: [&str; 5] = ["InternalIP", "Hostname", "InternalDNS", "ExternalDNS", "ExternalIP"];

impl KubeletAccess {
    /// Upgrades need HTTP/1.1, so nothing else may be agreed upon.
    pub(super) fn over_http1(mut self) -> Self {
        let mut tls = rustls::ClientConfig::clone(&self.tls);
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        self.tls = Arc::new(tls);
        self
    }
}

/// A far end.
#[derive(Debug)]
pub(super) struct Place {
    host: String,
    port: u16,
    secure: bool,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// `pods/log`, streamed as it comes.
pub(super) async fn log(call: &Call<'_>, row: &Row) -> Result<Response<Body>, Status> {
    let pod = pod(call, row).await?;
    options::log(call.query, pod.name())?;
    let container = container(call, &pod, "container")?;
    let place = kubelet(call, &pod).await?;
    let mut query = String::new();
    for (key, value) in options::pairs(call.query) {
        if !matches!(&*key, "container" | "insecureSkipTLSVerifyBackend" | "pretty") {
            pair(&mut query, &key, &value);
        }
    }
    let path = format!(
        "/containerLogs/{}/{}/{}",
        pod.namespace(),
        pod.name(),
        encoded(&container)
    );
    let request = to(
        &place,
        Method::GET,
        &with_query(&path, &query),
        HeaderMap::new(),
        Body::empty(),
    )?;
    let response = send(call, &place, request).await?;
    if !response.status().is_success() {
        return Err(refused(response, row.about(), pod.name()).await);
    }
    if let Some(client) = call
        .head
        .extensions
        .get::<OnUpgrade>()
        .filter(|_| messages::wanted(&call.head.headers))
    {
        return messages::answer(call, client.clone(), response.into_body());
    }
    let (head, body) = response.into_parts();
    let mut answer = Response::new(Body::new(body));
    let plain = HeaderValue::from_static("text/plain");
    let content_type = head.headers.get(CONTENT_TYPE).cloned().unwrap_or(plain);
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    Ok(answer)
}

/// `pods/exec`, `attach`, `portforward`.
pub(super) async fn upgrade(call: &Call<'_>, row: &Row, part: Subresource) -> Result<Response<Body>, Status> {
    if call.head.method != Method::POST {
        // A WebSocket is opened by GET, which must not be a way around the right to create
        // (AuthorizePodWebsocketUpgradeCreatePermission, on by default since 1.35).
        let target = &call.target;
        let request = authz::Request {
            user: call.user,
            verb: "create",
            target: authz::Target::Resource {
                group: target.group,
                version: target.version,
                resource: target.resource,
                subresource: target.subresource,
                namespace: target.namespace,
                name: &target.name,
                fields: None,
            },
        };
        call.api.authz.require(&request).await?;
    }
    let pod = pod(call, row).await?;
    let (kind, root, container) = match part {
        Subresource::Exec => ("PodExecOptions", "exec", Some(container(call, &pod, "container")?)),
        Subresource::Attach => ("PodAttachOptions", "attach", Some(container(call, &pod, "container")?)),
        _ => ("PodPortForwardOptions", "portForward", None),
    };
    admit(call, row, kind).await?;
    let place = kubelet(call, &pod).await?;
    let mut query = String::new();
    for (key, value) in options::pairs(call.query) {
        // The kubelet's words for the streams.
        let word = match &*key {
            "stdin" => "input",
            "stdout" => "output",
            "stderr" => "error",
            "tty" => "tty",
            "command" | "ports" | "port" => {
                pair(&mut query, if key == "ports" { "port" } else { &key }, &value);
                continue;
            }
            _ => continue,
        };
        if options::truth(&value) {
            pair(&mut query, word, "1");
        }
    }
    let mut path = format!("/{root}/{}/{}", pod.namespace(), pod.name());
    if let Some(container) = container {
        path.push('/');
        path.push_str(&encoded(&container));
    }
    let wants = call.head.headers.contains_key(UPGRADE);
    let Some(client) = call.head.extensions.get::<OnUpgrade>().filter(|_| wants) else {
        return Err(Status::bad_request("Upgrade request required"));
    };
    let request = to(
        &place,
        call.head.method.clone(),
        &with_query(&path, &query),
        forwarded(&call.head.headers, true),
        Body::empty(),
    )?;
    let response = send(call, &place, request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(echo(response).await);
    }
    Ok(tunnel(call, client.clone(), response))
}

/// The proxies: whatever the client sends goes to the pod, the service or the node.
pub(super) async fn proxy(call: &Call<'_>, row: &Row, body: Body) -> Result<Response<Body>, Status> {
    let path = behind(call, row);
    if path.is_empty() && matches!(call.head.method, Method::GET | Method::HEAD) {
        // Relative links of the page must lead below the proxy's path.
        let mut there = format!("{}/", call.head.uri.path());
        if !call.query.is_empty() {
            there = format!("{there}?{}", call.query);
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        let location = HeaderValue::try_from(there).map_err(|_| Status::bad_request("the path is no URL"))?;
        response.headers_mut().insert(LOCATION, location);
        return Ok(response);
    }
    let place = match &*row.plural {
        "nodes" => node_place(call).await?,
        "services" => service_place(call).await?,
        _ => pod_place(call, row).await?,
    };
    admit(call, row, &format!("{}ProxyOptions", row.kind)).await?;
    let path = if path.is_empty() { "/" } else { path };
    let upgrades = call.head.headers.contains_key(UPGRADE);
    let request = to(
        &place,
        call.head.method.clone(),
        &with_query(path, call.query),
        forwarded(&call.head.headers, upgrades),
        body,
    )?;
    let response = send(call, &place, request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = call.head.extensions.get::<OnUpgrade>()
    {
        return Ok(tunnel(call, client.clone(), response));
    }
    let (mut head, body) = response.into_parts();
    hop_by_hop(&mut head.headers);
    Ok(Response::from_parts(head, Body::new(body)))
}

/// The path behind `…/proxy`, as the client spelled it.
fn behind<'a>(call: &'a Call<'_>, row: &Row) -> &'a str {
    // "", api, v1, [namespaces, ns,] plural, name, proxy
    let segments = if row.namespaced() { 8 } else { 6 };
    let path = call.head.uri.path();
    match path.match_indices('/').nth(segments - 1) {
        Some((at, _)) => &path[at..],
        None => "",
    }
}

async fn admit(call: &Call<'_>, row: &Row, kind: &str) -> Result<(), Status> {
    let mut gate = call.gate(row, false);
    gate.operation = Some(Operation::Connect);
    let mut fields = Map::from_iter([
        ("apiVersion".to_owned(), Value::from("v1")),
        ("kind".to_owned(), Value::from(kind)),
    ]);
    for (key, value) in options::pairs(call.query) {
        let value = match &*key {
            "stdin" | "stdout" | "stderr" | "tty" => Value::from(options::truth(&value)),
            "command" => {
                let list = fields.entry("command").or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    list.push(Value::from(value.into_owned()));
                }
                continue;
            }
            _ => Value::from(value.into_owned()),
        };
        fields.insert(key.into_owned(), value);
    }
    gate.validate(&call.target.name, Some(&Object(fields)), None).await
}

async fn pod(call: &Call<'_>, row: &Row) -> Result<Object, Status> {
    let item = row.get(call.target.namespace, &call.target.name, At::Fresh).await?;
    Ok(item.object())
}

/// The container that the query names, or the only one.
fn container(call: &Call<'_>, pod: &Object, key: &str) -> Result<String, Status> {
    let names = |list: &str| -> Vec<String> {
        let containers = pod.at(&["spec", list]).and_then(Value::as_array);
        containers
            .into_iter()
            .flatten()
            .filter_map(|c| Some(c.get("name")?.as_str()?.to_owned()))
            .collect()
    };
    let (main, init, ephemeral) = (
        names("containers"),
        names("initContainers"),
        names("ephemeralContainers"),
    );
    let asked = options::pairs(call.query).find(|(k, v)| k == key && !v.is_empty());
    if let Some((_, asked)) = asked {
        let known = main.iter().chain(&init).chain(&ephemeral).any(|name| *name == *asked);
        return if known {
            Ok(asked.into_owned())
        } else {
            Err(Status::bad_request(format!(
                "container {asked} is not valid for pod {}",
                pod.name()
            )))
        };
    }
    if let [only] = main.as_slice() {
        return Ok(only.clone());
    }
    let mut why = format!("a container name must be specified for pod {}", pod.name());
    if !main.is_empty() {
        why.push_str(&format!(", choose one of: [{}]", main.join(" ")));
    }
    if !init.is_empty() {
        why.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
    }
    if !ephemeral.is_empty() {
        why.push_str(&format!(
            " or one of the ephemeral containers: [{}]",
            ephemeral.join(" ")
        ));
    }
    Err(Status::bad_request(why))
}

/// The kubelet of the pod's node.
async fn kubelet(call: &Call<'_>, pod: &Object) -> Result<Place, Status> {
    let name = pod.str_at(&["spec", "nodeName"]);
    if name.is_empty() {
        return Err(Status::bad_request(format!(
            "pod {} does not have a host assigned",
            pod.name()
        )));
    }
    kubelet_of(call, name).await
}

pub(super) async fn kubelet_of(call: &Call<'_>, name: &str) -> Result<Place, Status> {
    let nodes = call.api.registry.table().find("", "nodes");
    let nodes = nodes.ok_or_else(Status::no_such_resource)?;
    let node = nodes.get("", name, At::Fresh).await?.object();
    let port = node.at(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]);
    let port = port.and_then(Value::as_i64).filter(|p| *p > 0).unwrap_or(KUBELET_PORT);
    Ok(Place {
        host: node_host(call, &node)?,
        port: port as u16,
        secure: true,
    })
}

fn node_host(call: &Call<'_>, node: &Object) -> Result<String, Status> {
    let addresses = node.at(&["status", "addresses"]).and_then(Value::as_array);
    let find = |kind: &str| {
        let mut all = addresses.into_iter().flatten();
        all.find(|a| a["type"] == kind).and_then(|a| a["address"].as_str())
    };
    let wanted = call.api.kubelet.as_ref().map(|access| &access.addresses);
    let wanted: Vec<&str> = match wanted {
        Some(list) if !list.is_empty() => list.iter().map(String::as_str).collect(),
        _ => ADDRESSES.to_vec(),
    };
    wanted
        .into_iter()
        .find_map(find)
        .map(str::to_owned)
        .ok_or_else(|| Status::internal(&format!("no preferred addresses found for node {:?}", node.name())))
}

/// `name`, `name:port` or `scheme:name:port`.
fn split_name(name: &str) -> Result<(&str, &str, &str), Status> {
    let parts: Vec<&str> = name.split(':').collect();
    match parts.as_slice() {
        [name] => Ok(("", name, "")),
        [name, port] => Ok(("", name, port)),
        [scheme @ ("http" | "https" | ""), name, port] => Ok((scheme, name, port)),
        _ => Err(Status::bad_request(format!("invalid name {name:?}"))),
    }
}

fn number(port: &str) -> Result<u16, Status> {
    port.parse()
        .map_err(|_| Status::bad_request(format!("invalid port {port:?}")))
}

async fn node_place(call: &Call<'_>) -> Result<Place, Status> {
    let (scheme, name, port) = split_name(&call.target.name)?;
    let kubelet = kubelet_of(call, name).await?;
    if port.is_empty() || number(port)? == kubelet.port {
        return Ok(kubelet);
    }
    Ok(Place {
        host: kubelet.host,
        port: number(port)?,
        secure: scheme == "https",
    })
}

async fn pod_place(call: &Call<'_>, row: &Row) -> Result<Place, Status> {
    let (scheme, name, port) = split_name(&call.target.name)?;
    let pod = row.get(call.target.namespace, name, At::Fresh).await?.object();
    let host = pod.str_at(&["status", "podIP"]);
    if host.is_empty() {
        return Err(Status::bad_request(format!(
            "address not allowed: pod {name} has no address"
        )));
    }
    let first = || {
        let containers = pod.at(&["spec", "containers"]).and_then(Value::as_array)?;
        let mut ports = containers
            .iter()
            .filter_map(|c| c["ports"][0]["containerPort"].as_u64());
        ports.next().map(|port| port as u16)
    };
    let port = match port {
        "" => first().unwrap_or(if scheme == "https" { 443 } else { 80 }),
        port => number(port)?,
    };
    Ok(Place {
        host: host.to_owned(),
        port,
        secure: scheme == "https",
    })
}

/// A ready endpoint of the service, at random.
async fn service_place(call: &Call<'_>) -> Result<Place, Status> {
    let (scheme, name, port) = split_name(&call.target.name)?;
    let table = call.api.registry.table();
    let services = table.find("", "services").ok_or_else(Status::no_such_resource)?;
    let service = services.get(call.target.namespace, name, At::Fresh).await?.object();
    let ports = service.at(&["spec", "ports"]).and_then(Value::as_array);
    let ports = ports.into_iter().flatten();
    let wanted = ports
        .filter(|p| port.is_empty() || p["name"] == port || p["port"].as_u64() == port.parse().ok())
        .map(|p| p["name"].as_str().unwrap_or("").to_owned())
        .next();
    let unavailable = || Status::unavailable(format!("no endpoints available for service {name:?}"));
    let wanted =
        wanted.ok_or_else(|| Status::unavailable(format!("no service port {port:?} found for service {name:?}")))?;
    let slices = table
        .find("discovery.k8s.io", "endpointslices")
        .ok_or_else(unavailable)?;
    let filter = Filter {
        namespace: Some(call.target.namespace.into()),
        labels: api::selector::Labels::equal([("kubernetes.io/service-name", name)]),
        ..Filter::default()
    };
    let mut places = Vec::new();
    for slice in slices.cache()?.snapshot().list(&filter) {
        let slice = slice.object();
        let list = |field: &str| {
            slice
                .at(&[field])
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default()
        };
        let Some(port) = list("ports")
            .iter()
            .find(|p| p["name"].as_str().unwrap_or("") == wanted)
            .and_then(|p| p["port"].as_u64())
        else {
            continue;
        };
        for endpoint in list("endpoints") {
            if endpoint["conditions"]["ready"] != false
                && let Some(address) = endpoint["addresses"][0].as_str()
            {
                places.push((address.to_owned(), port as u16));
            }
        }
    }
    let (host, port) = places.choose(&mut rand::rng()).ok_or_else(unavailable)?.clone();
    Ok(Place {
        host,
        port,
        secure: scheme == "https",
    })
}

pub(super) fn to(
    place: &Place,
    method: Method,
    path: &str,
    headers: HeaderMap,
    body: Body,
) -> Result<Request<Body>, Status> {
    let uri: Uri = path.parse().map_err(|_| Status::bad_request("the path is no URL"))?;
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    let host = if place.host.contains(':') {
        format!("[{}]:{}", place.host, place.port)
    } else {
        format!("{}:{}", place.host, place.port)
    };
    let host = HeaderValue::try_from(host).map_err(|_| Status::internal("the far end's name is no host name"))?;
    request.headers_mut().insert(HOST, host);
    Ok(request)
}

/// One request over a connection of its own.
pub(super) async fn send(
    call: &Call<'_>,
    place: &Place,
    request: Request<Body>,
) -> Result<Response<hyper::body::Incoming>, Status> {
    let failed = |error: &dyn std::fmt::Display| {
        tracing::debug!(host = place.host, port = place.port, %error, "the far end did not answer");
        let mut status = Status::internal("");
        status.message = format!("error dialing backend: {error}");
        status
    };
    let dialed = tokio::time::timeout(DIAL_TIMEOUT, dial(call, place)).await;
    let (stream, peer) = match dialed {
        Ok(Ok(dialed)) => dialed,
        Ok(Err(error)) => return Err(failed(&error)),
        Err(_) => return Err(failed(&format!("dial tcp {}:{}: i/o timeout", place.host, place.port))),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
    call.api.tunnels.spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to a far end broke");
        }
    });
    let mut response = sender.send_request(request).await.map_err(|e| failed(&e))?;
    response.extensions_mut().insert(peer);
    Ok(response)
}

async fn dial(call: &Call<'_>, place: &Place) -> std::io::Result<(Box<dyn Stream>, wire::Peer)> {
    let stream = TcpStream::connect((place.host.as_str(), place.port)).await?;
    let stream = wire::Socket::new(stream)?;
    let peer = stream.peer();
    if !place.secure {
        return Ok((Box::new(stream), peer));
    }
    let Some(access) = &call.api.kubelet else {
        return Err(std::io::Error::other(
            "this server has no client certificate for kubelets",
        ));
    };
    let name = ServerName::try_from(place.host.clone()).map_err(std::io::Error::other)?;
    let connector = tokio_rustls::TlsConnector::from(access.tls.clone());
    Ok((Box::new(connector.connect(name, stream).await?), peer))
}

/// Joins both upgrades until either side ends.
fn tunnel(call: &Call<'_>, client: OnUpgrade, mut response: Response<hyper::body::Incoming>) -> Response<Body> {
    let far = response.extensions().get::<wire::Peer>().cloned();
    let peers = (call.head.extensions.get::<wire::Peer>().cloned(), far);
    let backend = hyper::upgrade::on(&mut response);
    call.api.tunnels.spawn(async move {
        let (client, backend) = match tokio::try_join!(client, backend) {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!(%error, "an upgrade did not come about");
                return;
            }
        };
        if let Err(error) = wire::relay(TokioIo::new(client), TokioIo::new(backend), peers).await {
            tracing::debug!(%error, "a tunnel broke");
        }
    });
    let (head, _) = response.into_parts();
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = head.status;
    *answer.headers_mut() = head.headers;
    answer
}

/// The client's headers that are for the far end. Credentials are for us.
fn forwarded(headers: &HeaderMap, upgrades: bool) -> HeaderMap {
    let mut out = headers.clone();
    let kept: Vec<(HeaderName, HeaderValue)> = [CONNECTION, UPGRADE]
        .into_iter()
        .filter_map(|name| Some((name.clone(), headers.get(&name)?.clone())))
        .collect();
    hop_by_hop(&mut out);
    out.remove(http::header::AUTHORIZATION);
    let personal: Vec<HeaderName> = out
        .keys()
        .filter(|name| name.as_str().starts_with("impersonate-") || name.as_str().starts_with("x-remote-"))
        .cloned()
        .collect();
    for name in personal {
        out.remove(name);
    }
    if upgrades {
        out.extend(kept);
    }
    out
}

fn hop_by_hop(headers: &mut HeaderMap) {
    for name in [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ] {
        headers.remove(name);
    }
}

/// What a kubelet said instead of upgrading, in its words: clients show them as they are.
async fn echo(response: Response<hyper::body::Incoming>) -> Response<Body> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, REFUSAL_LIMIT).collect().await;
    let mut answer = Response::new(Body::from(body.map(|b| b.to_bytes()).unwrap_or_default()));
    *answer.status_mut() = head.status;
    if let Some(kind) = head.headers.get(CONTENT_TYPE) {
        answer.headers_mut().insert(CONTENT_TYPE, kind.clone());
    }
    answer
}

/// What the far end said when it refused, as a Status.
async fn refused(response: Response<hyper::body::Incoming>, about: About<'_>, name: &str) -> Status {
    let code = response.status();
    let body = Limited::new(response.into_body(), REFUSAL_LIMIT).collect().await;
    let text = body
        .map(|b| String::from_utf8_lossy(&b.to_bytes()).trim().to_owned())
        .unwrap_or_default();
    match code {
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::NOT_FOUND => {
            let mut status = Status::not_found(about, name);
            status.message = format!("the server could not find the requested resource ( {about} {name}): {text}");
            status
        }
        StatusCode::SERVICE_UNAVAILABLE => Status::unavailable(text),
        code if code.is_client_error() => Status {
            code: code.as_u16(),
            reason: Reason::Unknown,
            message: text,
            details: None,
            continue_token: None,
        },
        _ => Status::internal(&text),
    }
}

fn with_query(path: &str, query: &str) -> String {
    if query.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{query}")
    }
}

fn pair(query: &mut String, key: &str, value: &str) {
    if !query.is_empty() {
        query.push('&');
    }
    query.push_str(&encoded(key));
    query.push('=');
    query.push_str(&encoded(value));
}

fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_names_hold_scheme_and_port() {
        assert_eq!(split_name("web").unwrap(), ("", "web", ""));
        assert_eq!(split_name("web:80").unwrap(), ("", "web", "80"));
        assert_eq!(split_name("https:web:https").unwrap(), ("https", "web", "https"));
        assert_eq!(split_name("a:b:c:d").unwrap_err().code, 400);
    }

    #[test]
    fn credentials_stay_here() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("impersonate-user", "u"),
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-key", "k"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let names = |headers: &HeaderMap| {
            let mut names: Vec<String> = headers.keys().map(|n| n.to_string()).collect();
            names.sort();
            names
        };
        assert_eq!(
            names(&forwarded(&headers, true)),
            ["connection", "sec-websocket-key", "upgrade"]
        );
        assert_eq!(names(&forwarded(&headers, false)), ["sec-websocket-key"]);
    }

    #[test]
    fn options_of_a_log_that_cannot_be_are_refused() {
        for fine in [
            "",
            "tailLines=0&limitBytes=1",
            "sinceSeconds=5&follow=true",
            "sinceTime=2026-11-21T00:00:00Z",
        ] {
            options::log(fine, "web").unwrap();
        }
        for (query, want) in [
            (
                "tailLines=-1",
                "PodLogOptions \"web\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                "limitBytes=0",
                "PodLogOptions \"web\" is invalid: limitBytes: Invalid value: 0: must be greater than 0",
            ),
            (
                "sinceSeconds=1&sinceTime=2026-11-21T00:00:00Z",
                "at most one of `sinceTime` or `sinceSeconds` may be specified",
            ),
        ] {
            let refused = options::log(query, "web").unwrap_err();
            assert!(
                refused.code == 422 && refused.message.contains(want),
                "{}",
                refused.message
            );
        }
        assert_eq!(options::log("tailLines=x", "web").unwrap_err().code, 400);
    }
}
