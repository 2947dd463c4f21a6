//! Events: what happened to an object, for the people who describe it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use crate::backoff::Backoff;

/// Events that wait to be written. The one that does not fit is dropped: an event is a courtesy, never worth waiting for.
const WAITING: usize = 1000;
/// Series and objects that are remembered; the one that was quiet longest is forgotten first.
const REMEMBERED: usize = 1024;
/// From here on events of one object and reason that differ in their message alone become one.
const SIMILAR: usize = 10;
const SIMILAR_WITHIN: Duration = Duration::from_secs(600);
/// An object may have this many events at once, then one per `REFILL`. Upstream: client-go tools/record.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);

/// How loud an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    Normal,
    Warning,
}

/// Publishes events as one component. Cheap to clone; the writer ends with the last clone.
#[derive(Clone)]
pub struct Recorder {
    notes: mpsc::Sender<Note>,
    /// Owned here so that the writer goes when nobody can publish any more.
    _writer: Arc<JoinSet<()>>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

#[derive(Debug, Clone)]
struct Note {
    about: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

impl Recorder {
    /// `component` is who speaks (`kubelet`), `host` the node it speaks of, empty where there is none.
    pub fn new(client: kube::Client, component: impl Into<String>, host: impl Into<String>) -> Self {
        let (notes, inbox) = mpsc::channel(WAITING);
        let writer = Writer {
            client,
            component: component.into(),
            host: host.into(),
            correlator: Correlator::default(),
        };
        let mut set = JoinSet::new();
        set.spawn(writer.run(inbox));
        Recorder {
            notes,
            _writer: Arc::new(set),
        }
    }

    /// Queues an event and returns at once.
    pub fn publish(
        &self,
        about: &ObjectReference,
        kind: EventType,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) {
        let note = Note {
            about: about.clone(),
            kind,
            reason: reason.into(),
            message: message.into(),
            at: Timestamp::now(),
        };
        if let Err(error) = self.notes.try_send(note) {
            debug!(%error, "event dropped");
        }
    }
}

/// The reference that events of an object carry. k8s-openapi knows the kind.
pub fn reference<K>(object: &K) -> ObjectReference
where
    K: k8s_openapi::Resource + k8s_openapi::Metadata<Ty = ObjectMeta>,
{
    let metadata = object.metadata();
    ObjectReference {
        api_version: Some(K::API_VERSION.to_owned()),
        kind: Some(K::KIND.to_owned()),
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        uid: metadata.uid.clone(),
        resource_version: metadata.resource_version.clone(),
        field_path: None,
    }
}

struct Writer {
    client: kube::Client,
    component: String,
    host: String,
    correlator: Correlator,
}

impl Writer {
    async fn run(mut self, mut inbox: mpsc::Receiver<Note>) {
        while let Some(note) = inbox.recv().await {
            let Some(step) = self.correlator.decide(&note, Instant::now()) else {
                debug!(reason = note.reason, name = note.about.name, "event over the limit");
                continue;
            };
            let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));
            for _ in 0..3 {
                match self.write(&note, &step).await {
                    Ok(name) => {
                        self.correlator.written(&step.key, name);
                        break;
                    }
                    // The server has decided: the namespace is going, or we may not.
                    Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                        debug!(code = status.code, message = status.message, "event refused");
                        break;
                    }
                    Err(error) => {
                        debug!(error = %crate::chain(&error), "event not written");
                        tokio::time::sleep(backoff.pause()).await;
                    }
                }
            }
        }
    }

    /// Writes the event and returns its name.
    async fn write(&self, note: &Note, step: &Step) -> Result<String, kube::Error> {
        let namespace = note.about.namespace.as_deref().filter(|ns| !ns.is_empty());
        let namespace = namespace.unwrap_or("default");
        let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        if let Some(name) = &step.name {
            let change = serde_json::json!({
                "count": step.count, "lastTimestamp": Time(note.at), "message": step.message,
            });
            match events.patch(name, &PatchParams::default(), &Patch::Merge(change)).await {
                // It has expired: the series begins anew.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => return other.map(|_| name.clone()),
            }
        }
        let about = note.about.name.as_deref().unwrap_or_default();
        let name = format!("{about}.{:x}", note.at.as_nanosecond());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.to_owned()),
                ..Default::default()
            },
            involved_object: note.about.clone(),
            reason: Some(note.reason.clone()),
            message: Some(step.message.clone()),
            source: Some(EventSource {
                component: Some(self.component.clone()),
                host: Some(self.host.clone()).filter(|host| !host.is_empty()),
            }),
            first_timestamp: Some(Time(note.at)),
            last_timestamp: Some(Time(note.at)),
            count: Some(step.count),
            type_: Some(format!("{:?}", note.kind)),
            reporting_component: Some(self.component.clone()),
            reporting_instance: Some(self.host.clone()),
            ..Default::default()
        };
        events.create(&PostParams::default(), &event).await?;
        Ok(name)
    }
}

/// Which object, reason and type; for a series of its own also which message.
type Key = (String, String, EventType, Option<String>);

