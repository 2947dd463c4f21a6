//! What every implementation of [`Store`] does. `conformance!(name, bench)` makes a test of each case; `bench` is an
//! expression of a type that implements [`Bench`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};

use super::{Change, Durability, Error, Expect, Key, Options, Page, Revision, Store};

/// A store under test. Dropping it leaves nothing behind.
pub(super) trait Bench: Send {
    fn store(&self) -> Arc<dyn Store>;
    /// Stops in good order and opens again; `None` where nothing outlives the process.
    fn reopen(&mut self) -> Option<Arc<dyn Store>>;
    /// Whether a compaction is written down in the store and takes a revision itself.
    fn compaction_is_a_write(&self) -> bool {
        false
    }
    /// Whether history outlives a restart.
    fn history_lasts(&self) -> bool {
        false
    }
}

macro_rules! conformance {
    ($name:ident, $bench:expr) => {
        mod $name {
            use super::*;
            use $crate::store::suite;
            conformance!(@cases $bench;
                a_put_expects_and_returns_revisions,
                a_delete_expects_a_revision,
                of_concurrent_puts_one_wins,
                a_list_is_ordered_and_paged,
                a_list_at_a_revision_is_what_was_there,
                a_watch_tells_each_change_once_in_order,
                a_watch_from_anywhere_leaves_no_hole,
                a_watch_of_the_future_waits_for_it,
                compaction_forgets_history_and_nothing_else,
                lazy_writes_are_seen_at_once_and_follow_the_same_rules,
                an_entry_with_a_time_to_live_goes_by_itself,
                values_may_be_empty_or_large,
                what_was_written_is_there_after_a_restart,
                revisions_go_on_after_a_restart,
            );
        }
    };
    (@cases $bench:expr; $($case:ident,)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let mut bench = $bench;
            suite::$case(&mut bench).await;
        })*
    };
}
pub(super) use conformance;

fn key(name: &str) -> Key {
    format!("/registry/{name}").into()
}

async fn create(store: &dyn Store, name: &str, value: &'static str) -> Revision {
    let value = Bytes::from_static(value.as_bytes());
    store
        .put(&key(name), value, Expect::Absent, Options::DURABLE)
        .await
        .unwrap()
}

async fn update(store: &dyn Store, name: &str, value: &'static str) -> Revision {
    let at = store.get(&key(name)).await.unwrap().unwrap().revision;
    let value = Bytes::from_static(value.as_bytes());
    store
        .put(&key(name), value, Expect::At(at), Options::DURABLE)
        .await
        .unwrap()
}

async fn delete(store: &dyn Store, name: &str) -> Revision {
    let at = store.get(&key(name)).await.unwrap().unwrap().revision;
    store.delete(&key(name), at).await.unwrap()
}

/// `a=1 b=2`, without the root.
async fn list(store: &dyn Store, prefix: &str, page: Page) -> Result<String, Error> {
    let listing = store.list(&key(prefix), page).await?;
    let mut words: Vec<String> = listing
        .entries
        .iter()
        .map(|e| format!("{}={}", &e.key["/registry/".len()..], String::from_utf8_lossy(&e.value)))
        .collect();
    if listing.more {
        words.push("…".into());
    }
    Ok(words.join(" "))
}

fn at(revision: Revision) -> Page {
    Page {
        at: Some(revision),
        ..Page::default()
    }
}

/// `+a=1@2` created, `~a=2@3` updated, `-a=2@4` deleted.
fn told(change: &Change) -> String {
    let (sign, entry) = match change {
        Change::Put { entry, previous: None } => ("+", entry),
        Change::Put {
            entry,
            previous: Some(previous),
        } => {
            assert!(previous.revision < entry.revision && previous.created == entry.created);
            ("~", entry)
        }
        Change::Delete { previous, .. } => ("-", previous),
    };
    let value = String::from_utf8_lossy(&entry.value);
    format!(
        "{sign}{}={value}@{}",
        &entry.key["/registry/".len()..],
        change.revision()
    )
}

