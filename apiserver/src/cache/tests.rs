use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use proptest::prelude::*;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::testing::{filter, spec};
use super::*;
use crate::store::{Expect, Limits, Memory, Options, Store};

struct Bench {
    store: Arc<dyn Store>,
    caches: Arc<Caches>,
    pods: Arc<Cache>,
    feeder: JoinSet<Result<(), Error>>,
}

impl Bench {
    async fn new() -> Self {
        Self::over(Arc::new(Memory::new(Limits::default()))).await
    }

    async fn over(store: Arc<dyn Store>) -> Self {
        let caches = Caches::new(store.clone());
        let pods = caches.add(spec()).await.unwrap();
        let mut bench = Bench {
            store,
            caches,
            pods,
            feeder: JoinSet::new(),
        };
        bench.feed();
        bench.caches.loaded().await;
        bench
    }

    fn feed(&mut self) {
        self.feeder.spawn(self.caches.clone().run(CancellationToken::new()));
    }

    async fn put(&self, key: &str, app: &str, node: &str) -> Revision {
        let key = Key::from(format!("/registry/pods/{key}"));
        let expect = match self.store.get(&key).await.unwrap() {
            Some(entry) => Expect::At(entry.revision),
            None => Expect::Absent,
        };
        let value = json!({"metadata": {"name": "x", "labels": {"app": app}}, "spec": {"nodeName": node}});
        let value = Bytes::from(value.to_string());
        self.store.put(&key, value, expect, Options::DURABLE).await.unwrap()
    }

    async fn delete(&self, key: &str) -> Option<Revision> {
        let key = Key::from(format!("/registry/pods/{key}"));
        let entry = self.store.get(&key).await.unwrap()?;
        Some(self.store.delete(&key, entry.revision).await.unwrap())
    }
}

fn told(events: &[Event]) -> Vec<String> {
    let one = |event: &Event| match event {
        Event::Added(item) => format!("+{}@{}", item.facts.name, item.revision),
        Event::Modified(item) => format!("~{}@{}", item.facts.name, item.revision),
        Event::Deleted { item, at } => format!("-{}@{at}", item.facts.name),
    };
    events.iter().map(one).collect()
}

fn names(items: &[Arc<Item>]) -> Vec<&str> {
    items.iter().map(|i| &*i.facts.name).collect()
}

