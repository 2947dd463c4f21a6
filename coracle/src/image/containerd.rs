//! The few calls of containerd's own API that loading an image takes: content, images, leases. The messages are written
//! here from their published field numbers; containerd's CRI plug-in sees images made this way.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::archive::{Blob, Descriptor, Image};

/// The namespace that CRI uses.
const NAMESPACE: &str = "k8s.io";
/// containerd refuses messages over 16 MiB; a megabyte keeps both sides' buffers small.
const CHUNK: usize = 1 << 20;

#[derive(Clone, PartialEq, prost::Message)]
struct InfoRequest {
    #[prost(string, tag = "1")]
    digest: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct InfoResponse {}

#[derive(Clone, PartialEq, prost::Message)]
struct WriteRequest {
    #[prost(int32, tag = "1")]
    action: i32,
    #[prost(string, tag = "2")]
    reference: String,
    #[prost(int64, tag = "3")]
    total: i64,
    #[prost(string, tag = "4")]
    expected: String,
    #[prost(int64, tag = "5")]
    offset: i64,
    #[prost(bytes = "vec", tag = "6")]
    data: Vec<u8>,
    #[prost(map = "string, string", tag = "7")]
    labels: HashMap<String, String>,
}
const WRITE: i32 = 1;
const COMMIT: i32 = 2;

#[derive(Clone, PartialEq, prost::Message)]
struct WriteResponse {
    #[prost(int64, tag = "4")]
    offset: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ImageDescriptor {
    #[prost(string, tag = "1")]
    media_type: String,
    #[prost(string, tag = "2")]
    digest: String,
    #[prost(int64, tag = "3")]
    size: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ImageRecord {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(map = "string, string", tag = "2")]
    labels: HashMap<String, String>,
    #[prost(message, optional, tag = "3")]
    target: Option<ImageDescriptor>,
}

/// Creates and updates have the same shape.
#[derive(Clone, PartialEq, prost::Message)]
struct ImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ImageResponse {}

#[derive(Clone, PartialEq, prost::Message)]
struct LeaseRequest {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(map = "string, string", tag = "3")]
    labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LeaseResponse {}

/// A connection to containerd.
#[derive(Debug)]
pub(crate) struct Containerd {
    channel: Channel,
}

/// Keeps what is being loaded from containerd's garbage collector. One that is never released ends by itself in an hour.
#[derive(Debug)]
pub(crate) struct Lease(String);

impl Containerd {
    pub(crate) async fn connect(socket: &Path) -> anyhow::Result<Self> {
        let endpoint = Endpoint::try_from(format!("unix://{}", socket.display()))?;
        let channel = endpoint
            .connect()
            .await
            .with_context(|| format!("no containerd answers at {}", socket.display()))?;
        Ok(Containerd { channel })
    }

    pub(crate) async fn lease(&mut self) -> anyhow::Result<Lease> {
        let id = format!("coracle-load-{:016x}", rand::random::<u64>());
        let expire = jiff::Timestamp::now() + jiff::Span::new().hours(1);
        let labels = HashMap::from([("containerd.io/gc.expire".to_owned(), expire.to_string())]);
        let request = LeaseRequest { id: id.clone(), labels };
        let _: LeaseResponse = self
            .unary("/containerd.services.leases.v1.Leases/Create", request, None)
            .await?;
        Ok(Lease(id))
    }

    pub(crate) async fn release(&mut self, lease: &Lease) -> anyhow::Result<()> {
        let request = LeaseRequest {
            id: lease.0.clone(),
            labels: HashMap::new(),
        };
        let _: LeaseResponse = self
            .unary("/containerd.services.leases.v1.Leases/Delete", request, None)
            .await?;
        Ok(())
    }

    /// Stores a blob. False when it was there already.
    pub(crate) async fn put(
        &mut self,
        lease: &Lease,
        blob: &Blob,
        bytes: impl Read + Send + 'static,
    ) -> anyhow::Result<bool> {
        self.write(lease, &blob.descriptor, HashMap::new(), bytes).await
    }

    /// Stores an image's manifest, whose labels keep its blobs. False when it was there already.
    pub(crate) async fn put_manifest(&mut self, lease: &Lease, image: &Image) -> anyhow::Result<bool> {
        let labels = image.blobs.iter().enumerate().map(|(index, blob)| {
            let key = match index {
                0 => "containerd.io/gc.ref.content.config".to_owned(),
                layer => format!("containerd.io/gc.ref.content.l.{}", layer - 1),
            };
            (key, blob.descriptor.digest.clone())
        });
        let bytes = std::io::Cursor::new(image.manifest_bytes.clone());
        self.write(lease, &image.manifest, labels.collect(), bytes).await
    }

