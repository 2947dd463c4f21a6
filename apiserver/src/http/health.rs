//! `/healthz`, `/livez`, `/readyz`: one check by one, as upstream prints them.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use futures::FutureExt as _;
use http::{Response, StatusCode};
use tokio_util::sync::CancellationToken;

use super::{Api, options, respond};

/// What must hold for the server to be ready beside what it checks itself. The word is the check's name.
#[derive(Debug, Clone, Default)]
pub struct Checks {
    hooks: Arc<Mutex<Vec<(&'static str, bool)>>>,
    stopping: CancellationToken,
}

impl Checks {
    /// A step of the start that has to be done before the server is ready.
    pub fn expect(&self, name: &'static str) {
        self.set(name, false);
    }
    pub fn done(&self, name: &'static str) {
        self.set(name, true);
    }
    fn set(&self, name: &'static str, holds: bool) {
        let mut hooks = self.hooks.lock().expect("nothing panics while holding the checks");
        match hooks.iter_mut().find(|(have, _)| *have == name) {
            Some(hook) => hook.1 = holds,
            None => hooks.push((name, holds)),
        }
    }
    /// From now on the server is not ready any more: it is going away.
    pub fn stop(&self) {
        self.stopping.cancel();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Healthz,
    Livez,
    Readyz,
}

/// `None`: another path.
pub(super) async fn answer(api: &Api, path: &str, query: &str) -> Option<Response<Body>> {
    let (head, name) = match path[1..].split_once('/') {
        Some((head, name)) => (head, Some(name)),
        None => (&path[1..], None),
    };
    let endpoint = match head {
        "healthz" => Endpoint::Healthz,
        "livez" => Endpoint::Livez,
        "readyz" => Endpoint::Readyz,
        _ => return None,
    };
    let excluded: Vec<_> = options::pairs(query)
        .filter(|(k, _)| k == "exclude")
        .map(|(_, v)| v)
        .collect();
    let verbose = options::pairs(query).any(|(key, _)| key == "verbose");
    let checks = checks(api, endpoint).await;
    if let Some(name) = name {
        let (_, holds) = checks.iter().find(|(have, _)| *have == name)?;
        return Some(match holds {
            true => respond::bytes(StatusCode::OK, "text/plain; charset=utf-8", "ok"),
            false => respond::bytes(
                StatusCode::INTERNAL_SERVER_ERROR,
                "text/plain; charset=utf-8",
                "internal server error: check failed\n",
            ),
        });
    }
    let mut text = String::new();
    let mut failed = false;
    for (name, holds) in &checks {
        let line = match (excluded.iter().any(|e| e == name), holds) {
            (true, _) => writeln!(text, "[+]{name} excluded: ok"),
            (false, true) => writeln!(text, "[+]{name} ok"),
            (false, false) => {
                failed = true;
                writeln!(text, "[-]{name} failed: reason withheld")
            }
        };
        line.expect("a string takes every byte");
    }
    let plain = "text/plain; charset=utf-8";
    Some(match (failed, verbose) {
        (true, _) => {
            text.push_str(&format!("{head} check failed\n"));
            respond::bytes(StatusCode::INTERNAL_SERVER_ERROR, plain, text)
        }
        (false, true) => {
            text.push_str(&format!("{head} check passed\n"));
            respond::bytes(StatusCode::OK, plain, text)
        }
        (false, false) => respond::bytes(StatusCode::OK, plain, "ok"),
    })
}

async fn checks(api: &Api, endpoint: Endpoint) -> Vec<(&'static str, bool)> {
    let mut list = vec![("ping", true), ("log", true)];
    if endpoint != Endpoint::Livez {
        list.push(("etcd", api.registry.store().revision().await.is_ok()));
    }
    if endpoint == Endpoint::Readyz {
        list.push(("etcd-readiness", list.last().is_some_and(|(_, holds)| *holds)));
        list.push(("informer-sync", api.registry.caches().loaded().now_or_never().is_some()));
    }
    if endpoint != Endpoint::Livez {
        let hooks = api
            .checks
            .hooks
            .lock()
            .expect("nothing panics while holding the checks");
        list.extend(hooks.iter().copied());
    }
    if endpoint == Endpoint::Readyz {
        list.push(("shutdown", !api.checks.stopping.is_cancelled()));
    }
    list
}
