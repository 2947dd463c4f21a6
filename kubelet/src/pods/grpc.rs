//! The one gRPC call that a probe makes: `grpc.health.v1.Health/Check`, with messages of our own. Texts are upstream's.

use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use prost::Message;
use tonic::{Code, Status, client::Grpc, transport::Endpoint};

use super::net::authority;
use crate::runtime::client::RawCodec;

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;

fn word(status: i32) -> &'static str {
    match status {
        0 => "UNKNOWN",
        1 => "SERVING",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "an unknown status",
    }
}

/// Whether the service says that it serves; otherwise why not.
pub async fn check(host: &str, port: u16, service: &str, timeout: Duration) -> Result<(), String> {
    let address = authority(host, port);
    let seconds = format!("{}s", timeout.as_secs());
    let end = tokio::time::Instant::now() + timeout;
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .and_then(|e| e.user_agent("kube-probe/1.36"))
        .map_err(|e| format!("error: failed to connect service at \"{address}\": {e}"))?;
    let channel = match tokio::time::timeout_at(end, endpoint.connect()).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(error)) => {
            let why = daemon::chain(&error);
            return Err(format!("error: failed to connect service at \"{address}\": {why}"));
        }
        Err(_) => {
            return Err(format!(
                "timeout: failed to connect service \"{address}\" within {seconds}"
            ));
        }
    };
    let body = Bytes::from(
        Request {
            service: service.to_owned(),
        }
        .encode_to_vec(),
    );
    let call = async {
        let mut grpc = Grpc::new(channel);
        grpc.ready().await.map_err(|e| Status::unavailable(daemon::chain(&e)))?;
        let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        grpc.unary(tonic::Request::new(body), path, RawCodec).await
    };
    let late = || format!("timeout: health rpc did not complete within {seconds}");
    let bytes = match tokio::time::timeout_at(end, call).await {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) => {
            let said = status.message();
            return Err(match status.code() {
                Code::Unimplemented => {
                    format!(
                        "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {said}"
                    )
                }
                Code::DeadlineExceeded => late(),
                _ => format!("error: health rpc failed: {status}"),
            });
        }
        Err(_) => return Err(late()),
    };
    let answer = Answer::decode(bytes).map_err(|e| format!("error: health rpc failed: {e}"))?;
    if answer.status == SERVING {
        Ok(())
    } else {
        Err(format!(
            "service unhealthy (responded with \"{}\")",
            word(answer.status)
        ))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full, combinators::BoxBody};
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::{net::TcpListener, task::JoinSet};

    use super::*;

    /// A health service by hand: services named "slow" never answer, others say the status of their number.
    async fn serve(listener: TcpListener) {
        let mut open = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                let bytes = request.into_body().collect().await.unwrap().to_bytes();
                let asked = Request::decode(bytes.slice(5..)).unwrap().service;
                if asked == "slow" {
                    std::future::pending::<()>().await;
                }
                let answer = http::Response::builder().header("content-type", "application/grpc");
                if asked == "other" {
                    let none: BoxBody<Bytes, hyper::Error> = Full::new(Bytes::new()).map_err(|e| match e {}).boxed();
                    return answer
                        .header("grpc-status", "12")
                        .header("grpc-message", "no")
                        .body(none);
                }
                let message = Answer {
                    status: asked.parse().unwrap_or(SERVING),
                }
                .encode_to_vec();
                let mut frame = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
                frame.extend(message);
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                let body = Full::new(Bytes::from(frame)).map_err(|e| match e {});
                answer.body(body.with_trailers(std::future::ready(Some(Ok(trailers)))).boxed())
            });
            open.spawn(async move {
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                drop(server.serve_connection(TokioIo::new(stream), service).await);
            });
        }
    }

    #[tokio::test]
    async fn a_service_is_healthy_only_when_it_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener));
        let second = Duration::from_secs(1);
        let ask = |service: &'static str| check("127.0.0.1", port, service, second);
        assert_eq!(ask("").await, Ok(()));
        assert_eq!(
            ask("2").await.unwrap_err(),
            "service unhealthy (responded with \"NOT_SERVING\")"
        );
        assert_eq!(
            ask("slow").await.unwrap_err(),
            "timeout: health rpc did not complete within 1s"
        );
        assert!(
            ask("other")
                .await
                .unwrap_err()
                .contains("does not implement the grpc health protocol")
        );
        tasks.shutdown().await;
        assert!(ask("").await.unwrap_err().contains("failed to connect service at"));
    }
}
