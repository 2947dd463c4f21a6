//! The watch protocol: from nothing to a complete list, then from revision to revision, through whatever happens to the
//! connection and the server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use kube::client::Body as ClientBody;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::entry::Body;
use super::facts::bookmark;
use super::frames::{Event, Frames, Malformed, What};
use super::store::Sink;
use crate::backoff::Backoff;

/// Objects per page where the server has no watch-list.
const PAGE: u32 = 500;
/// A watch that ends sooner than this and has said nothing is taken as a failure, lest it be asked for in a loop.
const SHORT: Duration = Duration::from_secs(1);

/// Where a feed stands; each step takes the state and says the next.
enum State {
    /// Nothing is known, or too little to go on from: a whole list has to come, through a watch that begins with one.
    List,
    /// The same for a server that refuses such a watch: pages, then a watch.
    Pages,
    /// Everything up to this revision has been applied.
    After(u64),
}

/// All may be tried again; `Gone` from a new list.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("no answer")]
    Unreachable(#[source] Box<kube::Error>),
    #[error("refused with {code}: {message}")]
    Refused { code: u16, message: String },
    #[error("the history after the last revision is gone")]
    Gone,
    #[error("the connection broke")]
    Broken(#[source] Box<kube::Error>),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("an object has no readable metadata")]
    Object(#[from] serde_json::Error),
    #[error("the answer ended at once")]
    Short,
}

/// Keeps `sink` in step with the server. Ends only by being dropped, which is safe at any point.
pub(super) async fn feed(client: kube::Client, sink: Arc<dyn Sink>) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    let mut feed = Feed {
        client,
        sink,
        // Another run of the same informers may have left a list behind: it is repeated, and the difference told.
        state: State::List,
        plain: false,
    };
    loop {
        let began = Instant::now();
        let outcome = feed.step().await;
        if began.elapsed() > Duration::from_secs(30) {
            backoff.reset();
        }
        match outcome {
            Ok(()) => backoff.reset(),
            Err(error) => {
                let pause = backoff.pause();
                let text = crate::chain(&error);
                let resource = feed.sink.resource();
                match error {
                    // A server that restarts, and connections that end, are a part of life.
                    Error::Gone | Error::Broken(_) | Error::Short => {
                        debug!(%resource, error = %text, ?pause, "watch ended");
                    }
                    _ => warn!(%resource, error = %text, ?pause, "watch failed"),
                }
                tokio::time::sleep(pause).await;
            }
        }
    }
}

struct Feed {
    client: kube::Client,
    sink: Arc<dyn Sink>,
    state: State,
    /// The server has refused a watch with initial events.
    plain: bool,
}

impl Feed {
    async fn step(&mut self) -> Result<(), Error> {
        let outcome = match self.state {
            State::List => {
                let outcome = self.watch(None).await;
                if let Err(Error::Refused { code: 400 | 422, .. }) = outcome
                    && matches!(self.state, State::List)
                {
                    self.plain = true;
                    self.state = State::Pages;
                    return Ok(());
                }
                outcome
            }
            State::Pages => self.pages().await,
            State::After(revision) => self.watch(Some(revision)).await,
        };
        if let Err(Error::Gone) = outcome {
            self.state = if self.plain { State::Pages } else { State::List };
        }
        outcome
    }

    /// One watch, until it ends. Without a revision it begins with a whole list.
    async fn watch(&mut self, after: Option<u64>) -> Result<(), Error> {
        let timeout = Duration::from_secs(rand::random_range(300..600));
        let mut query = format!("watch=1&allowWatchBookmarks=true&timeoutSeconds={}", timeout.as_secs());
        match after {
            None => query.push_str("&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"),
            Some(revision) => query.push_str(&format!("&resourceVersion={revision}")),
        }
        let began = Instant::now();
        let mut body = self.get(query).await?;
        if after.is_none() {
            self.sink.begin();
        }
        // The server ends the watch in time; one that does not has lost its connection without a word.
        let deadline = began + timeout + Duration::from_secs(30);
        let mut frames = Frames::default();
        let mut spoken = false;
        loop {
            let frame = match tokio::time::timeout_at(deadline, body.frame()).await {
                Err(_) | Ok(None) => break,
                Ok(Some(frame)) => frame.map_err(|error| Error::Broken(Box::new(error)))?,
            };
            let Ok(data) = frame.into_data() else { continue };
            let mut outcome = Ok(());
            frames.push(data, |event| {
                spoken = true;
                if outcome.is_ok() {
                    outcome = self.event(event);
                }
            })?;
            outcome?;
        }
        if !spoken && began.elapsed() < SHORT {
            return Err(Error::Short);
        }
        Ok(())
    }

    fn event(&mut self, Event { what, body }: Event) -> Result<(), Error> {
        let revision = match what {
            What::Added | What::Modified => self.sink.apply(body)?,
            What::Deleted => self.sink.delete(body)?,
            What::Bookmark => {
                let bookmark = bookmark(&joined(&body))?;
                if bookmark.initial_end && !matches!(self.state, State::After(_)) {
                    self.sink.complete(bookmark.revision);
                    self.state = State::After(bookmark.revision);
                } else if matches!(self.state, State::After(_)) {
                    self.sink.reached(bookmark.revision);
                }
                bookmark.revision
            }
            What::Error => return Err(refusal(&joined(&body), None)),
        };
        // During the initial events revisions come in any order and say nothing about what has been seen.
        if let State::After(last) = &mut self.state {
            *last = (*last).max(revision);
        }
        Ok(())
    }

    async fn pages(&mut self) -> Result<(), Error> {
        #[derive(Deserialize)]
        struct Page<'a> {
            metadata: PageMeta,
            #[serde(borrow)]
            items: Option<Vec<&'a RawValue>>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct PageMeta {
            resource_version: String,
            #[serde(rename = "continue", default)]
            next: Option<String>,
        }
        self.sink.begin();
        let mut next = String::new();
        loop {
            let mut query = format!("limit={PAGE}");
            if !next.is_empty() {
                query.push_str(&format!("&continue={}", encode(&next)));
            }
            let body = self.get(query).await?;
            let bytes = body
                .collect()
                .await
                .map_err(|error| Error::Broken(Box::new(error)))?
                .to_bytes();
            let page: Page<'_> = serde_json::from_slice(&bytes)?;
            for item in page.items.unwrap_or_default() {
                self.sink
                    .apply(Body::whole(Bytes::copy_from_slice(item.get().as_bytes())))?;
            }
            next = page.metadata.next.unwrap_or_default();
            if next.is_empty() {
                let revision = page.metadata.resource_version.parse().map_err(|_| {
                    let text = "the list's resourceVersion is not a number";
                    Error::Object(serde::de::Error::custom(text))
                })?;
                self.sink.complete(revision);
                self.state = State::After(revision);
                return Ok(());
            }
        }
    }

    async fn get(&self, mut query: String) -> Result<ClientBody, Error> {
        let options = self.sink.options();
        for (name, value) in [("labelSelector", &options.labels), ("fieldSelector", &options.fields)] {
            if !value.is_empty() {
                query.push_str(&format!("&{name}={}", encode(value)));
            }
        }
        let path = self.sink.resource().path(options.namespace.as_deref());
        let request = Request::get(format!("{path}?{query}"))
            .header(header::ACCEPT, "application/json")
            .header(header::ACCEPT_ENCODING, "identity")
            .body(ClientBody::empty())
            .expect("paths and encoded queries make a URI");
        let answer = self
            .client
            .send(request)
            .await
            .map_err(|error| Error::Unreachable(Box::new(error)))?;
        if answer.status() == StatusCode::OK {
            return Ok(answer.into_body());
        }
        let status = answer.status();
        let body = answer.into_body().collect().await;
        let body = body.map_err(|error| Error::Broken(Box::new(error)))?.to_bytes();
        Err(refusal(&body, Some(status)))
    }
}

fn joined(body: &Body) -> Vec<u8> {
    let mut whole = Vec::new();
    body.write(0, &mut whole);
    whole
}

/// A Status, or what stands in its place.
fn refusal(body: &[u8], status: Option<StatusCode>) -> Error {
    #[derive(Deserialize, Default)]
    struct Status {
        #[serde(default)]
        code: u16,
        #[serde(default)]
        message: String,
    }
    // Something between us and the server may have answered without a Status.
    let read: Status = serde_json::from_slice(body).unwrap_or_default();
    let code = status.map_or(read.code, |status| status.as_u16());
    match code {
        410 => Error::Gone,
        code => Error::Refused {
            code,
            message: read.message,
        },
    }
}

/// Percent-encodes a query value.
fn encode(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(byte.into()),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}
