//! Get, list and watch from the cache, by the rules of resourceVersion.
//! Nothing is decoded here: what goes out are items, and their bytes are shared.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::Row;
use crate::cache::{self, Filter, Item, Snapshot, Watcher};
use crate::status::{Cause, Details, Status};
use crate::store::Revision;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    Exact,
    NotOlderThan,
}

/// Which state a read may be answered from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Everything that was written before the request.
    Fresh,
    /// Whatever is at hand.
    Any,
    NotOlderThan(Revision),
    Exact(Revision),
}

impl At {
    /// From a resourceVersion as a client sent it.
    pub fn parse(text: &str) -> Result<Self, Status> {
        match text {
            "" => Ok(At::Fresh),
            "0" => Ok(At::Any),
            text => match text.parse() {
                Ok(revision) => Ok(At::NotOlderThan(Revision(revision))),
                Err(_) => Err(Status::bad_request(format!(
                    "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
                ))),
            },
        }
    }
}

/// What a list is asked for.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pub filter: Filter,
    pub resource_version: String,
    pub matching: Option<Match>,
    /// 0 is all.
    pub limit: usize,
    pub continue_token: String,
}

/// A list, or a page of one.
#[derive(Debug)]
pub struct List {
    pub items: Vec<Arc<Item>>,
    pub revision: Revision,
    pub continue_token: Option<String>,
    pub remaining: Option<usize>,
}

/// What a watch is asked for.
#[derive(Debug, Clone)]
pub struct Follow {
    pub filter: Filter,
    pub resource_version: String,
    pub send_initial_events: Option<bool>,
}

/// A watch that has begun.
#[derive(Debug)]
pub struct Started {
    /// Sent as ADDED first.
    pub initial: Vec<Arc<Item>>,
    /// The state that `initial` is of, where the client wants to be told when it has all of it.
    pub bookmark: Option<Revision>,
    pub watcher: Watcher,
}

/// A page's end, as the client carries it to the next. Upstream's form.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    #[serde(default)]
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";
/// In a token: go on with the newest state.
const INCONSISTENT: i64 = -1;

impl Row {
    pub(super) async fn wait(&self, at: At) -> Result<(), Status> {
        let cache = self.cache()?;
        match at {
            At::Fresh => cache.fresh().await.map(drop),
            At::Any => Ok(()),
            At::NotOlderThan(revision) | At::Exact(revision) => cache.at_least(revision).await,
        }
        .map_err(from_cache)
    }

    pub async fn get(&self, namespace: &str, name: &str, at: At) -> Result<Arc<Item>, Status> {
        self.wait(at).await?;
        self.cache()?
            .get(namespace, name)
            .ok_or_else(|| Status::not_found(self.about(), name))
    }

    pub async fn list(&self, query: &Query) -> Result<List, Status> {
        let cache = self.cache()?;
        let (snapshot, after, limit) = if query.continue_token.is_empty() {
            let (snapshot, limit) = self.state(query).await?;
            (snapshot, None, limit)
        } else {
            let (snapshot, after) = self.resume(query).await?;
            (snapshot, Some(after), query.limit)
        };
        let page = cache.page(&snapshot, &query.filter, after.as_deref(), limit);
        let revision = snapshot.revision();
        let continue_token = page.next.map(|next| token(revision.0 as i64, next));
        Ok(List {
            items: page.items,
            revision,
            continue_token,
            remaining: page.remaining,
        })
    }

    /// The state that a list without a token is answered from, and the limit that holds.
    async fn state(&self, query: &Query) -> Result<(Snapshot, usize), Status> {
        let cache = self.cache()?;
        let at = match (At::parse(&query.resource_version)?, query.matching) {
            (At::NotOlderThan(revision), Some(Match::Exact)) => At::Exact(revision),
            // A page of a named revision has always meant exactly that one.
            (At::NotOlderThan(revision), None) if query.limit > 0 => At::Exact(revision),
            (at, _) => at,
        };
        self.wait(at).await?;
        let snapshot = match at {
            At::Exact(revision) => cache.at(revision).map_err(from_cache)?,
            _ => cache.indexed(&query.filter),
        };
        // Who takes any state gets all of it at once, as from upstream's watch cache.
        let limit = if at == At::Any { 0 } else { query.limit };
        Ok((snapshot, limit))
    }