/// How a note is to be written.
#[derive(Debug, PartialEq)]
struct Step {
    key: Key,
    /// The event of the series that is there already.
    name: Option<String>,
    count: i32,
    message: String,
}

/// Decides what becomes of a note, from what was said before.
#[derive(Debug, Default)]
struct Correlator {
    series: HashMap<Key, Series>,
    similar: HashMap<Key, Similar>,
    /// By object.
    buckets: HashMap<String, Bucket>,
}

#[derive(Debug)]
struct Series {
    name: Option<String>,
    count: i32,
    last: Instant,
}

#[derive(Debug)]
struct Similar {
    messages: HashSet<String>,
    last: Instant,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    last: Instant,
}

impl Correlator {
    fn decide(&mut self, note: &Note, now: Instant) -> Option<Step> {
        let about = &note.about;
        let object = [
            &about.kind,
            &about.namespace,
            &about.name,
            &about.uid,
            &about.field_path,
        ]
        .map(|part| part.as_deref().unwrap_or_default())
        .join("/");
        let bucket = self.buckets.entry(object.clone()).or_insert(Bucket {
            tokens: BURST,
            last: now,
        });
        let refilled = (now - bucket.last).as_secs_f64() / REFILL.as_secs_f64();
        bucket.tokens = (bucket.tokens + refilled).min(BURST);
        bucket.last = now;
        if bucket.tokens < 1.0 {
            return None;
        }
        bucket.tokens -= 1.0;

        let group = (object, note.reason.clone(), note.kind, None);
        let similar = self.similar.entry(group.clone()).or_insert_with(|| Similar {
            messages: HashSet::new(),
            last: now,
        });
        if now - similar.last > SIMILAR_WITHIN {
            similar.messages.clear();
        }
        similar.last = now;
        let aggregated = similar.messages.len() >= SIMILAR && !similar.messages.contains(&note.message);
        let (key, message) = if aggregated {
            (group, format!("(combined from similar events): {}", note.message))
        } else {
            similar.messages.insert(note.message.clone());
            let (object, reason, kind, _) = group;
            ((object, reason, kind, Some(note.message.clone())), note.message.clone())
        };
        let series = self.series.entry(key.clone()).or_insert(Series {
            name: None,
            count: 0,
            last: now,
        });
        series.count += 1;
        series.last = now;
        let step = Step {
            key,
            name: series.name.clone(),
            count: series.count,
            message,
        };
        bound(&mut self.series, |series| series.last);
        bound(&mut self.similar, |similar| similar.last);
        bound(&mut self.buckets, |bucket| bucket.last);
        Some(step)
    }

    fn written(&mut self, key: &Key, name: String) {
        if let Some(series) = self.series.get_mut(key) {
            series.name = Some(name);
        }
    }
}

/// Forgets the oldest one above the limit.
fn bound<K: Clone + Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>, last: impl Fn(&V) -> Instant) {
    if map.len() > REMEMBERED {
        let oldest = map
            .iter()
            .min_by_key(|(_, value)| last(value))
            .map(|(key, _)| key.clone());
        if let Some(oldest) = oldest {
            map.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(message: &str) -> Note {
        Note {
            about: ObjectReference {
                name: Some("a".into()),
                ..Default::default()
            },
            kind: EventType::Normal,
            reason: "Pulled".into(),
            message: message.into(),
            at: Timestamp::UNIX_EPOCH,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn repeats_are_counted_in_one_event() {
        let mut correlator = Correlator::default();
        let first = correlator.decide(&note("x"), Instant::now()).unwrap();
        assert_eq!((first.count, &first.name), (1, &None));
        correlator.written(&first.key, "a.1".into());
        let second = correlator.decide(&note("x"), Instant::now()).unwrap();
        assert_eq!((second.count, second.name.as_deref()), (2, Some("a.1")));
    }

    #[tokio::test(start_paused = true)]
    async fn similar_messages_are_combined_and_a_flood_is_cut_off() {
        let mut correlator = Correlator::default();
        for n in 0..SIMILAR {
            let step = correlator.decide(&note(&n.to_string()), Instant::now()).unwrap();
            assert_eq!(step.message, n.to_string());
        }
        let step = correlator.decide(&note("more"), Instant::now()).unwrap();
        assert_eq!(step.message, "(combined from similar events): more");
        let passed = (0..100)
            .filter_map(|_| correlator.decide(&note("more"), Instant::now()))
            .count();
        assert_eq!(passed, BURST as usize - SIMILAR - 1);
        tokio::time::advance(REFILL).await;
        assert!(correlator.decide(&note("more"), Instant::now()).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let mut correlator = Correlator::default();
        for n in 0..REMEMBERED * 2 {
            let mut note = note("x");
            note.about.name = Some(n.to_string());
            correlator.decide(&note, Instant::now()).unwrap();
        }
        assert_eq!(correlator.series.len(), REMEMBERED);
        assert_eq!(correlator.buckets.len(), REMEMBERED);
    }
}
