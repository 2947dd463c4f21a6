//! `/metrics`: what the server counts of its own requests, in the names that upstream's dashboards know.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};

use super::info::Info;

/// Upper bounds of apiserver_request_duration_seconds, a part of upstream's.
const BOUNDS: [f64; 12] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 10.0, 60.0];
/// Unknown resources would make as many series as a client has ideas.
const SERIES: usize = 4096;

/// What a request is counted under.
#[derive(Debug, Default, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Label {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
}

impl Label {
    pub(super) fn of(&mut self, info: &Info<'_>, method: &Method) {
        match info {
            Info::Path(_) => {
                self.verb = match *method {
                    Method::GET | Method::HEAD => "GET",
                    Method::POST => "POST",
                    Method::PUT => "PUT",
                    Method::PATCH => "PATCH",
                    Method::DELETE => "DELETE",
                    _ => "OTHER",
                }
            }
            Info::Resource(target) => {
                self.verb = match target.verb.as_str() {
                    "create" => "POST",
                    "update" => "PUT",
                    "patch" => "PATCH",
                    "delete" => "DELETE",
                    "deletecollection" => "DELETECOLLECTION",
                    "list" => "LIST",
                    "watch" => "WATCH",
                    _ => "GET",
                };
                self.group.push_str(target.group);
                self.version.push_str(target.version);
                self.resource.push_str(target.resource);
                self.subresource.push_str(target.subresource);
                self.scope = match (target.named, target.namespace.is_empty()) {
                    (true, _) => "resource",
                    (false, false) => "namespace",
                    (false, true) => "cluster",
                };
            }
        }
    }
}

#[derive(Debug, Default, Clone)]
struct Series {
    codes: BTreeMap<u16, u64>,
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

#[derive(Debug, Default)]
pub(super) struct Metrics {
    series: Mutex<BTreeMap<Label, Series>>,
    dropped: AtomicU64,
}

impl Metrics {
    pub(super) fn count(&self, label: &Label, code: StatusCode, took: Duration) {
        let mut all = self.series.lock().expect("nothing panics while holding the metrics");
        // A path that nobody serves is the client's word, not ours.
        if all.len() >= SERIES && !all.contains_key(label) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let series = match all.get_mut(label) {
            Some(series) => series,
            None => all.entry(label.clone()).or_default(),
        };
        *series.codes.entry(code.as_u16()).or_default() += 1;
        series.count += 1;
        let seconds = took.as_secs_f64();
        series.sum += seconds;
        if let Some(bucket) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            series.buckets[bucket] += 1;
        }
    }

    pub(super) fn text(&self) -> String {
        let all = self
            .series
            .lock()
            .expect("nothing panics while holding the metrics")
            .clone();
        let mut out = String::new();
        let fail = "a string takes every byte";
        out.push_str("# HELP apiserver_request_total Counter of apiserver requests broken out for each verb, group, version, resource, scope and HTTP response code.\n# TYPE apiserver_request_total counter\n");
        for (label, series) in &all {
            for (code, count) in &series.codes {
                writeln!(
                    out,
                    "apiserver_request_total{{code=\"{code}\",{}}} {count}",
                    words(label)
                )
                .expect(fail);
            }
        }
        out.push_str("# HELP apiserver_request_duration_seconds Response latency distribution in seconds for each verb, group, version, resource, subresource and scope.\n# TYPE apiserver_request_duration_seconds histogram\n");
        let name = "apiserver_request_duration_seconds";
        for (label, series) in &all {
            let words = words(label);
            let mut total = 0;
            for (bound, count) in BOUNDS.iter().zip(series.buckets) {
                total += count;
                writeln!(out, "{name}_bucket{{{words},le=\"{bound}\"}} {total}").expect(fail);
            }
            writeln!(out, "{name}_bucket{{{words},le=\"+Inf\"}} {}", series.count).expect(fail);
            writeln!(out, "{name}_sum{{{words}}} {}", series.sum).expect(fail);
            writeln!(out, "{name}_count{{{words}}} {}", series.count).expect(fail);
        }
        out
    }
}

fn words(label: &Label) -> String {
    format!(
        "group=\"{}\",resource=\"{}\",scope=\"{}\",subresource=\"{}\",verb=\"{}\",version=\"{}\"",
        plain(&label.group),
        plain(&label.resource),
        label.scope,
        plain(&label.subresource),
        label.verb,
        plain(&label.version)
    )
}

fn plain(text: &str) -> String {
    text.chars()
        .filter(|c| !matches!(c, '"' | '\\') && !c.is_control())
        .collect()
}