#[tokio::test(start_paused = true)]
async fn a_write_is_seen_by_a_fresh_read_and_by_a_watch() {
    let bench = Bench::new().await;
    let mut watch = bench.pods.watch(Filter::default(), bench.pods.revision()).unwrap();
    let at = bench.put("a/one", "web", "n1").await;
    assert_eq!(bench.pods.fresh().await.unwrap(), at);
    let item = bench.pods.get("a", "one").unwrap();
    assert_eq!(
        (&*item.facts.namespace, &*item.facts.name, item.revision),
        ("a", "one", at)
    );
    assert_eq!(item.label("app"), Some("web"));
    assert_eq!(&*item.facts.fields[0], "n1");
    assert_eq!(item.object().resource_version(), at.to_string());
    bench.put("a/one", "web", "n2").await;
    bench.delete("a/one").await;
    bench.pods.fresh().await.unwrap();
    assert_eq!(told(&watch.next().await.unwrap()), ["+one@2", "~one@3", "-one@4"]);
    assert_eq!(watch.progress(), Revision(4));
    assert!(watch.next().now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn entering_a_selector_is_added_and_leaving_it_is_deleted() {
    let bench = Bench::new().await;
    let mut watch = bench.pods.watch(filter("", "app=web", ""), Revision(1)).unwrap();
    for (app, node) in [("db", "n1"), ("web", "n1"), ("web", "n2"), ("db", "n2"), ("db", "n3")] {
        bench.put("a/one", app, node).await;
    }
    bench.pods.fresh().await.unwrap();
    let events = watch.next().await.unwrap();
    assert_eq!(told(&events), ["+one@3", "~one@4", "-one@5"]);
    let Event::Deleted { item, .. } = &events[2] else {
        panic!()
    };
    assert_eq!(item.label("app"), Some("web"), "the last state that matched");
}

#[tokio::test(start_paused = true)]
async fn a_watcher_sleeps_through_what_is_not_its_own_and_still_makes_progress() {
    let bench = Bench::new().await;
    let mut mine = bench
        .pods
        .watch(filter("", "", "spec.nodeName=n1"), Revision(1))
        .unwrap();
    assert!(mine.next().now_or_never().is_none());
    for n in 0..100 {
        bench.put(&format!("a/p{n}"), "web", "n2").await;
    }
    bench.pods.fresh().await.unwrap();
    assert!(mine.next().now_or_never().is_none());
    assert_eq!(mine.progress(), bench.pods.revision());
    bench.put("a/p7", "web", "n1").await;
    bench.put("a/p7", "web", "n3").await;
    assert_eq!(told(&mine.next().await.unwrap()), ["+p7@102", "-p7@103"]);
}

#[tokio::test(start_paused = true)]
async fn reads_of_the_future_fail_after_three_seconds_and_of_the_past_after_compaction() {
    let bench = Bench::new().await;
    let first = bench.put("a/one", "web", "n1").await;
    let second = bench.put("a/two", "web", "n1").await;
    let third = bench.put("a/one", "db", "n1").await;
    bench.delete("a/two").await;
    bench.pods.fresh().await.unwrap();
    let before = tokio::time::Instant::now();
    let error = bench.pods.at_least(Revision(50)).await.unwrap_err();
    assert_eq!(error.to_string(), "Too large resource version: 50, current: 5");
    assert_eq!(before.elapsed().as_secs(), 3);
    let at = |revision| {
        bench
            .pods
            .at(revision)
            .map(|s| names(&s.list(&filter("", "app=web", ""))).join(" "))
    };
    assert_eq!(at(first).unwrap(), "one");
    assert_eq!(at(second).unwrap(), "one two");
    assert_eq!(at(third).unwrap(), "two");
    assert_eq!(at(bench.pods.revision()).unwrap(), "");
    assert!(matches!(at(Revision(9)), Err(Error::TooLarge { .. })));
    let kept = bench.pods.at(second).unwrap();
    assert_eq!(
        bench.pods.page(&kept, &Filter::default(), None, 1).next.as_deref(),
        Some("a/one")
    );
    // Two periods later the history is gone, here and in the store.
    tokio::time::sleep(Duration::from_secs(601)).await;
    let error = at(second).unwrap_err();
    assert_eq!(error.to_string(), "too old resource version: 3 (5)");
    assert!(bench.pods.watch(Filter::default(), Revision(4)).is_err());
    assert!(bench.pods.watch(Filter::default(), Revision(5)).is_ok());
    let mut store = bench.store.watch("/registry/", Revision(4));
    assert!(matches!(
        store.next().await,
        Some(Err(crate::store::Error::Compacted(Revision(5))))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_continue_token_reads_on_in_the_snapshot_it_came_from() {
    let bench = Bench::new().await;
    for n in 0..10 {
        bench.put(&format!("a/p{n}"), "web", "n1").await;
    }
    bench.pods.fresh().await.unwrap();
    let first = bench.pods.snapshot();
    let page = bench.pods.page(&first, &Filter::default(), None, 4);
    assert_eq!(
        (names(&page.items).join(" "), page.remaining),
        ("p0 p1 p2 p3".into(), Some(6))
    );
    bench.delete("a/p5").await;
    bench.put("a/p4x", "web", "n1").await;
    bench.pods.fresh().await.unwrap();
    let again = bench.pods.at(first.revision()).unwrap();
    let page = bench.pods.page(&again, &Filter::default(), page.next.as_deref(), 0);
    assert_eq!(names(&page.items).join(" "), "p4 p5 p6 p7 p8 p9");
    assert_eq!((page.next, page.remaining), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_falls_out_of_the_window_is_told_and_one_that_is_closed_too() {
    let bench = Bench::new().await;
    let mut slow = bench.pods.watch(Filter::default(), Revision(1)).unwrap();
    let mut asleep = bench.pods.watch(filter("b", "", ""), Revision(1)).unwrap();
    assert!(asleep.next().now_or_never().is_none());
    for n in 0..70_000u32 {
        bench.put("a/one", "web", &n.to_string()).await;
        if n % 1000 == 0 {
            bench.pods.fresh().await.unwrap();
        }
    }
    bench.pods.fresh().await.unwrap();
    assert!(matches!(slow.next().await, Err(Error::Expired { .. })));
    // It slept through changes that were not its own: nothing is lost.
    bench.put("b/two", "web", "n1").await;
    assert_eq!(told(&asleep.next().await.unwrap()), ["+two@70002"]);
    bench.pods.expire_watches();
    assert!(matches!(asleep.next().await, Err(Error::Expired { .. })));
    let mut last = bench.pods.watch(filter("b", "", ""), bench.pods.revision()).unwrap();
    assert!(last.next().now_or_never().is_none());
    bench.caches.remove("/registry/pods/").await;
    assert!(matches!(last.next().await, Err(Error::Closed)));
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_hears_everything_also_after_the_feeder_had_to_start_over() {
    let mut bench = Bench::new().await;
    bench.put("a/one", "web", "n1").await;
    bench.pods.fresh().await.unwrap();
    let mut all = bench.pods.subscribe();
    let Delta::Reset(items) = all.next().await else {
        panic!()
    };
    assert_eq!(names(&items), ["one"]);
    bench.put("a/two", "web", "n1").await;
    let Delta::Changes(events) = all.next().await else {
        panic!()
    };
    assert_eq!(told(&events), ["+two@3"]);
    bench.feeder.shutdown().await;
    let at = bench.delete("a/one").await.unwrap();
    bench.store.compact(at).await.unwrap();
    assert!(bench.pods.at_least(at).await.is_err(), "what is not fed is not fresh");
    bench.feed();
    let Delta::Reset(items) = all.next().await else {
        panic!()
    };
    assert_eq!(names(&items), ["two"]);
    bench.caches.remove("/registry/pods/").await;
    assert!(matches!(all.next().await, Delta::Reset(items) if items.is_empty()));
    assert!(all.next().now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_row_that_is_added_later_has_no_hole() {
    let bench = Bench::new().await;
    bench.put("a/one", "web", "n1").await;
    let key = Key::from("/registry/things/a");
    let value = Bytes::from_static(br#"{"metadata":{"name":"a"}}"#);
    let at = bench
        .store
        .put(&key, value.clone(), Expect::Absent, Options::DURABLE)
        .await
        .unwrap();
    let spec = Spec {
        prefix: "/registry/things/".into(),
        namespaced: false,
        fields: Vec::new(),
    };
    let things = bench.caches.add(spec).await.unwrap();
    things.at_least(at).await.unwrap();
    assert_eq!(things.get("", "a").unwrap().revision, at);
    let (items, revision, mut watch) = things.list_and_watch(Filter::default());
    assert_eq!((names(&items), revision), (vec!["a"], at));
    bench
        .store
        .put(&key, value, Expect::At(at), Options::DURABLE)
        .await
        .unwrap();
    assert_eq!(told(&watch.next().await.unwrap()), ["~a@4"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_object_is_not_served_and_stops_nobody() {
    let bench = Bench::new().await;
    let key = Key::from("/registry/pods/a/bad");
    let bad = Bytes::from_static(b"not json");
    let at = bench
        .store
        .put(&key, bad, Expect::Absent, Options::DURABLE)
        .await
        .unwrap();
    let strange = Key::from("/registry/podsandmore");
    bench
        .store
        .put(&strange, Bytes::new(), Expect::Absent, Options::DURABLE)
        .await
        .unwrap();
    bench.put("a/good", "web", "n1").await;
    bench.pods.fresh().await.unwrap();
    let (items, _) = bench.pods.list(&Filter::default());
    assert_eq!(names(&items), ["good"]);
    bench.store.delete(&key, at).await.unwrap();
    assert_eq!(bench.pods.fresh().await.unwrap(), Revision(5));
}

/// What the property below does.
#[derive(Debug, Clone)]
enum Step {
    Put { key: u8, app: u8, node: u8 },
    Delete { key: u8 },
    Watch { filter: usize, from: u8 },
    Read { watcher: usize },
    Drop { watcher: usize },
    At { back: u8, filter: usize },
    Compact { back: u8 },
    RestartFeeder,
    Yield,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0u8..20, 0u8..3, 0u8..3).prop_map(|(key, app, node)| Step::Put { key, app, node }),
        4 => (0u8..20).prop_map(|key| Step::Delete { key }),
        2 => (0..FILTERS.len(), 0u8..10).prop_map(|(filter, from)| Step::Watch { filter, from }),
        4 => (0usize..8).prop_map(|watcher| Step::Read { watcher }),
        1 => (0usize..8).prop_map(|watcher| Step::Drop { watcher }),
        2 => (0u8..20, 0..FILTERS.len()).prop_map(|(back, filter)| Step::At { back, filter }),
        1 => (0u8..20).prop_map(|back| Step::Compact { back }),
        1 => Just(Step::RestartFeeder),
        3 => Just(Step::Yield),
    ]
}

const FILTERS: [(&str, &str, &str); 8] = [
    ("", "", ""),
    ("ns1", "", ""),
    ("", "app=a1", ""),
    ("", "app!=a1", ""),
    ("", "", "spec.nodeName=n1"),
    ("ns1", "app in (a0,a2)", "spec.nodeName!=n2"),
    ("", "", "metadata.name=p4"),
    ("ns0", "app=a0", "spec.nodeName=n0"),
];

type Pods = BTreeMap<String, (String, String, Revision)>;

fn selected(pods: &Pods, (namespace, labels, fields): (&str, &str, &str)) -> BTreeMap<String, Revision> {
    let filter = filter("", labels, fields);
    pods.iter()
        .filter(|(key, (app, node, _))| {
            let (ns, name) = key.split_once('/').unwrap();
            (namespace.is_empty() || ns == namespace)
                && filter.labels.matches(|k| (k == "app").then_some(app))
                && filter.fields.matches(|k| match k {
                    "metadata.name" => Some(name),
                    "spec.nodeName" => Some(node),
                    _ => None,
                })
        })
        .map(|(key, (_, _, revision))| (key.clone(), *revision))
        .collect()
}

/// A client that follows: what it holds must be what the filter selects.
struct Client {
    filter: usize,
    holds: BTreeMap<String, Revision>,
    at: Revision,
    watch: Watcher,
}

impl Client {
    /// Takes in all that is there. False: it has to start over.
    fn read(&mut self, states: &BTreeMap<Revision, Pods>) -> bool {
        loop {
            match self.watch.next().now_or_never() {
                None => break,
                Some(Err(_)) => return false,
                Some(Ok(events)) => {
                    for event in events {
                        let (key, was, now) = match &event {
                            Event::Added(item) => (&item.key, false, Some(item.revision)),
                            Event::Modified(item) => (&item.key, true, Some(item.revision)),
                            Event::Deleted { item, at } => {
                                assert!(*at > self.at);
                                self.at = *at;
                                (&item.key, true, None)
                            }
                        };
                        let key = key.strip_prefix("/registry/pods/").unwrap().to_owned();
                        assert_eq!(self.holds.contains_key(&key), was, "{event:?}");
                        match now {
                            Some(revision) => {
                                assert!(revision > self.at, "in order, and once");
                                self.at = revision;
                                self.holds.insert(key, revision);
                            }
                            None => {
                                self.holds.remove(&key);
                            }
                        }
                    }
                }
            }
        }
        let progress = self.watch.progress();
        assert!(progress >= self.at);
        let (_, state) = states.range(..=progress).next_back().unwrap();
        assert_eq!(self.holds, selected(state, FILTERS[self.filter]));
        true
    }
}

async fn run(steps: Vec<Step>) {
    let mut bench = Bench::new().await;
    let mut pods = Pods::new();
    let mut states = BTreeMap::from([(Revision(1), pods.clone())]);
    let mut clients: Vec<Client> = Vec::new();
    let key_of = |key: u8| format!("ns{}/p{key}", key % 3);
    for step in steps {
        match step {
            Step::Put { key, app, node } => {
                let (key, app, node) = (key_of(key), format!("a{app}"), format!("n{node}"));
                let at = bench.put(&key, &app, &node).await;
                pods.insert(key, (app, node, at));
                states.insert(at, pods.clone());
            }
            Step::Delete { key } => {
                if let Some(at) = bench.delete(&key_of(key)).await {
                    pods.remove(&key_of(key));
                    states.insert(at, pods.clone());
                }
            }
            Step::Watch { filter: chosen, from } => {
                let (namespace, labels, fields) = FILTERS[chosen];
                let wanted = filter(namespace, labels, fields);
                if clients.len() == 8 {
                    clients.remove(0);
                }
                let now = bench.pods.revision();
                let (holds, at, watch) = if from == 0 {
                    let (items, revision, watch) = bench.pods.list_and_watch(wanted);
                    let key = |i: &Item| i.key.strip_prefix("/registry/pods/").unwrap().to_owned();
                    let holds = items.iter().map(|i| (key(i), i.revision)).collect();
                    (holds, revision, watch)
                } else {
                    let at = Revision(now.0.saturating_sub(u64::from(from) - 1).max(1));
                    let Ok(watch) = bench.pods.watch(wanted, at) else {
                        continue;
                    };
                    let (_, state) = states.range(..=at).next_back().unwrap();
                    (selected(state, FILTERS[chosen]), at, watch)
                };
                clients.push(Client {
                    filter: chosen,
                    holds,
                    at,
                    watch,
                });
            }
            Step::Read { watcher } => {
                if watcher < clients.len() && !clients[watcher].read(&states) {
                    clients.remove(watcher);
                }
            }
            Step::Drop { watcher } => {
                if watcher < clients.len() {
                    clients.remove(watcher);
                }
            }
            Step::At { back, filter: chosen } => {
                let at = Revision(bench.pods.revision().0.saturating_sub(back.into()).max(1));
                let (namespace, labels, fields) = FILTERS[chosen];
                match bench.pods.at(at) {
                    Ok(snapshot) => {
                        let (_, state) = states.range(..=at).next_back().unwrap();
                        let items = snapshot.list(&filter(namespace, labels, fields));
                        let found: BTreeMap<String, Revision> = items
                            .iter()
                            .map(|i| (i.key.strip_prefix("/registry/pods/").unwrap().to_owned(), i.revision))
                            .collect();
                        assert_eq!(found, selected(state, FILTERS[chosen]));
                    }
                    Err(error) => assert!(matches!(error, Error::Expired { .. })),
                }
            }
            Step::Compact { back } => {
                let seen = bench.pods.revision();
                bench.caches.compact(Revision(seen.0.saturating_sub(back.into()))).await;
            }
            Step::RestartFeeder => {
                bench.feeder.shutdown().await;
                let now = bench.store.revision().await.unwrap();
                bench.store.compact(now).await.unwrap();
                bench.feed();
            }
            Step::Yield => tokio::task::yield_now().await,
        }
    }
    let last = bench.pods.fresh().await.unwrap();
    assert_eq!(bench.pods.revision(), last);
    for client in &mut clients {
        if client.read(&states) {
            assert_eq!(client.watch.progress(), last);
        }
    }
    let (items, _) = bench.pods.list(&Filter::default());
    assert_eq!(items.len(), pods.len());
    assert!(
        items
            .iter()
            .all(|i| pods[i.key.strip_prefix("/registry/pods/").unwrap()].2 == i.revision)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whoever_follows_holds_what_the_model_holds(steps in proptest::collection::vec(step(), 1..200)) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(run(steps));
    }
}

/// Real threads: what one thread cannot interleave.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_between_threads() {
    const WRITERS: usize = 3;
    const WRITES: usize = 400;
    let bench = Arc::new(Bench::new().await);
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let bench = bench.clone();
        writers.spawn(async move {
            for n in 0..WRITES {
                let key = format!("ns{}/p{}", n % 3, n % 7 + 100 * writer);
                if n % 5 == 4 {
                    bench.delete(&key).await;
                } else {
                    bench.put(&key, &format!("a{}", n % 4), &format!("n{}", n % 2)).await;
                }
                if n % 16 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    let done = CancellationToken::new();
    let mut followers = JoinSet::new();
    for n in 0..16 {
        let (bench, done) = (bench.clone(), done.clone());
        let (namespace, labels, fields) = FILTERS[n % FILTERS.len()];
        followers.spawn(async move {
            let wanted = filter(namespace, labels, fields);
            let (items, mut at, mut watch) = bench.pods.list_and_watch(wanted.clone());
            let mut holds: BTreeMap<Key, Revision> = items.iter().map(|i| (i.key.clone(), i.revision)).collect();
            loop {
                let events = tokio::select! {
                    biased;
                    events = watch.next() => events.unwrap(),
                    () = done.cancelled() => break,
                };
                for event in events {
                    let revision = match &event {
                        Event::Added(item) => {
                            assert!(holds.insert(item.key.clone(), item.revision).is_none());
                            item.revision
                        }
                        Event::Modified(item) => {
                            assert!(holds.insert(item.key.clone(), item.revision).is_some());
                            item.revision
                        }
                        Event::Deleted { item, at } => {
                            assert!(holds.remove(&item.key).is_some());
                            *at
                        }
                    };
                    assert!(revision > at);
                    at = revision;
                    assert!(watch.progress() >= at);
                }
            }
            assert_eq!(watch.progress(), bench.pods.revision());
            let (items, _) = bench.pods.list(&wanted);
            let now: BTreeMap<Key, Revision> = items.iter().map(|i| (i.key.clone(), i.revision)).collect();
            assert_eq!(holds, now);
        });
    }
    // Meanwhile a row comes and goes: each time it holds what the store has.
    while !writers.is_empty() {
        let spec = Spec {
            prefix: "/registry/pods/ns1/".into(),
            namespaced: false,
            fields: Vec::new(),
        };
        let caches = Caches::new(bench.store.clone());
        let mut feeder = JoinSet::new();
        feeder.spawn(caches.clone().run(CancellationToken::new()));
        caches.loaded().await;
        let row = caches.add(spec).await.unwrap();
        let at = row.fresh().await.unwrap();
        let listing = bench.store.list(
            "/registry/pods/ns1/",
            crate::store::Page {
                at: Some(at),
                ..Default::default()
            },
        );
        let listing = listing.await.unwrap();
        let snapshot = row.at(at).unwrap();
        let held: Vec<_> = snapshot
            .list(&Filter::default())
            .iter()
            .map(|i| (i.key.clone(), i.revision))
            .collect();
        let stored: Vec<_> = listing.entries.iter().map(|e| (e.key.clone(), e.revision)).collect();
        assert_eq!(held, stored);
        feeder.shutdown().await;
        if let Some(ended) = writers.try_join_next() {
            ended.unwrap();
        }
    }
    bench.pods.fresh().await.unwrap();
    done.cancel();
    followers.join_all().await;
}
