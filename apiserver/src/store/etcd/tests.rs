use std::collections::BTreeMap;

use futures::StreamExt;

use super::testing::{Cluster, Version};
use super::*;
use crate::store::suite::{Bench, conformance};
use crate::store::{Change, Durability};

struct Real {
    cluster: Cluster,
    store: Option<Etcd>,
}

impl Real {
    async fn new(version: Version) -> Self {
        let cluster = Cluster::start(version, &["--max-request-bytes=8388608"]);
        let store = Some(cluster.open().await);
        Real { cluster, store }
    }
}

impl Bench for Real {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone().unwrap())
    }
    fn reopen(&mut self) -> Option<Arc<dyn Store>> {
        self.store = None;
        self.cluster.members[0].kill();
        self.cluster.members[0].start();
        let config = self.cluster.config();
        let opened = async { Etcd::open(config, Arc::new(Verbatim)).await.unwrap() };
        let store = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(opened));
        self.store = Some(store);
        Some(self.store())
    }
    fn compaction_is_a_write(&self) -> bool {
        true
    }
    fn history_lasts(&self) -> bool {
        true
    }
}

conformance!(newer, Real::new(Version::Newer).await);
conformance!(older, Real::new(Version::Older).await);

fn key(name: &str) -> Key {
    format!("/registry/{name}").into()
}

async fn create(store: &Etcd, name: &str) -> Revision {
    let value = Bytes::from_static(b"v");
    store
        .put(&key(name), value, Expect::Absent, Options::DURABLE)
        .await
        .unwrap()
}

/// Waits until the watch has told everything up to `revision`; what it told of.
async fn until(watch: &mut BoxStream<'static, Result<Batch, Error>>, revision: Revision) -> Vec<Change> {
    let mut all = Vec::new();
    loop {
        let batch = watch.next().await.expect("a watch does not end").unwrap();
        all.extend(batch.changes);
        if batch.revision >= revision {
            return all;
        }
    }
}

