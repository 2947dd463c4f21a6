//! A gRPC client for unary calls and server streams over a unix socket.
//!
//! Messages are encoded outside tonic, which therefore sees bytes only: one compiled path for all calls instead of one per pair of messages.

use std::{path::PathBuf, time::Duration};

use bytes::{Buf, BufMut, Bytes};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tonic::{
    Code, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};

use super::Error;

/// The upper bound that node agents give to answers of a runtime: a node with many containers lists a lot.
const MAX_MESSAGE: usize = 16 << 20;

/// Connects when first used and again after a break, so a runtime that is away is an error of a call and nothing more.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

impl Client {
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        let socket: PathBuf = socket.into();
        let channel =
            Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }));
        Client { channel }
    }

    /// `timeout` none: as long as it takes (pulls).
    pub async fn unary<R: Message + Default>(
        &self,
        path: &'static str,
        request: impl Message,
        timeout: Option<Duration>,
    ) -> Result<R, Error> {
        let call = self.call(path, Bytes::from(request.encode_to_vec()));
        let answer = match timeout {
            None => call.await,
            Some(limit) => match tokio::time::timeout(limit, call).await {
                Ok(answer) => answer,
                Err(_) => return Err(Error::Timeout(format!("no answer to {path} within {limit:?}"))),
            },
        };
        decode(path, answer.map_err(error)?)
    }

    pub fn stream<R: Message + Default + 'static>(
        &self,
        path: &'static str,
        request: impl Message,
    ) -> BoxStream<'static, Result<R, Error>> {
        let (channel, body) = (self.channel.clone(), Bytes::from(request.encode_to_vec()));
        let open = async move {
            let mut grpc = ready(channel).await?;
            let answer = grpc
                .server_streaming(tonic::Request::new(body), PathAndQuery::from_static(path), RawCodec)
                .await?;
            Ok::<_, Status>(answer.into_inner())
        };
        futures::stream::once(open)
            .try_flatten()
            .map(move |item| item.map_err(error).and_then(|bytes| decode(path, bytes)))
            .boxed()
    }

    async fn call(&self, path: &'static str, body: Bytes) -> Result<Bytes, Status> {
        let mut grpc = ready(self.channel.clone()).await?;
        let answer = grpc
            .unary(tonic::Request::new(body), PathAndQuery::from_static(path), RawCodec)
            .await?;
        Ok(answer.into_inner())
    }
}

async fn ready(channel: Channel) -> Result<Grpc<Channel>, Status> {
    let mut grpc = Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE);
    grpc.ready().await.map_err(|e| Status::unavailable(chain(&e)))?;
    Ok(grpc)
}

fn decode<R: Message + Default>(path: &str, bytes: Bytes) -> Result<R, Error> {
    R::decode(bytes).map_err(|e| Error::Refused {
        code: Code::DataLoss as i32,
        message: format!("unreadable answer to {path}: {e}"),
    })
}

fn error(status: Status) -> Error {
    let message = status.message().to_owned();
    match status.code() {
        Code::NotFound => Error::Absent(message),
        Code::Unimplemented => Error::Unimplemented(message),
        Code::DeadlineExceeded => Error::Timeout(message),
        Code::Unavailable => Error::Unavailable(message),
        code => {
            // A connection that broke under a call is reported as `Unknown` with the transport's error as source.
            if std::error::Error::source(&status).is_some() {
                return Error::Unavailable(chain(&status));
            }
            Error::Refused {
                code: code as i32,
                message,
            }
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let line = inner.to_string();
        if !text.ends_with(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = inner.source();
    }
    text
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = RawCodec;
    type Decoder = RawCodec;

    fn encoder(&mut self) -> RawCodec {
        RawCodec
    }

    fn decoder(&mut self) -> RawCodec {
        RawCodec
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
