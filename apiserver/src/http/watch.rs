//! WATCH: a body that lasts. Over the network each batch of events is one frame; in this process an event is five frames
//! that share the cache's bytes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body::Frame;
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::{Instant, Sleep};

use super::list::filter;
use super::negotiate::{self, Accept, Form, Format, Offer};
use super::render::Rendering;
use super::table::{Include, Writer};
use super::{Call, options, respond};
use crate::cache::{Event, Item, Watcher};
use crate::registry::Row;
use crate::registry::read::{Follow, Started, from_cache};
use crate::status::Status;
use crate::store::Revision;

/// Initial events are sent in frames of about this size.
const FRAME: usize = 64 * 1024;
/// Between two bookmarks, at least; a tenth of it at random on top, so that watchers do not come all at once.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// A watch that does not say how long ends between this and twice this: upstream's --min-request-timeout.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);
/// In a burst a network watcher gets what happened since so long ago in one frame: each frame is a TLS record, a system
/// call and the client's wake-up. Events that come alone, and the first two of a burst, do not wait.
const PACE: Duration = Duration::from_millis(4);
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

pub(super) async fn watch(row: Arc<Row>, call: &Call<'_>) -> Result<Response<Body>, Status> {
    let accept = negotiate::accept(&call.head.headers, Offer::Forms { list: true })
        // Clients name the form of the single object here too.
        .or_else(|_| negotiate::accept(&call.head.headers, Offer::Forms { list: false }))?;
    if accept.format == Format::Yaml {
        return Err(Status::not_acceptable("application/json"));
    }
    let include = Include::parse(call.query)?;
    let options = options::List::parse(call.query, true)?;
    let started = row
        .watch(Follow {
            filter: filter(&row, call, &options)?,
            resource_version: options.resource_version.clone(),
            send_initial_events: options.send_initial_events,
        })
        .await?;
    let timeout = match options.timeout_seconds {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds),
        _ => DEFAULT_TIMEOUT.mul_f64(1.0 + rand::rng().random::<f64>()),
    };
    let stream = match started {
        Ok(started) => Stream::new(row, call, accept, include, started, options.bookmarks, timeout),
        Err(status) => Stream::refused(row, call, accept, include, &status, timeout),
    };
    let mut response = Response::new(Body::new(stream));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

/// A watch as a body.
#[derive(Debug)]
struct Stream {
    row: Arc<Row>,
    version: String,
    form: Form,
    include: Include,
    /// Frames share the cache's bytes.
    shared: bool,
    /// What is left of the initial state.
    initial: VecDeque<Arc<Item>>,
    /// Sent after the initial state.
    end_of_initial: Option<Revision>,
    /// `None` once the watch is over.
    watcher: Option<Watcher>,
    out: VecDeque<Bytes>,
    /// A watch of Tables says its columns once.
    columns_said: bool,
    deadline: Pin<Box<Sleep>>,
    /// When events were last sent over the network.
    sent: Option<Instant>,
    /// In a burst: when to look for more.
    rest: Option<Pin<Box<Sleep>>>,
    bookmarks: Option<Pin<Box<Sleep>>>,
    /// The last revision that the client was told.
    told: Revision,
}

impl Stream {
    fn new(
        row: Arc<Row>,
        call: &Call<'_>,
        accept: Accept,
        include: Include,
        started: Started,
        bookmarks: bool,
        timeout: Duration,
    ) -> Self {
        let Started {
            initial,
            bookmark,
            watcher,
        } = started;
        Stream {
            row,
            version: call.target.version.to_owned(),
            form: accept.form,
            include,
            shared: call.is_internal(),
            initial: initial.into(),
            end_of_initial: bookmark,
            watcher: Some(watcher),
            out: VecDeque::new(),
            columns_said: false,
            deadline: Box::pin(tokio::time::sleep(timeout)),
            sent: None,
            rest: None,
            bookmarks: bookmarks.then(|| Box::pin(tokio::time::sleep(until_bookmark()))),
            told: Revision::default(),
        }
    }

    /// The stream of a watch that could not begin: one ERROR event.
    fn refused(
        row: Arc<Row>,
        call: &Call<'_>,
        accept: Accept,
        include: Include,
        status: &Status,
        timeout: Duration,
    ) -> Self {
        Stream {
            row,
            version: call.target.version.to_owned(),
            form: accept.form,
            include,
            shared: call.is_internal(),
            initial: VecDeque::new(),
            end_of_initial: None,
            watcher: None,
            out: VecDeque::from([error_event(status)]),
            columns_said: false,
            deadline: Box::pin(tokio::time::sleep(timeout)),
            sent: None,
            rest: None,
            bookmarks: None,
            told: Revision::default(),
        }
    }

