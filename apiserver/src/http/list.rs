//! LIST: streamed from the shared bytes of the cache, never built as a whole.

use std::collections::VecDeque;
use std::io::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY};
use http::{Response, StatusCode};
use http_body::{Frame, SizeHint};
use serde_json::{Map, Value, json};

use super::negotiate::{self, Accept, Form, Format, Offer};
use super::render::Rendering;
use super::table::{Include, Writer};
use super::{Call, options, respond};
use crate::cache::{Filter, Item};
use crate::registry::Row;
use crate::registry::read::{List, Query};
use crate::status::Status;

/// One frame over the network, about.
const FRAME: usize = 64 * 1024;
/// Smaller answers are not worth compressing: upstream's threshold.
const GZIP_FROM: usize = 128 * 1024;

/// What a list or watch is about: the path and the selectors.
pub(super) fn filter(row: &Row, call: &Call<'_>, options: &options::List) -> Result<Filter, Status> {
    row.check_fields(&options.fields)?;
    let target = &call.target;
    Ok(Filter {
        namespace: (row.namespaced() && !target.namespace.is_empty()).then(|| target.namespace.into()),
        name: (!target.name.is_empty()).then(|| (&*target.name).into()),
        labels: options.labels.clone(),
        fields: row.cache_fields(&options.fields)?,
    })
}

pub(super) async fn list(row: Arc<Row>, call: &Call<'_>) -> Result<Response<Body>, Status> {
    let accept = negotiate::accept(&call.head.headers, Offer::Forms { list: true })?;
    let include = Include::parse(call.query)?;
    let options = options::List::parse(call.query, false)?;
    let list = row
        .list(&Query {
            filter: filter(&row, call, &options)?,
            resource_version: options.resource_version,
            matching: options.resource_version_match,
            limit: options.limit,
            continue_token: options.continue_token,
        })
        .await?;
    let pretty = options::pretty(call.query, &call.head.headers);
    let body = Lines::new(row, call.target.version, accept, include, list);
    if accept.format != Format::Json || pretty {
        let mut whole = Vec::new();
        let mut body = body;
        while body.fill(&mut whole, usize::MAX) {}
        return Ok(respond::formatted(StatusCode::OK, accept.format, pretty, whole));
    }
    let gzip = !call.is_internal() && body.size() >= GZIP_FROM && negotiate::gzip(&call.head.headers);
    let mode = match (call.is_internal(), gzip) {
        (true, _) => Mode::Shared(VecDeque::new()),
        (false, true) => Mode::Gzip(Box::new(GzEncoder::new(Vec::new(), Compression::new(1)))),
        (false, false) => Mode::Plain,
    };
    let mut response = Response::new(Body::new(Listing {
        lines: Some(body),
        mode,
    }));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    Ok(response)
}

/// The list as it is being written: a place between two items.
#[derive(Debug)]
struct Lines {
    row: Arc<Row>,
    version: String,
    form: Form,
    include: Include,
    list: List,
    next: usize,
    begun: bool,
    over: bool,
}

impl Lines {
    fn new(row: Arc<Row>, version: &str, accept: Accept, include: Include, list: List) -> Self {
        Lines {
            row,
            version: version.to_owned(),
            form: accept.form,
            include,
            list,
            next: 0,
            begun: false,
            over: false,
        }
    }

    fn head(&self) -> Vec<u8> {
        let mut metadata = Map::new();
        if let Some(token) = &self.list.continue_token {
            metadata.insert("continue".into(), token.as_str().into());
        }
        if let Some(remaining) = self.list.remaining.filter(|n| *n > 0) {
            metadata.insert("remainingItemCount".into(), remaining.into());
        }
        let mut out = Vec::with_capacity(256);
        let (kind, api_version) = match self.form {
            Form::Table(api_version) => {
                let writer = Writer::new(&self.row, &self.version, api_version, self.include);
                writer.head(self.list.revision, &Value::Object(metadata), true, &mut out);
                return out;
            }
            Form::Metadata(api_version) => ("PartialObjectMetadataList".to_owned(), api_version.to_owned()),
            Form::Object => (format!("{}List", self.row.kind), self.row.api_version(&self.version)),
        };
        metadata.insert("resourceVersion".into(), self.list.revision.to_string().into());
        let head = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
        out = serde_json::to_vec(&head).expect("a tree serializes");
        out.pop();
        out.extend_from_slice(b",\"items\":[");
        out
    }