    /// Makes `name` mean the image, whatever it meant before.
    pub(crate) async fn name(&mut self, name: &str, manifest: &Descriptor) -> anyhow::Result<()> {
        let target = ImageDescriptor {
            media_type: manifest.media_type.clone(),
            digest: manifest.digest.clone(),
            size: i64::try_from(manifest.size)?,
        };
        let record = ImageRecord {
            name: name.to_owned(),
            labels: HashMap::new(),
            target: Some(target),
        };
        let request = ImageRequest { image: Some(record) };
        let created: Result<ImageResponse, Status> = self
            .unary("/containerd.services.images.v1.Images/Create", request.clone(), None)
            .await;
        match created {
            Err(status) if status.code() == Code::AlreadyExists => {
                let _: ImageResponse = self
                    .unary("/containerd.services.images.v1.Images/Update", request, None)
                    .await?;
                Ok(())
            }
            other => other.map(drop).with_context(|| format!("cannot name {name}")),
        }
    }

    async fn write(
        &mut self,
        lease: &Lease,
        descriptor: &Descriptor,
        labels: HashMap<String, String>,
        bytes: impl Read + Send + 'static,
    ) -> anyhow::Result<bool> {
        let request = InfoRequest {
            digest: descriptor.digest.clone(),
        };
        let info: Result<InfoResponse, Status> = self
            .unary("/containerd.services.content.v1.Content/Info", request, Some(lease))
            .await;
        match info {
            Ok(InfoResponse {}) => return Ok(false),
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(status.into()),
        }
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await?;
        let messages = futures::stream::iter(write_requests(descriptor.clone(), labels, bytes)?);
        let path = PathAndQuery::from_static("/containerd.services.content.v1.Content/Write");
        let codec = ProstCodec::<WriteRequest, WriteResponse>::default();
        let answers = grpc.streaming(with_headers(messages, Some(lease)), path, codec).await;
        let drained = async {
            let mut answers = answers?.into_inner();
            while answers.message().await?.is_some() {}
            Ok::<(), Status>(())
        };
        match drained.await {
            Ok(()) => Ok(true),
            Err(status) if status.code() == Code::AlreadyExists => Ok(false),
            Err(status) => Err(status).with_context(|| format!("cannot store {}", descriptor.digest)),
        }
    }

    async fn unary<Q, A>(&mut self, path: &'static str, request: Q, lease: Option<&Lease>) -> Result<A, Status>
    where
        Q: prost::Message + Default + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = ProstCodec::<Q, A>::default();
        let answer = grpc
            .unary(with_headers(request, lease), PathAndQuery::from_static(path), codec)
            .await?;
        Ok(answer.into_inner())
    }
}

fn with_headers<T>(message: T, lease: Option<&Lease>) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    if let Some(lease) = lease {
        let value: MetadataValue<Ascii> = lease.0.parse().expect("hexadecimal digits are ASCII");
        request.metadata_mut().insert("containerd-lease", value);
    }
    request
}

/// The messages of one write, made as they are sent: chunks, then the commit. A read error ends the stream early, and
/// the commit that never came leaves nothing behind.
fn write_requests(
    descriptor: Descriptor,
    labels: HashMap<String, String>,
    mut bytes: impl Read + Send + 'static,
) -> anyhow::Result<impl Iterator<Item = WriteRequest> + Send> {
    let total = i64::try_from(descriptor.size)?;
    let reference = format!("coracle-{}", descriptor.digest);
    let mut offset = 0;
    let mut labels = Some(labels);
    Ok(std::iter::from_fn(move || {
        let labels_left = labels.as_ref()?;
        let mut data = vec![0; CHUNK.min(usize::try_from(total - offset).unwrap_or(CHUNK))];
        let message = |action, offset, data, labels| WriteRequest {
            action,
            reference: reference.clone(),
            total,
            expected: descriptor.digest.clone(),
            offset,
            data,
            labels,
        };
        if offset < total {
            bytes.read_exact(&mut data).ok()?;
            let at = offset;
            offset += i64::try_from(data.len()).ok()?;
            return Some(message(WRITE, at, data, labels_left.clone()));
        }
        Some(message(COMMIT, offset, Vec::new(), labels.take()?))
    }))
}