    fn rendering(&self) -> Rendering<'_> {
        Rendering::new(&self.row, &self.version, self.form, self.include)
    }

    /// Appends one event: to the queue as shared pieces, or to `buffer`.
    fn event(&mut self, kind: &'static str, item: &Arc<Item>, revision: Revision, buffer: &mut Vec<u8>) {
        self.told = self.told.max(revision);
        if self.shared && !matches!(self.form, Form::Table(_)) {
            let pieces = self.rendering().chunks(item, revision);
            self.out.push_back(Bytes::from_static(opening(kind)));
            self.out.extend(pieces);
            self.out.push_back(Bytes::from_static(b"}\n"));
            return;
        }
        buffer.extend_from_slice(opening(kind));
        let columns = !std::mem::replace(&mut self.columns_said, true);
        match self.rendering() {
            Rendering::Table(table) => {
                table.head(revision, &json!({}), columns, buffer);
                Rendering::Table(table).write(item, revision, buffer);
                buffer.extend_from_slice(Writer::TAIL);
            }
            rendering => rendering.write(item, revision, buffer),
        }
        buffer.extend_from_slice(b"}\n");
    }

    /// A bookmark says up to where the client has seen everything.
    fn bookmark(&mut self, revision: Revision, end_of_initial: bool) {
        self.told = revision;
        let mut buffer = opening("BOOKMARK").to_vec();
        if let Rendering::Table(table) = self.rendering() {
            let mut metadata = json!({});
            if end_of_initial {
                metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
            }
            table.head(revision, &metadata, false, &mut buffer);
            buffer.extend_from_slice(Writer::TAIL);
        } else {
            let (kind, api_version) = match self.form {
                Form::Metadata(api_version) => ("PartialObjectMetadata", api_version.to_owned()),
                Form::Object | Form::Table(_) => (&*self.row.kind, self.row.api_version(&self.version)),
            };
            let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": Value::Null});
            if end_of_initial {
                metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
            }
            let object = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
            serde_json::to_writer(&mut buffer, &object).expect("a tree serializes into memory");
        }
        buffer.extend_from_slice(b"}\n");
        self.out.push_back(buffer.into());
    }

    /// The next part of the initial state.
    fn send_initial(&mut self) {
        let mut buffer = Vec::new();
        while let Some(item) = self.initial.pop_front() {
            self.event("ADDED", &item, item.revision, &mut buffer);
            if buffer.len() >= FRAME || self.out.len() >= 512 {
                break;
            }
        }
        if !buffer.is_empty() {
            self.out.push_back(buffer.into());
        }
        if self.initial.is_empty()
            && let Some(revision) = self.end_of_initial.take()
        {
            self.bookmark(revision, true);
        }
    }

    fn send(&mut self, events: Vec<Event>) {
        let mut buffer = Vec::new();
        for event in events {
            match event {
                Event::Added(item) => self.event("ADDED", &item, item.revision, &mut buffer),
                Event::Modified(item) => self.event("MODIFIED", &item, item.revision, &mut buffer),
                Event::Deleted { item, at } => self.event("DELETED", &item, at, &mut buffer),
            }
        }
        if !buffer.is_empty() {
            self.out.push_back(buffer.into());
            self.pace();
        }
    }

    /// Called with each network frame of events: one that follows another closely is a burst's.
    fn pace(&mut self) {
        let now = Instant::now();
        let before = self.sent.replace(now);
        if before.is_some_and(|before| now - before < 2 * PACE) {
            match &mut self.rest {
                Some(rest) => rest.as_mut().reset(now + PACE),
                None => self.rest = Some(Box::pin(tokio::time::sleep_until(now + PACE))),
            }
        }
    }
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        loop {
            if let Some(chunk) = this.out.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            if !this.initial.is_empty() || this.end_of_initial.is_some() {
                this.send_initial();
                continue;
            }
            let Some(watcher) = &mut this.watcher else {
                return Poll::Ready(None);
            };
            if this.deadline.as_mut().poll(cx).is_ready() {
                this.watcher = None;
                continue;
            }
            if let Some(rest) = &mut this.rest
                && rest.as_mut().poll(cx).is_pending()
            {
                return Poll::Pending;
            }
            match watcher.poll_next(cx) {
                Poll::Ready(Ok(events)) => {
                    this.send(events);
                    continue;
                }
                Poll::Ready(Err(error)) => {
                    this.watcher = None;
                    this.out.push_back(error_event(&from_cache(error)));
                    continue;
                }
                Poll::Pending => {}
            }
            // Nothing came while it rested: the burst is over.
            this.rest = None;
            let Some(timer) = &mut this.bookmarks else {
                return Poll::Pending;
            };
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            timer.as_mut().reset(Instant::now() + until_bookmark());
            let progress = watcher.progress();
            if progress > this.told {
                this.bookmark(progress, false);
            }
        }
    }
}

fn until_bookmark() -> Duration {
    BOOKMARK_EVERY.mul_f64(1.0 + rand::rng().random::<f64>() / 10.0)
}

fn opening(kind: &'static str) -> &'static [u8] {
    match kind {
        "ADDED" => b"{\"type\":\"ADDED\",\"object\":",
        "MODIFIED" => b"{\"type\":\"MODIFIED\",\"object\":",
        "DELETED" => b"{\"type\":\"DELETED\",\"object\":",
        _ => b"{\"type\":\"BOOKMARK\",\"object\":",
    }
}

fn error_event(status: &Status) -> Bytes {
    let event = json!({"type": "ERROR", "object": respond::status_object(status)});
    let mut bytes = serde_json::to_vec(&event).expect("a tree serializes");
    bytes.push(b'\n');
    bytes.into()
}