/// Changes up to `revision`.
async fn changes(store: &dyn Store, prefix: &str, after: Revision, revision: Revision) -> Vec<String> {
    let mut watch = store.watch(&key(prefix), after);
    let (mut all, mut last) = (Vec::new(), after);
    while last < revision {
        let batch = watch.next().await.expect("a watch does not end").unwrap();
        assert!(batch.revision > last);
        assert!(
            batch
                .changes
                .iter()
                .all(|c| c.revision() > last && c.revision() <= batch.revision)
        );
        last = batch.revision;
        all.extend(batch.changes.iter().map(told));
    }
    all
}

pub(super) async fn a_put_expects_and_returns_revisions(bench: &mut impl Bench) {
    let store = &*bench.store();
    let start = store.revision().await.unwrap();
    assert!(start.0 > 0);
    let created = create(store, "a", "1").await;
    assert_eq!(created.0, start.0 + 1);
    assert_eq!(store.revision().await.unwrap(), created);
    let taken = store
        .put(&key("a"), Bytes::new(), Expect::Absent, Options::DURABLE)
        .await;
    let Err(Error::Conflict { current: Some(current) }) = taken else {
        panic!("{taken:?}")
    };
    assert_eq!((current.revision, &current.value[..]), (created, &b"1"[..]));
    let absent = store
        .put(&key("b"), Bytes::new(), Expect::At(created), Options::DURABLE)
        .await;
    assert!(matches!(absent, Err(Error::Conflict { current: None })));
    let updated = update(store, "a", "2").await;
    assert_eq!(updated.0, created.0 + 1, "a refused write takes no revision");
    let stale = store
        .put(&key("a"), Bytes::new(), Expect::At(created), Options::DURABLE)
        .await;
    assert!(matches!(stale, Err(Error::Conflict { current: Some(_) })));
    let entry = store.get(&key("a")).await.unwrap().unwrap();
    assert_eq!(
        (entry.revision, entry.created, &entry.value[..]),
        (updated, created, &b"2"[..])
    );
    assert!(store.get(&key("b")).await.unwrap().is_none());
}

pub(super) async fn a_delete_expects_a_revision(bench: &mut impl Bench) {
    let store = &*bench.store();
    let created = create(store, "a", "1").await;
    let wrong = store.delete(&key("a"), Revision(created.0 - 1)).await;
    assert!(matches!(wrong, Err(Error::Conflict { current: Some(_) })));
    assert_eq!(store.delete(&key("a"), created).await.unwrap().0, created.0 + 1);
    assert!(store.get(&key("a")).await.unwrap().is_none());
    let gone = store.delete(&key("a"), created).await;
    assert!(matches!(gone, Err(Error::Conflict { current: None })));
    let again = create(store, "a", "2").await;
    let entry = store.get(&key("a")).await.unwrap().unwrap();
    assert_eq!((entry.created, entry.revision), (again, again));
}

pub(super) async fn of_concurrent_puts_one_wins(bench: &mut impl Bench) {
    let store = bench.store();
    let created = create(&*store, "a", "1").await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..32u32 {
        let store = store.clone();
        tasks.spawn(async move {
            let value = Bytes::from(n.to_string());
            let own = create(&*store, &format!("own/{n:02}"), "x").await;
            let won = store.put(&key("a"), value, Expect::At(created), Options::DURABLE).await;
            (own, won)
        });
    }
    let results = tasks.join_all().await;
    let mut revisions: Vec<Revision> = results.iter().map(|(own, _)| *own).collect();
    let won: Vec<Revision> = results.into_iter().filter_map(|(_, won)| won.ok()).collect();
    assert_eq!(won.len(), 1);
    revisions.extend(won);
    revisions.sort();
    let all: Vec<Revision> = (0..33).map(|n| Revision(created.0 + 1 + n)).collect();
    assert_eq!(
        revisions, all,
        "each write has a revision of its own, and none is left out"
    );
    assert_eq!(changes(&*store, "", created, all[32]).await.len(), 33);
}