async fn foreign(cluster: &Cluster, key: &str, value: &[u8]) -> u64 {
    let mut client = etcd_client::Client::connect(&cluster.config().servers, None)
        .await
        .unwrap();
    let put = client.put(key, value, None).await.unwrap();
    put.header().unwrap().revision() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_learns_of_revisions_that_others_wrote_elsewhere() {
    for version in [Version::Newer, Version::Older] {
        let cluster = Cluster::start(version, &[]);
        let store = cluster.open().await;
        let first = create(&store, "a").await;
        let mut watch = store.watch("/registry/", Revision(first.0 - 1));
        assert_eq!(until(&mut watch, first).await.len(), 1);
        let elsewhere = foreign(&cluster, "elsewhere", b"x").await;
        let told = store.revision().await.unwrap();
        assert_eq!(told.0, elsewhere);
        assert!(until(&mut watch, told).await.is_empty(), "{version:?}");
        let second = create(&store, "b").await;
        let told = until(&mut watch, second).await;
        assert_eq!(told.len(), 1, "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_of_its_own_keeps_two_clusters_apart() {
    let cluster = Cluster::start(Version::Newer, &[]);
    let open = async |prefix: &str| {
        let config = Config {
            prefix: prefix.into(),
            ..cluster.config()
        };
        Etcd::open(config, Arc::new(Verbatim)).await.unwrap()
    };
    let (one, two) = (open("/registry").await, open("/other/").await);
    create(&one, "pods/default/a").await;
    let at = create(&two, "pods/default/a").await;
    let mut client = etcd_client::Client::connect(&cluster.config().servers, None)
        .await
        .unwrap();
    let found = client.get("/other/pods/default/a", None).await.unwrap();
    assert_eq!(found.kvs().len(), 1);
    let listing = two.list("/registry/pods/", Page::default()).await.unwrap();
    assert_eq!(listing.entries.len(), 1);
    assert_eq!(
        (&*listing.entries[0].key, listing.entries[0].revision),
        ("/registry/pods/default/a", at)
    );
    let mut watch = two.watch("/registry/", Revision(at.0 - 1));
    assert_eq!(&**until(&mut watch, at).await[0].key(), "/registry/pods/default/a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_etcd_refuses_is_called_too_large() {
    let cluster = Cluster::start(Version::Newer, &[]);
    let store = cluster.open().await;
    let large = Bytes::from(vec![7; 3 << 20]);
    let put = store.put(&key("large"), large, Expect::Absent, Options::DURABLE).await;
    assert!(matches!(put, Err(Error::TooLarge)), "{put:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_servers_one_compacts() {
    let cluster = Cluster::start(Version::Newer, &[]);
    let (one, two) = (cluster.open().await, cluster.open().await);
    let first = create(&one, "a").await;
    let second = create(&one, "b").await;
    one.compact(first).await.unwrap();
    two.compact(first).await.unwrap();
    let version = async || one.0.compaction().await.unwrap().version;
    assert_eq!(version().await, 1, "the second found it done");
    two.compact(second).await.unwrap();
    assert_eq!(version().await, 2);
    // The first one last saw version 1: it learns, and leaves it at that.
    let third = create(&one, "c").await;
    one.compact(third).await.unwrap();
    assert_eq!(version().await, 2);
    one.compact(third).await.unwrap();
    assert_eq!(version().await, 3);
    let mut client = etcd_client::Client::connect(&cluster.config().servers, None)
        .await
        .unwrap();
    let found = client.get("compact_rev_key", None).await.unwrap();
    assert_eq!(
        found.kvs()[0].value_str().unwrap(),
        third.to_string(),
        "as upstream writes it"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_behind_a_compaction_is_told_and_not_left_with_a_hole() {
    let mut cluster = Cluster::start(Version::Newer, &[]);
    let store = cluster.open().await;
    let first = create(&store, "a").await;
    let mut watch = store.watch("/registry/", Revision(first.0 - 1));
    until(&mut watch, first).await;
    cluster.members[0].kill();
    // While it is cut off somebody else writes and compacts: what it would go on with is gone.
    cluster.members[0].start();
    let other = cluster.open().await;
    let gone = other.delete(&key("a"), first).await.unwrap();
    let last = create(&other, "b").await;
    let mut late = store.watch("/registry/", first);
    other.compact(last).await.unwrap();
    let told = late.next().await.unwrap();
    assert!(matches!(told, Err(Error::Compacted(at)) if at > gone), "{told:?}");
    assert!(late.next().await.is_none());
}

/// Writers put and delete for as long as `done` is not; what was acknowledged.
async fn load(store: Etcd, writer: usize, done: tokio_util::sync::CancellationToken) -> BTreeMap<Revision, String> {
    let mut acknowledged = BTreeMap::new();
    for n in 0.. {
        if done.is_cancelled() {
            break;
        }
        let name = format!("w{writer}/{n:06}");
        let put = store
            .put(
                &key(&name),
                Bytes::from(name.clone()),
                Expect::Absent,
                Durability::Durable.into(),
            )
            .await;
        match put {
            Ok(revision) => {
                acknowledged.insert(revision, name);
            }
            Err(_) => tokio::task::yield_now().await,
        }
    }
    acknowledged
}

/// Kills `rounds` times under load, and checks that everything acknowledged is there and was told once, in order.
async fn survives(mut cluster: Cluster, rounds: usize, others_serve: bool) {
    let store = cluster.open().await;
    let start = store.revision().await.unwrap();
    let mut watch = store.watch("/registry/", start);
    let done = tokio_util::sync::CancellationToken::new();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        writers.spawn(load(store.clone(), writer, done.clone()));
    }
    let mut told: Vec<(Revision, String)> = Vec::new();
    let mut take = async |watch: &mut BoxStream<'static, Result<Batch, Error>>, enough: usize| {
        let before = told.len();
        while told.len() < before + enough {
            let batch = watch.next().await.unwrap().unwrap();
            for change in batch.changes {
                told.push((change.revision(), change.key()["/registry/".len()..].to_owned()));
            }
        }
        told.len()
    };
    for round in 0..rounds {
        take(&mut watch, 50).await;
        let victim = round % cluster.members.len();
        cluster.members[victim].kill();
        if others_serve {
            take(&mut watch, 50).await;
        }
        cluster.members[victim].start();
    }
    take(&mut watch, 50).await;
    done.cancel();
    let mut acknowledged = BTreeMap::new();
    for more in writers.join_all().await {
        acknowledged.extend(more);
    }
    let end = store.revision().await.unwrap();
    while told.last().is_none_or(|(last, _)| *last < end) {
        let batch = watch.next().await.unwrap().unwrap();
        told.extend(
            batch
                .changes
                .iter()
                .map(|c| (c.revision(), c.key()["/registry/".len()..].to_owned())),
        );
        if batch.revision >= end {
            break;
        }
    }
    assert!(told.is_sorted_by(|a, b| a.0 < b.0), "each once, in order");
    let told: BTreeMap<Revision, String> = told.into_iter().collect();
    for (revision, name) in &acknowledged {
        assert_eq!(told.get(revision), Some(name), "an acknowledged write was not told of");
        let entry = store.get(&key(name)).await.unwrap();
        assert_eq!(
            entry.map(|e| e.revision),
            Some(*revision),
            "an acknowledged write is lost"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_etcd_is_killed_under_load() {
    survives(Cluster::start(Version::Newer, &[]), 3, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_and_watches_move_to_another_member_when_one_is_killed() {
    survives(Cluster::of(3, Version::Newer, &[]), 2, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_moves_to_etcd_and_back_and_no_revision_goes_back() {
    use crate::store::embedded;
    use crate::store::transfer::{Failed, into_embedded, into_etcd};
    let cluster = Cluster::start(Version::Newer, &[]);
    let folder = tempfile::tempdir().unwrap();
    let (before, after) = (folder.path().join("before"), folder.path().join("after"));
    let open = |path: &std::path::Path| crate::store::Embedded::open(embedded::Config::new(path)).unwrap();
    let lives = |key: &str| key.contains("/events/").then(|| Duration::from_secs(3600));
    let values = async |store: &dyn Store| -> Vec<(String, Bytes)> {
        let listing = store.list("/registry/", Page::default()).await.unwrap();
        listing
            .entries
            .into_iter()
            .map(|e| (e.key.to_string(), e.value))
            .collect()
    };

    let source = open(&before);
    for n in 0..3000 {
        let at = source
            .put(
                &key("pods/a"),
                Bytes::from(n.to_string()),
                Expect::Absent,
                Options::DURABLE,
            )
            .await
            .unwrap();
        source.delete(&key("pods/a"), at).await.unwrap();
    }
    for name in ["pods/a", "pods/b", "events/d/e", "minions/n"] {
        let value = Bytes::from(format!("value of {name}"));
        source
            .put(&key(name), value, Expect::Absent, Options::DURABLE)
            .await
            .unwrap();
    }
    let (had, at) = (values(&source).await, source.revision().await.unwrap());
    let etcd = cluster.open().await;
    let moved = into_etcd(&source, &etcd, &lives).await.unwrap();
    assert_eq!(moved.objects, 4);
    let listing = etcd.list("/registry/", Page::default()).await.unwrap();
    assert!(
        listing.entries.iter().all(|entry| entry.revision > at),
        "{at}: {listing:?}"
    );
    assert_eq!(values(&etcd).await, had);
    assert!(matches!(into_etcd(&source, &etcd, &lives).await, Err(Failed::NotEmpty)));
    let mut client = etcd_client::Client::connect(&cluster.config().servers, None)
        .await
        .unwrap();
    let event = client.get("/registry/events/d/e", None).await.unwrap();
    assert_ne!(event.kvs()[0].lease(), 0, "an Event goes by itself");

    assert!(matches!(
        into_embedded(&etcd, &before, &lives).await,
        Err(Failed::NotEmpty)
    ));
    let last = create(&etcd, "pods/c").await;
    etcd.delete(&key("pods/c"), last).await.unwrap();
    let now = etcd.revision().await.unwrap();
    let moved = into_embedded(&etcd, &after, &lives).await.unwrap();
    assert_eq!((moved.objects, moved.revision), (4, now));
    let target = open(&after);
    assert_eq!(values(&target).await, had);
    assert!(target.revision().await.unwrap() >= now);
    let kept = target.get("/registry/pods/a").await.unwrap().unwrap();
    assert_eq!(
        kept.revision,
        etcd.get("/registry/pods/a").await.unwrap().unwrap().revision
    );
    let next = target
        .put(&key("pods/d"), Bytes::new(), Expect::Absent, Options::DURABLE)
        .await
        .unwrap();
    assert!(next > now);
}

#[tokio::test]
async fn an_etcd_that_is_not_there_is_told_of_by_its_address() {
    let config = Config {
        servers: vec!["http://127.0.0.1:1".into()],
        authority: None,
        identity: None,
        prefix: "/registry".into(),
    };
    let store = Etcd::new(&config, Arc::new(Verbatim)).await.unwrap();
    let error = store.revision().await.unwrap_err();
    assert!(failure::chain(&error).contains("refused"), "{}", failure::chain(&error));
}
