//! metrics.k8s.io: what nodes and pods use, by asking the kubelets of those that the request is about.
//! Comes in: get and list of NodeMetrics and PodMetrics. Goes out: rates between two readings of each kubelet's
//! `/metrics/resource`, as sigs.k8s.io/metrics-server makes them. The only file beside `review` that names kinds.
//! Holds: no kubelet is asked unless somebody asks here; readings are kept for the next who does.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::quantity::{Format, Quantity};
use axum::body::Body;
use futures::StreamExt;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::negotiate::{self, Accept, Form, Offer};
use super::render::partial;
use super::table::{Include, Writer};
use super::{Call, connect, info::Verb, list, options, respond};
use crate::cache::{Filter, Item};
use crate::object::Object;
use crate::registry::Row;
use crate::registry::read::{At, Query};
use crate::registry::rows::nano;
use crate::status::{About, Status};
use crate::store::Revision;

/// Readings nearer than this make a rate of noise.
const LEAST: Duration = Duration::from_secs(1);
/// What is this young is answered again without asking.
const FRESH: Duration = Duration::from_secs(2);
/// The older of the two readings is given up for a newer one once that is so old.
const STEP: Duration = Duration::from_secs(10);
/// An older reading is no ground for what is called a current rate.
const MOST: Duration = Duration::from_secs(120);
/// A kubelet that does not answer costs the others' answer no longer than this.
const PATIENCE: Duration = Duration::from_secs(10);
/// Kubelets asked at the same time.
const AT_ONCE: usize = 16;
/// A kubelet of a thousand containers says less.
const ANSWER_LIMIT: usize = 8 << 20;

/// The last two readings of each node that anybody asked about.
#[derive(Debug, Default)]
pub(super) struct Readings {
    nodes: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Kept>>>>,
}

#[derive(Debug, Default)]
struct Kept {
    older: Option<(Instant, Arc<Reading>)>,
    newer: Option<(Instant, Arc<Reading>)>,
}

/// What a kubelet said.
#[derive(Debug, Default, PartialEq)]
struct Reading {
    node: Point,
    /// By namespace and pod, and then by container.
    pods: HashMap<(String, String), BTreeMap<String, Point>>,
}

/// A sum of CPU and a state of memory at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Point {
    /// Milliseconds since the epoch; 0 where the kubelet said nothing.
    at: i64,
    /// Core-seconds.
    cpu: Option<f64>,
    /// Bytes.
    memory: Option<f64>,
    /// Seconds since the epoch.
    started: Option<f64>,
}

/// What was used between two points.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Used {
    /// Milliseconds since the epoch, and from when.
    at: i64,
    window: i64,
    nanocores: i64,
    bytes: i64,
}

type Pair = (Arc<Reading>, Arc<Reading>);

pub(super) async fn answer(call: &Call<'_>, row: &Row) -> Result<Response<Body>, Status> {
    let listed = call.target.verb == Verb::List;
    let accept = negotiate::accept(&call.head.headers, Offer::Forms { list: listed })?;
    let include = Include::parse(call.query)?;
    let pods = row.namespaced();
    let source = call.api.registry.table().find("", &row.plural);
    let source = source.ok_or_else(Status::no_such_resource)?;
    if !listed {
        let (namespace, name) = (call.target.namespace, &*call.target.name);
        let about = About {
            group: &row.group,
            resource: if pods { "podmetrics" } else { "nodemetrics" },
        };
        let named = if pods {
            format!("{namespace}/{name}")
        } else {
            name.to_owned()
        };
        let missing = || Status::not_found(about, &named);
        let found = source.get(namespace, name, At::Fresh).await;
        let item = found.map_err(|status| if status.code == 404 { missing() } else { status })?;
        let mut objects = if pods {
            of_pods(call, &[item]).await
        } else {
            of_nodes(call, &[item]).await
        };
        let object = objects.pop().ok_or_else(missing)?;
        return Ok(one(call, row, accept, include, object));
    }
    let options = options::List::parse(call.query, false)?;
    let query = Query {
        filter: Filter {
            ..list::filter(&source, call, &options)?
        },
        ..Query::default()
    };
    let items = source.list(&query).await?.items;
    let objects = if pods {
        of_pods(call, &items).await
    } else {
        of_nodes(call, &items).await
    };
    Ok(many(call, row, accept, include, objects))
}