    async fn resume(&self, query: &Query) -> Result<(Snapshot, String), Status> {
        let cache = self.cache()?;
        if !matches!(query.resource_version.as_str(), "" | "0") {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let bad = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD
            .decode(query.continue_token.trim_end_matches('='))
            .map_err(|_| bad("illegal base64 data"))?;
        let token_in: Token = serde_json::from_slice(&bytes).map_err(|_| bad("it is no token of this server"))?;
        if token_in.v != TOKEN_VERSION {
            return Err(bad(&format!(
                "server does not recognize this encoded version {:?}",
                token_in.v
            )));
        }
        let after = token_in.start.trim_end_matches('\0').to_owned();
        if after.is_empty() {
            return Err(bad("encoded start key empty (version meta.k8s.io/v1)"));
        }
        match token_in.rv {
            INCONSISTENT => {
                self.wait(At::Fresh).await?;
                Ok((cache.snapshot(), after))
            }
            rv if rv > 0 => match cache.at(Revision(rv as u64)) {
                Ok(snapshot) => Ok((snapshot, after)),
                Err(cache::Error::Expired { .. }) => Err(self.expired_token(after)),
                Err(error) => Err(from_cache(error)),
            },
            _ => Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)")),
        }
    }

    /// 410 with a token that goes on with the newest state, for clients that can live with it.
    fn expired_token(&self, after: String) -> Status {
        let mut status = Status::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
        );
        status.continue_token = Some(token(INCONSISTENT, after).into());
        status
    }

    pub async fn watch(&self, follow: Follow) -> Result<Result<Started, Status>, Status> {
        let cache = self.cache()?;
        let at = At::parse(&follow.resource_version)?;
        let from_now = |revision: Revision| {
            // Errors from here on are the stream's: the client has been told 200, as upstream has it.
            Ok(cache
                .watch(follow.filter.clone(), revision)
                .map(|watcher| Started {
                    initial: Vec::new(),
                    bookmark: None,
                    watcher,
                })
                .map_err(from_cache))
        };
        match (follow.send_initial_events, at) {
            (Some(true), _) | (None, At::Fresh | At::Any) => {}
            (Some(false), At::Fresh | At::Any) => {
                self.wait(at).await?;
                return from_now(cache.revision());
            }
            (None | Some(false), At::NotOlderThan(revision) | At::Exact(revision)) => return from_now(revision),
        }
        self.wait(at).await?;
        let (initial, revision, watcher) = cache.list_and_watch(follow.filter);
        Ok(Ok(Started {
            initial,
            bookmark: (follow.send_initial_events == Some(true)).then_some(revision),
            watcher,
        }))
    }

    /// 400 for a field that no selector of this resource may name.
    pub fn check_fields(&self, fields: &api::selector::Fields) -> Result<(), Status> {
        for term in &fields.terms {
            let known = term.field == "metadata.name"
                || (term.field == "metadata.namespace" && self.namespaced())
                || self.fields.iter().any(|field| *field.name == *term.field);
            if !known {
                return Err(Status::bad_request(if self.fields.is_empty() {
                    format!(
                        "{:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                        term.field
                    )
                } else {
                    format!("field label not supported: {}", term.field)
                }));
            }
        }
        Ok(())
    }
}

fn token(rv: i64, after: String) -> String {
    let token = Token {
        v: TOKEN_VERSION.into(),
        rv,
        start: after + "\0",
    };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("a token is strings and a number"))
}

/// What the cache could not answer, in the client's words.
pub fn from_cache(error: cache::Error) -> Status {
    match error {
        cache::Error::Expired { .. } => Status::expired(error.to_string()),
        cache::Error::TooLarge { .. } => {
            let mut status = Status::timeout(format!("Timeout: {error}"), 1);
            status.details = Some(Box::new(Details {
                causes: vec![Cause {
                    reason: "ResourceVersionTooLarge",
                    message: "Too large resource version".into(),
                    field: String::new(),
                }],
                retry_after_seconds: Some(1),
                ..Details::default()
            }));
            status
        }
        cache::Error::Closed => Status::no_such_resource(),
        cache::Error::Unavailable(source) => {
            tracing::error!(error = %source, "the store did not answer");
            Status::unavailable("the store did not answer")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_versions_parse_or_are_refused() {
        assert_eq!(At::parse("").unwrap(), At::Fresh);
        assert_eq!(At::parse("0").unwrap(), At::Any);
        assert_eq!(At::parse("7").unwrap(), At::NotOlderThan(Revision(7)));
        assert_eq!(At::parse("x").unwrap_err().code, 400);
        assert_eq!(At::parse("-1").unwrap_err().code, 400);
    }
}