pub(super) async fn a_list_is_ordered_and_paged(bench: &mut impl Bench) {
    let store = &*bench.store();
    for name in ["pods/b/2", "pods/a/1", "podsx/a", "pod/z", "pods/b/1", "pods/a-b/1"] {
        create(store, name, "v").await;
    }
    let all = list(store, "pods/", Page::default()).await.unwrap();
    assert_eq!(all, "pods/a-b/1=v pods/a/1=v pods/b/1=v pods/b/2=v");
    let page = |after: Option<&str>, limit| Page {
        after: after.map(key),
        limit,
        at: None,
    };
    assert_eq!(
        list(store, "pods/", page(None, 2)).await.unwrap(),
        "pods/a-b/1=v pods/a/1=v …"
    );
    assert_eq!(
        list(store, "pods/", page(Some("pods/a/1"), 2)).await.unwrap(),
        "pods/b/1=v pods/b/2=v"
    );
    assert_eq!(
        list(store, "pods/", page(Some("pods/a/x"), 1)).await.unwrap(),
        "pods/b/1=v …"
    );
    assert_eq!(list(store, "pods/", page(Some("pods/b/2"), 1)).await.unwrap(), "");
    assert_eq!(
        list(store, "pods/", page(Some("a"), 1)).await.unwrap(),
        "pods/a-b/1=v …"
    );
    assert_eq!(list(store, "none/", Page::default()).await.unwrap(), "");
    let listing = store.list(&key("pods/"), Page::default()).await.unwrap();
    assert_eq!(listing.revision, store.revision().await.unwrap());
}

pub(super) async fn a_list_at_a_revision_is_what_was_there(bench: &mut impl Bench) {
    let store = &*bench.store();
    let mut states = Vec::new();
    let mut note = async |revision: Revision| {
        states.push((revision, list(store, "", Page::default()).await.unwrap()));
    };
    note(create(store, "b", "1").await).await;
    note(create(store, "d", "1").await).await;
    note(update(store, "b", "2").await).await;
    note(create(store, "a", "1").await).await;
    note(delete(store, "b").await).await;
    note(delete(store, "d").await).await;
    note(create(store, "b", "3").await).await;
    note(create(store, "e", "1").await).await;
    note(delete(store, "e").await).await;
    for (revision, state) in &states {
        assert_eq!(list(store, "", at(*revision)).await.unwrap(), *state, "at {revision}");
        let mut pages = Vec::new();
        let mut after = None;
        loop {
            let page = Page {
                after: after.clone(),
                limit: 1,
                at: Some(*revision),
            };
            let listing = store.list(&key(""), page).await.unwrap();
            assert_eq!(listing.revision, *revision);
            after = listing.entries.last().map(|e| e.key.clone());
            pages.extend(
                listing
                    .entries
                    .iter()
                    .map(|e| format!("{}={}", &e.key[10..], String::from_utf8_lossy(&e.value))),
            );
            if !listing.more {
                break;
            }
        }
        assert_eq!(pages.join(" "), *state, "in pages at {revision}");
    }
    let future = Revision(store.revision().await.unwrap().0 + 1);
    assert!(matches!(list(store, "", at(future)).await, Err(Error::Future { asked, .. }) if asked == future));
}

pub(super) async fn a_watch_tells_each_change_once_in_order(bench: &mut impl Bench) {
    let store = &*bench.store();
    let start = store.revision().await.unwrap();
    create(store, "pods/a", "1").await;
    create(store, "nodes/n", "1").await;
    update(store, "pods/a", "2").await;
    let end = delete(store, "pods/a").await;
    let n = start.0;
    let mine = [
        format!("+pods/a=1@{}", n + 1),
        format!("~pods/a=2@{}", n + 3),
        format!("-pods/a=2@{}", n + 4),
    ];
    assert_eq!(changes(store, "pods/", start, end).await, mine);
    assert_eq!(changes(store, "pods/", Revision(n + 1), end).await, mine[1..]);
    assert_eq!(changes(store, "", start, end).await.len(), 4);
    let mut quiet = store.watch(&key("pods/"), end);
    assert!(quiet.next().now_or_never().is_none());
    create(store, "pods/b", "1").await;
    let batch = quiet.next().await.unwrap().unwrap();
    assert_eq!(
        batch.changes.iter().map(told).collect::<Vec<_>>(),
        [format!("+pods/b=1@{}", n + 5)]
    );
}