async fn of_nodes(call: &Call<'_>, items: &[Arc<Item>]) -> Vec<Object> {
    let names: Vec<String> = items.iter().map(|item| item.object().name().to_owned()).collect();
    let pairs = pairs(call, names).await;
    let shown = items.iter().filter_map(|item| {
        let node = item.object();
        let (before, now) = pairs.get(node.name())?;
        let used = used(Some(&before.node), &now.node)?;
        let mut object = head(&node, call.now);
        object.0.insert("timestamp".into(), stamp(used.at).into());
        object.0.insert("window".into(), duration(used.window).into());
        object.0.insert("usage".into(), usage(&used));
        Some(object)
    });
    shown.collect()
}

async fn of_pods(call: &Call<'_>, items: &[Arc<Item>]) -> Vec<Object> {
    let placed: Vec<(String, Object)> = items
        .iter()
        .map(|item| item.object())
        .filter(|pod| !pod.str_at(&["spec", "nodeName"]).is_empty())
        .map(|pod| (pod.str_at(&["spec", "nodeName"]).to_owned(), pod))
        .collect();
    let mut names: Vec<String> = placed.iter().map(|(node, _)| node.clone()).collect();
    names.sort_unstable();
    names.dedup();
    let pairs = pairs(call, names).await;
    let shown = placed.iter().filter_map(|(node, pod)| {
        let (before, now) = pairs.get(node)?;
        pod_metrics(pod, before, now, call.now)
    });
    shown.collect()
}

/// `None` until each of its containers can be told: a part would be taken for the whole.
fn pod_metrics(pod: &Object, before: &Reading, now: &Reading, time: Timestamp) -> Option<Object> {
    let key = (pod.namespace().to_owned(), pod.name().to_owned());
    let (was, is) = (before.pods.get(&key), now.pods.get(&key)?);
    let mut containers = Vec::new();
    let (mut at, mut window) = (i64::MAX, 0);
    for (name, point) in is {
        let used = used(was.and_then(|w| w.get(name)), point)?;
        if used.at < at {
            (at, window) = (used.at, used.window);
        }
        containers.push(json!({"name": name, "usage": usage(&used)}));
    }
    if containers.is_empty() {
        return None;
    }
    let mut object = head(pod, time);
    object.0.insert("timestamp".into(), stamp(at).into());
    object.0.insert("window".into(), duration(window).into());
    object.0.insert("containers".into(), containers.into());
    Some(object)
}

/// Metadata as metrics-server gives them: who it is, and the labels that it is selected by.
fn head(of: &Object, now: Timestamp) -> Object {
    let mut metadata = Map::new();
    for field in ["name", "namespace", "labels"] {
        if let Some(value) = of.at(&["metadata", field]) {
            metadata.insert(field.into(), value.clone());
        }
    }
    metadata.insert("creationTimestamp".into(), stamp(now.as_millisecond()).into());
    Object(Map::from_iter([("metadata".to_owned(), Value::Object(metadata))]))
}

/// A container that began between the readings, or began anew, has used since then what it has used at all.
fn used(before: Option<&Point>, now: &Point) -> Option<Used> {
    let (cpu, memory) = (now.cpu?, now.memory?);
    let began = now.started.map(|seconds| (seconds * 1000.0) as i64);
    let since = before
        .filter(|b| began.is_none_or(|began| began <= b.at))
        .and_then(|b| Some((b.at, b.cpu?)))
        .filter(|(at, sum)| *at < now.at && *sum <= cpu)
        .or_else(|| began.filter(|began| now.at - began >= 1000).map(|began| (began, 0.0)))?;
    let window = now.at - since.0;
    Some(Used {
        at: now.at,
        window,
        nanocores: ((cpu - since.1) * 1e12 / window as f64).round() as i64,
        bytes: memory as i64,
    })
}

fn usage(used: &Used) -> Value {
    let memory = Quantity::new(used.bytes, Format::BinarySi).to_string();
    json!({"cpu": nano(used.nanocores), "memory": memory})
}

