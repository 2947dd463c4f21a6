//! A streamed body as WebSocket messages, for clients that ask for it so: browsers, and the logs of pods.

use axum::body::Body;
use base64::Engine as _;
use bytes::BytesMut;
use daemon::wire::{self, websocket};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use websocket::{Message, Op};

use super::Call;
use crate::status::Status;

/// How the bytes are put into messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Binary,
    Base64,
}

pub(super) fn wanted(headers: &HeaderMap) -> bool {
    let value = headers.get(UPGRADE).and_then(|v| v.to_str().ok());
    value.is_some_and(|v| v.eq_ignore_ascii_case("websocket"))
}

/// The first offered protocol that is known here. A client that offers none gets bytes.
fn protocol(headers: &HeaderMap) -> Option<(Option<&str>, Form)> {
    let mut offered = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .peekable();
    if offered.peek().is_none() {
        return Some((None, Form::Binary));
    }
    offered.find_map(|name| match name {
        "binary.k8s.io" => Some((Some(name), Form::Binary)),
        "base64.binary.k8s.io" => Some((Some(name), Form::Base64)),
        _ => None,
    })
}

/// Answers the handshake; `body` follows it, one message for each piece as it comes.
pub(super) fn answer(
    call: &Call<'_>,
    client: OnUpgrade,
    body: hyper::body::Incoming,
) -> Result<Response<Body>, Status> {
    let headers = &call.head.headers;
    let refused = |why: &str| Status::bad_request(format!("unable to upgrade: {why}"));
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(refused("unsupported WebSocket version"));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
    let key = key.ok_or_else(|| refused("no WebSocket key"))?;
    let (name, form) = protocol(headers).ok_or_else(|| refused("no known sub-protocol is offered"))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = response.headers_mut();
    out.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    out.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::try_from(websocket::accept(key)).map_err(|_| refused("no WebSocket key"))?;
    out.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(name) = name {
        let name = HeaderValue::try_from(name).map_err(|_| refused("no known sub-protocol is offered"))?;
        out.insert(SEC_WEBSOCKET_PROTOCOL, name);
    }
    let peer = call.head.extensions.get::<wire::Peer>().cloned();
    call.api.tunnels.spawn(async move {
        let ended = match client.await {
            Ok(client) => carry(TokioIo::new(client), body, form, peer).await,
            Err(error) => return tracing::debug!(%error, "an upgrade did not come about"),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a stream of messages broke");
        }
    });
    Ok(response)
}

async fn carry<B>(
    client: impl tokio::io::AsyncRead + tokio::io::AsyncWrite,
    body: B,
    form: Form,
    peer: Option<wire::Peer>,
) -> std::io::Result<()>
where
    B: http_body::Body<Data = bytes::Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    let (from, to) = tokio::io::split(client);
    let to = Mutex::new(to);
    let done = CancellationToken::new();
    let mut body = body;
    let inward = async {
        let mut reader = websocket::Reader::new(from);
        // Nothing that the client says matters but that it is there.
        while let Some(message) = reader.next().await? {
            match message {
                Message::Ping(data) => websocket::write(&mut *to.lock().await, Op::Pong, &data).await?,
                Message::Data(_) => {}
                Message::Close => break,
            }
        }
        Err(std::io::ErrorKind::ConnectionAborted.into())
    };
    let outward = async {
        let mut out = BytesMut::new();
        let code = loop {
            let data = match body.frame().await {
                None => break 1000,
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                // 1011: something unexpected here.
                Some(Err(_)) => break 1011,
            };
            out.clear();
            match form {
                Form::Binary => websocket::put(&mut out, Op::Binary, &[], &data),
                Form::Base64 => {
                    let text = base64::engine::general_purpose::STANDARD.encode(&data);
                    websocket::put(&mut out, Op::Text, &[], text.as_bytes());
                }
            }
            let mut to = to.lock().await;
            to.write_all(&out).await?;
            to.flush().await?;
        };
        websocket::close(&mut *to.lock().await, code).await
    };
    wire::both(inward, outward, peer, None, done).await
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use tokio::io::AsyncReadExt;

    use super::*;

    #[test]
    fn the_first_known_protocol_is_chosen() {
        let of = |offered: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for one in offered {
                headers.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(one));
            }
            protocol(&headers).map(|(name, form)| (name.map(str::to_owned), form))
        };
        assert_eq!(of(&[]), Some((None, Form::Binary)));
        let binary = Some((Some("binary.k8s.io".to_owned()), Form::Binary));
        assert_eq!(of(&["binary.k8s.io"]), binary);
        assert_eq!(of(&["other, binary.k8s.io", "base64.binary.k8s.io"]), binary);
        let base64 = Some((Some("base64.binary.k8s.io".to_owned()), Form::Base64));
        assert_eq!(of(&["base64.binary.k8s.io"]), base64);
        assert_eq!(of(&["v4.channel.k8s.io"]), None);
    }

    #[tokio::test]
    async fn a_body_comes_as_messages_and_a_goodbye() {
        for (form, want) in [
            (Form::Binary, &b"\x82\x02hi\x88\x02\x03\xe8"[..]),
            (Form::Base64, b"\x81\x04aGk=\x88\x02\x03\xe8"),
        ] {
            let (ours, mut client) = tokio::io::duplex(100);
            let carried = carry(ours, Full::new(bytes::Bytes::from_static(b"hi")), form, None);
            let read = async {
                let mut got = vec![0; want.len()];
                client.read_exact(&mut got).await.unwrap();
                drop(client);
                got
            };
            let (ended, got) = tokio::join!(carried, read);
            assert_eq!(got, want);
            ended.unwrap();
        }
    }

    #[tokio::test]
    async fn a_client_that_says_goodbye_ends_the_stream() {
        let (ours, mut client) = tokio::io::duplex(100);
        let (_more, body) = tokio::sync::mpsc::channel::<Result<http_body::Frame<bytes::Bytes>, std::io::Error>>(1);
        let body = http_body_util::StreamBody::new(futures::stream::unfold(body, |mut body| async {
            body.recv().await.map(|frame| (frame, body))
        }));
        client.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await.unwrap();
        assert!(carry(ours, Box::pin(body), Form::Binary, None).await.is_err());
    }
}