pub(super) async fn a_watch_from_anywhere_leaves_no_hole(bench: &mut impl Bench) {
    let store = bench.store();
    let start = store.revision().await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let store = store.clone();
        tasks.spawn(async move {
            for n in 0..50 {
                create(&*store, &format!("w{writer}/{n}"), "x").await;
            }
            Vec::new()
        });
    }
    let end = Revision(start.0 + 200);
    for _ in 0..4 {
        let store = store.clone();
        tasks.spawn(async move {
            let from = store.list(&key(""), Page::default()).await.unwrap();
            let mut all: Vec<String> = from
                .entries
                .iter()
                .map(|e| format!("+{}=x@{}", &e.key[10..], e.revision))
                .collect();
            all.extend(changes(&*store, "", from.revision, end).await);
            all
        });
    }
    for mut all in tasks.join_all().await {
        if !all.is_empty() {
            assert_eq!(all.len(), 200);
            all.sort();
            all.dedup();
            assert_eq!(all.len(), 200);
        }
    }
}

pub(super) async fn a_watch_of_the_future_waits_for_it(bench: &mut impl Bench) {
    let store = &*bench.store();
    let start = store.revision().await.unwrap();
    let mut watch = store.watch(&key(""), Revision(start.0 + 2));
    create(store, "a", "1").await;
    create(store, "b", "1").await;
    assert!(watch.next().now_or_never().is_none());
    create(store, "c", "1").await;
    let batch = watch.next().await.unwrap().unwrap();
    assert_eq!(
        batch.changes.iter().map(told).collect::<Vec<_>>(),
        [format!("+c=1@{}", start.0 + 3)]
    );
}

pub(super) async fn compaction_forgets_history_and_nothing_else(bench: &mut impl Bench) {
    let store = &*bench.store();
    let first = create(store, "a", "1").await;
    let second = update(store, "a", "2").await;
    let third = create(store, "b", "1").await;
    let mut slow = store.watch(&key(""), first);
    store.compact(second).await.unwrap();
    assert!(matches!(list(store, "", at(first)).await, Err(Error::Compacted(at)) if at == second));
    assert_eq!(list(store, "", at(second)).await.unwrap(), "a=2");
    assert_eq!(list(store, "", Page::default()).await.unwrap(), "a=2 b=1");
    assert_eq!(changes(store, "", second, third).await, [format!("+b=1@{third}")]);
    assert!(matches!(slow.next().await, Some(Err(Error::Compacted(_)))));
    assert!(slow.next().await.is_none(), "an error ends a watch");
    store
        .compact(first)
        .await
        .unwrap_or_else(|error| assert!(matches!(error, Error::Compacted(_))));
    assert!(matches!(list(store, "", at(first)).await, Err(Error::Compacted(_))));
    let now = store.revision().await.unwrap();
    assert!(matches!(
        store.compact(Revision(now.0 + 1)).await,
        Err(Error::Future { .. })
    ));
    assert_eq!(store.revision().await.unwrap(), now);
    assert!(now == third || bench.compaction_is_a_write());
}

pub(super) async fn lazy_writes_are_seen_at_once_and_follow_the_same_rules(bench: &mut impl Bench) {
    let store = &*bench.store();
    let lazy = Options::from(Durability::Lazy);
    let start = store.revision().await.unwrap();
    let mut at = store
        .put(&key("a"), Bytes::from_static(b"0"), Expect::Absent, lazy)
        .await
        .unwrap();
    for value in ["1", "2", "3"] {
        let next = store
            .put(&key("a"), Bytes::from_static(value.as_bytes()), Expect::At(at), lazy)
            .await
            .unwrap();
        assert_eq!(next.0, at.0 + 1);
        at = next;
    }
    let stale = store.put(&key("a"), Bytes::new(), Expect::At(start), lazy).await;
    assert!(matches!(stale, Err(Error::Conflict { .. })));
    create(store, "b", "1").await;
    at = store
        .put(&key("a"), Bytes::from_static(b"4"), Expect::At(at), lazy)
        .await
        .unwrap();
    assert_eq!(list(store, "", Page::default()).await.unwrap(), "a=4 b=1");
    let end = store.delete(&key("a"), at).await.unwrap();
    assert_eq!(changes(store, "", start, end).await.len(), 7);
    assert_eq!(list(store, "", Page::default()).await.unwrap(), "b=1");
}