fn stamp(milliseconds: i64) -> String {
    let at = Timestamp::from_second(milliseconds.div_euclid(1000)).unwrap_or_default();
    at.to_string()
}

/// As Go writes it: `15.2s`, `1m0.5s`.
fn duration(milliseconds: i64) -> String {
    let (minutes, rest) = (milliseconds / 60_000, milliseconds % 60_000);
    let seconds = rest as f64 / 1000.0;
    if minutes == 0 {
        format!("{seconds}s")
    } else {
        format!("{minutes}m{seconds}s")
    }
}

fn full(row: &Row, version: &str, object: Object) -> Object {
    let mut whole = Map::from_iter([
        ("kind".to_owned(), Value::from(&*row.kind)),
        ("apiVersion".to_owned(), row.api_version(version).into()),
    ]);
    whole.extend(object.0);
    Object(whole)
}

fn one(call: &Call<'_>, row: &Row, accept: Accept, include: Include, object: Object) -> Response<Body> {
    let version = call.target.version;
    let mut out = Vec::new();
    match accept.form {
        Form::Object => out = full(row, version, object).to_bytes().to_vec(),
        Form::Metadata(api_version) => out = partial(object, api_version).to_bytes().to_vec(),
        Form::Table(api_version) => Writer::new(row, version, api_version, include).one(
            Revision::default(),
            Some(&full(row, version, object)),
            true,
            &mut out,
        ),
    }
    let pretty = options::pretty(call.query, &call.head.headers);
    respond::formatted(StatusCode::OK, accept.format, pretty, out)
}

fn many(call: &Call<'_>, row: &Row, accept: Accept, include: Include, objects: Vec<Object>) -> Response<Body> {
    let version = call.target.version;
    let list = |kind: String, api_version: String, items: Vec<Value>| {
        let list = json!({"kind": kind, "apiVersion": api_version, "metadata": {}, "items": items});
        serde_json::to_vec(&list).expect("a tree serializes")
    };
    let out = match accept.form {
        Form::Object => {
            let items = objects.into_iter().map(|o| Value::Object(o.0)).collect();
            list(format!("{}List", row.kind), row.api_version(version), items)
        }
        Form::Metadata(api_version) => {
            let items = objects.into_iter().map(|o| Value::Object(partial(o, api_version).0));
            list("PartialObjectMetadataList".into(), api_version.into(), items.collect())
        }
        Form::Table(api_version) => {
            let table = Writer::new(row, version, api_version, include);
            let mut out = Vec::new();
            table.head(Revision::default(), &json!({}), true, &mut out);
            for (position, object) in objects.into_iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                table.row(&full(row, version, object), &mut out);
            }
            out.extend_from_slice(Writer::TAIL);
            out
        }
    };
    let pretty = options::pretty(call.query, &call.head.headers);
    respond::formatted(StatusCode::OK, accept.format, pretty, out)
}

/// Two readings of each node; a node whose kubelet says nothing is left out, as if it used nothing anybody knows of.
async fn pairs(call: &Call<'_>, names: Vec<String>) -> HashMap<String, Pair> {
    let asked = futures::stream::iter(names).map(|name| async move {
        match tokio::time::timeout(PATIENCE, pair(call, &name)).await {
            Ok(Ok(pair)) => Some((name, pair)),
            Ok(Err(status)) => {
                tracing::debug!(
                    node = name,
                    error = status.message,
                    "a kubelet's use of resources cannot be read"
                );
                None
            }
            Err(_) => {
                tracing::debug!(node = name, "a kubelet says nothing of its use of resources");
                None
            }
        }
    });
    let answered = asked.buffer_unordered(AT_ONCE);
    answered.filter_map(std::future::ready).collect().await
}

async fn pair(call: &Call<'_>, node: &str) -> Result<Pair, Status> {
    let kept = {
        let mut nodes = call
            .api
            .usage
            .nodes
            .lock()
            .expect("nothing panics while holding the readings");
        nodes.entry(node.to_owned()).or_default().clone()
    };
    // Whoever asks meanwhile waits here and finds what the first has read.
    let mut kept = kept.lock().await;
    kept.pair(|| read(call, node)).await
}