    /// Appends until `out` holds about `upto` bytes; false where the list is over.
    fn fill(&mut self, out: &mut Vec<u8>, upto: usize) -> bool {
        if self.over {
            return false;
        }
        if !self.begun {
            self.begun = true;
            *out = self.head();
        }
        let rendering = Rendering::new(&self.row, &self.version, self.form, self.include);
        while let Some(item) = self.list.items.get(self.next) {
            if out.len() >= upto {
                return true;
            }
            if self.next > 0 {
                out.push(b',');
            }
            rendering.write(item, item.revision, out);
            self.next += 1;
        }
        out.extend_from_slice(b"]}\n");
        self.over = true;
        true
    }

    /// The next pieces, sharing the cache's bytes; false where the list is over.
    fn share(&mut self, out: &mut VecDeque<Bytes>) -> bool {
        if self.over {
            return false;
        }
        if !self.begun {
            self.begun = true;
            out.push_back(self.head().into());
        }
        match self.list.items.get(self.next) {
            Some(item) => {
                if self.next > 0 {
                    out.push_back(Bytes::from_static(b","));
                }
                let rendering = Rendering::new(&self.row, &self.version, self.form, self.include);
                out.extend(
                    rendering
                        .chunks(item, item.revision)
                        .into_iter()
                        .filter(|c| !c.is_empty()),
                );
                self.next += 1;
            }
            None => {
                out.push_back(Bytes::from_static(b"]}\n"));
                self.over = true;
            }
        }
        true
    }

    /// The size of the whole, exactly where the form allows it and roughly where not.
    fn size(&self) -> usize {
        let items = &self.list.items;
        items.iter().map(size_of).sum::<usize>() + items.len()
    }

    fn exact(&self) -> Option<u64> {
        if self.begun || self.form != Form::Object || self.row.converts(&self.version) {
            return None;
        }
        let commas = self.list.items.len().saturating_sub(1);
        let items: usize = self.list.items.iter().map(size_of).sum();
        Some((self.head().len() + items + commas + 3) as u64)
    }
}

fn size_of(item: &Arc<Item>) -> usize {
    item.json().len(item.revision)
}

#[derive(Debug)]
enum Mode {
    Plain,
    Gzip(Box<GzEncoder<Vec<u8>>>),
    /// In this process: the cache's own bytes.
    Shared(VecDeque<Bytes>),
}

/// A list as a body.
#[derive(Debug)]
struct Listing {
    /// `None` when all of it went out.
    lines: Option<Lines>,
    mode: Mode,
}

impl http_body::Body for Listing {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let Some(lines) = &mut this.lines else {
            return match &mut this.mode {
                Mode::Shared(queue) => Poll::Ready(queue.pop_front().map(|chunk| Ok(Frame::data(chunk)))),
                Mode::Plain | Mode::Gzip(_) => Poll::Ready(None),
            };
        };
        let frame = match &mut this.mode {
            Mode::Plain => {
                let mut out = Vec::with_capacity(FRAME + FRAME / 8);
                lines.fill(&mut out, FRAME);
                Bytes::from(out)
            }
            Mode::Gzip(encoder) => {
                let mut plain = Vec::with_capacity(FRAME + FRAME / 8);
                while encoder.get_ref().len() < FRAME && !lines.over {
                    plain.clear();
                    lines.fill(&mut plain, FRAME);
                    encoder.write_all(&plain).expect("memory takes every byte");
                }
                if lines.over {
                    encoder.try_finish().expect("memory takes every byte");
                }
                Bytes::from(std::mem::take(encoder.get_mut()))
            }
            Mode::Shared(queue) => {
                if queue.is_empty() {
                    lines.share(queue);
                }
                queue.pop_front().unwrap_or_default()
            }
        };
        if lines.over {
            this.lines = None;
        }
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.lines, &self.mode) {
            (Some(lines), Mode::Plain) => lines.exact().map_or_else(SizeHint::default, SizeHint::with_exact),
            _ => SizeHint::default(),
        }
    }
}