pub(super) async fn an_entry_with_a_time_to_live_goes_by_itself(bench: &mut impl Bench) {
    let store = &*bench.store();
    let start = store.revision().await.unwrap();
    let short = Options {
        durability: Durability::Lazy,
        time_to_live: Some(Duration::from_millis(50)),
    };
    let kept = store
        .put(&key("kept"), Bytes::from_static(b"1"), Expect::Absent, short)
        .await
        .unwrap();
    store
        .put(&key("gone"), Bytes::from_static(b"1"), Expect::Absent, short)
        .await
        .unwrap();
    store
        .put(
            &key("kept"),
            Bytes::from_static(b"2"),
            Expect::At(kept),
            Options::DURABLE,
        )
        .await
        .unwrap();
    let told = changes(store, "", start, Revision(start.0 + 4)).await;
    assert_eq!(told[3], format!("-gone=1@{}", start.0 + 4));
    assert_eq!(list(store, "", Page::default()).await.unwrap(), "kept=2");
}

pub(super) async fn values_may_be_empty_or_large(bench: &mut impl Bench) {
    let large = Bytes::from(vec![7; 3 << 20]);
    for (name, value) in [("large", &large), ("empty", &Bytes::new())] {
        let store = bench.store();
        store
            .put(&key(name), value.clone(), Expect::Absent, Options::DURABLE)
            .await
            .unwrap();
        assert_eq!(store.get(&key(name)).await.unwrap().unwrap().value, value);
    }
    if let Some(store) = bench.reopen() {
        assert_eq!(store.get(&key("large")).await.unwrap().unwrap().value, large);
        assert!(store.get(&key("empty")).await.unwrap().unwrap().value.is_empty());
    }
}

pub(super) async fn what_was_written_is_there_after_a_restart(bench: &mut impl Bench) {
    let store = bench.store();
    create(&*store, "a", "1").await;
    create(&*store, "b", "1").await;
    update(&*store, "a", "2").await;
    delete(&*store, "b").await;
    let lazy = Options::from(Durability::Lazy);
    store
        .put(&key("lazy"), Bytes::from_static(b"1"), Expect::Absent, lazy)
        .await
        .unwrap();
    let before = store.list(&key(""), Page::default()).await.unwrap();
    drop(store);
    let Some(store) = bench.reopen() else { return };
    let after = store.list(&key(""), Page::default()).await.unwrap();
    let all = |listing: &super::Listing| -> Vec<_> {
        let entries = listing.entries.iter();
        entries
            .map(|e| (e.key.clone(), e.value.clone(), e.revision, e.created))
            .collect()
    };
    assert_eq!(all(&before), all(&after));
    assert_eq!(after.entries.len(), 2);
}

pub(super) async fn revisions_go_on_after_a_restart(bench: &mut impl Bench) {
    let store = bench.store();
    let first = create(&*store, "a", "1").await;
    let last = update(&*store, "a", "2").await;
    drop(store);
    let Some(store) = bench.reopen() else { return };
    assert_eq!(
        store.revision().await.unwrap(),
        last,
        "exact after a stop in good order"
    );
    let old = list(&*store, "", at(first)).await;
    match bench.history_lasts() {
        true => assert_eq!(old.unwrap(), "a=1"),
        false => assert!(matches!(old, Err(Error::Compacted(_)))),
    }
    let next = create(&*store, "b", "1").await;
    assert_eq!(next.0, last.0 + 1);
    assert_eq!(changes(&*store, "", last, next).await, [format!("+b=1@{next}")]);
}