impl Kept {
    async fn pair<F>(&mut self, read: impl Fn() -> F) -> Result<Pair, Status>
    where
        F: Future<Output = Result<Reading, Status>>,
    {
        if let (Some((_, before)), Some((at, now))) = (&self.older, &self.newer)
            && at.elapsed() < FRESH
        {
            return Ok((before.clone(), now.clone()));
        }
        let usable = |entry: &(Instant, Arc<Reading>)| (LEAST..=MOST).contains(&entry.0.elapsed());
        let young = self.newer.clone().filter(|n| usable(n) && n.0.elapsed() >= STEP);
        let any = || {
            let both = [self.older.clone(), self.newer.clone()];
            both.into_iter().flatten().find(usable)
        };
        let older = match young.or_else(any) {
            Some(older) => older,
            None => {
                let first = (Instant::now(), Arc::new(read().await?));
                tokio::time::sleep(LEAST).await;
                first
            }
        };
        let newer = (Instant::now(), Arc::new(read().await?));
        let pair = (older.1.clone(), newer.1.clone());
        (self.older, self.newer) = (Some(older), Some(newer));
        Ok(pair)
    }
}

async fn read(call: &Call<'_>, node: &str) -> Result<Reading, Status> {
    let place = connect::kubelet_of(call, node).await?;
    let request = connect::to(
        &place,
        Method::GET,
        "/metrics/resource",
        HeaderMap::new(),
        Body::empty(),
    )?;
    let response = connect::send(call, &place, request).await?;
    let code = response.status();
    let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
    let body = body.map_err(|error| Status::internal(&error.to_string()))?.to_bytes();
    let text = String::from_utf8_lossy(&body);
    if !code.is_success() {
        return Err(Status::internal(&format!(
            "the kubelet of {node} answers {code}: {text}"
        )));
    }
    Ok(parse(&text))
}

/// From Prometheus' text format. Lines about anything else are passed over.
fn parse(text: &str) -> Reading {
    let mut reading = Reading::default();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, labels, rest) = match line.split_once('{') {
            Some((name, rest)) => match rest.rsplit_once('}') {
                Some((labels, rest)) => (name, labels, rest),
                None => continue,
            },
            None => match line.split_once(' ') {
                Some((name, rest)) => (name, "", rest),
                None => continue,
            },
        };
        let mut words = rest.split_whitespace();
        let Some(value) = words.next().and_then(|w| w.parse::<f64>().ok()) else {
            continue;
        };
        let at = words.next().and_then(|w| w.parse::<i64>().ok());
        let point = if name.starts_with("node_") {
            &mut reading.node
        } else if name.starts_with("container_") {
            let (Some(namespace), Some(pod), Some(container)) = (
                label(labels, "namespace"),
                label(labels, "pod"),
                label(labels, "container"),
            ) else {
                continue;
            };
            let pod = reading.pods.entry((namespace.to_owned(), pod.to_owned())).or_default();
            pod.entry(container.to_owned()).or_default()
        } else {
            continue;
        };
        match name {
            "node_cpu_usage_seconds_total" | "container_cpu_usage_seconds_total" => {
                point.cpu = Some(value);
                point.at = at.unwrap_or_default();
            }
            "node_memory_working_set_bytes" | "container_memory_working_set_bytes" => point.memory = Some(value),
            "container_start_time_seconds" => point.started = Some(value),
            _ => {}
        }
    }
    reading
}

/// Names of namespaces, pods and containers hold nothing that would be escaped.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key == name).then(|| value.trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    fn point(at: i64, cpu: f64, started: f64) -> Point {
        Point {
            at,
            cpu: Some(cpu),
            memory: Some(2048.0),
            started: Some(started),
        }
    }

    #[test]
    fn a_kubelets_text_is_read() {
        let reading = parse(
            "# HELP x\ncontainer_cpu_usage_seconds_total{container=\"c\",namespace=\"ns\",pod=\"p\"} 2.5 1500\n\
             container_memory_working_set_bytes{container=\"c\",namespace=\"ns\",pod=\"p\"} 2048 1500\n\
             container_start_time_seconds{container=\"c\",namespace=\"ns\",pod=\"p\"} 1\n\
             pod_cpu_usage_seconds_total{namespace=\"ns\",pod=\"p\"} 9 1500\n\
             node_cpu_usage_seconds_total 7 1600\nnode_memory_working_set_bytes 4096 1600\nresource_scrape_error 0\n",
        );
        let container = reading.pods[&("ns".to_owned(), "p".to_owned())]["c"];
        assert_eq!(container, point(1500, 2.5, 1.0));
        assert_eq!((reading.node.at, reading.node.cpu), (1600, Some(7.0)));
    }

    #[test]
    fn use_is_what_lies_between_two_points() {
        let used_of = |before: Option<Point>, now| used(before.as_ref(), &now).map(|u| (u.window, u.nanocores));
        let before = point(10_000, 5.0, 1.0);
        assert_eq!(
            used_of(Some(before), point(12_000, 6.0, 1.0)),
            Some((2000, 500_000_000))
        );
        // Started since: all that it used is of this time.
        assert_eq!(used_of(None, point(12_000, 1.0, 8.0)), Some((4000, 250_000_000)));
        assert_eq!(
            used_of(Some(before), point(15_000, 1.0, 11.0)),
            Some((4000, 250_000_000))
        );
        // Too young to be told, and a kubelet that repeats itself.
        assert_eq!(used_of(None, point(12_000, 1.0, 11.5)), None);
        assert_eq!(
            used_of(
                Some(Point {
                    started: None,
                    ..before
                }),
                Point {
                    started: None,
                    ..before
                }
            ),
            None
        );
    }

    #[test]
    fn a_pod_is_told_when_all_its_containers_are() {
        let pod = Object(Map::from_iter([(
            "metadata".to_owned(),
            json!({"name": "p", "namespace": "ns", "labels": {"a": "b"}, "uid": "u"}),
        )]));
        let reading = |at, containers: &[&str]| Reading {
            pods: HashMap::from([(
                ("ns".to_owned(), "p".to_owned()),
                containers
                    .iter()
                    .map(|c| ((*c).to_owned(), point(at, at as f64 / 10_000.0, 0.0)))
                    .collect(),
            )]),
            ..Reading::default()
        };
        let time = Timestamp::UNIX_EPOCH;
        let shown = pod_metrics(&pod, &reading(10_000, &["a"]), &reading(25_500, &["a"]), time).unwrap();
        assert_eq!(
            Value::Object(shown.0),
            json!({
                "metadata": {"name": "p", "namespace": "ns", "labels": {"a": "b"}, "creationTimestamp": "1970-01-01T00:00:00Z"},
                "timestamp": "1970-01-01T00:00:25Z", "window": "15.5s",
                "containers": [{"name": "a", "usage": {"cpu": "100m", "memory": "2Ki"}}],
            })
        );
        let mut half = reading(25_500, &["a", "b"]);
        half.pods
            .values_mut()
            .for_each(|p| p.get_mut("b").unwrap().memory = None);
        assert!(pod_metrics(&pod, &reading(10_000, &["a"]), &half, time).is_none());
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        assert_eq!(duration(15_000), "15s");
        assert_eq!(duration(60_250), "1m0.25s");
    }

    #[tokio::test(start_paused = true)]
    async fn kubelets_are_asked_no_more_than_is_needed() {
        let (mut kept, asked) = (Kept::default(), AtomicI64::new(0));
        let read = || async {
            let mut reading = Reading::default();
            reading.node.at = asked.fetch_add(1, Ordering::SeqCst) + 1;
            Ok(reading)
        };
        let mut numbers = async |wait| {
            tokio::time::sleep(Duration::from_secs(wait)).await;
            let (before, now) = kept.pair(read).await.unwrap();
            (before.node.at, now.node.at)
        };
        assert_eq!(numbers(0).await, (1, 2));
        assert_eq!(numbers(1).await, (1, 2));
        assert_eq!(numbers(2).await, (1, 3));
        assert_eq!(numbers(15).await, (3, 4));
        assert_eq!(numbers(3600).await, (5, 6));
    }
}
