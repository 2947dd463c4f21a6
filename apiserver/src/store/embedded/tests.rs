use std::collections::BTreeMap;

use futures::executor::block_on;
use proptest::prelude::*;

use super::simulated::{Fault, Simulated};
use super::*;
use crate::store::Durability;
use crate::store::suite::{Bench, conformance};

struct OnDisk {
    directory: tempfile::TempDir,
    store: Option<Arc<Embedded>>,
}

impl OnDisk {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Some(Arc::new(Embedded::open(Config::new(directory.path())).unwrap()));
        OnDisk { directory, store }
    }
}

impl Bench for OnDisk {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone().unwrap()
    }
    fn reopen(&mut self) -> Option<Arc<dyn Store>> {
        let store = self.store.take().unwrap();
        let taken = Embedded::open(Config::new(self.directory.path()));
        assert!(matches!(taken, Err(OpenError::Locked(_))));
        store.close();
        drop(Arc::into_inner(store).expect("the test let go of it"));
        self.store = Some(Arc::new(Embedded::open(Config::new(self.directory.path())).unwrap()));
        Some(self.store())
    }
}

conformance!(embedded, OnDisk::new());

/// Small enough that a few writes go through everything.
const SMALL: Tuning = Tuning {
    grow: 1024,
    compact_from: 2048,
    lazy_delay: Duration::from_secs(3600),
    reserve: 20,
};

fn open_with(disk: &Simulated, tuning: Tuning) -> Result<Embedded, OpenError> {
    let disk = Arc::new(disk.clone());
    Embedded::start(disk, Limits::default(), tuning, OnFailure::Report, None)
}

fn open(disk: &Simulated) -> Embedded {
    open_with(disk, SMALL).unwrap()
}

fn put(store: &Embedded, key: &str, size: usize, expect: Expect, durability: Durability) -> Result<Revision, Error> {
    let value = Bytes::from(vec![b'v'; size]);
    block_on(store.put(&key.into(), value, expect, durability.into()))
}

fn create(store: &Embedded, key: &str, size: usize) -> Result<Revision, Error> {
    put(store, key, size, Expect::Absent, Durability::Durable)
}

fn keys(store: &Embedded) -> Vec<String> {
    let listing = block_on(store.list("", Page::default())).unwrap();
    listing.entries.iter().map(|e| e.key.to_string()).collect()
}

fn revision(store: &Embedded) -> Revision {
    block_on(store.revision()).unwrap()
}

#[test]
fn an_unclean_stop_never_gives_a_revision_again() {
    let disk = Simulated::new(1);
    let store = open(&disk);
    let durable = create(&store, "a", 1).unwrap();
    let lost = put(&store, "b", 1, Expect::Absent, Durability::Lazy).unwrap();
    let crashed = disk.crash();
    drop(store);
    let store = open(&crashed);
    assert_eq!(keys(&store), ["a"], "a lazy write may be lost");
    let now = revision(&store);
    assert!(now > lost);
    assert!(create(&store, "c", 1).unwrap() > lost);
    let at = |at| Page {
        at: Some(at),
        ..Page::default()
    };
    for gone in [durable, lost, Revision(now.0 - 1)] {
        assert!(matches!(block_on(store.list("", at(gone))), Err(Error::Compacted(_))));
        let next = block_on(futures::StreamExt::next(&mut store.watch("", gone)));
        assert!(matches!(next, Some(Err(Error::Compacted(_)))));
    }
    assert!(block_on(store.list("", at(now))).is_ok());
}

#[test]
fn lazy_writes_alone_stay_below_the_reserve() {
    let disk = Simulated::new(1);
    let store = open(&disk);
    let mut at = put(&store, "lease", 9, Expect::Absent, Durability::Lazy).unwrap();
    for _ in 0..100 {
        at = put(&store, "lease", 9, Expect::At(at), Durability::Lazy).unwrap();
    }
    let crashed = disk.crash();
    drop(store);
    assert!(revision(&open(&crashed)) >= at);
}

#[test]
fn lazy_writes_of_a_key_are_written_once() {
    let disk = Simulated::new(1);
    let tuning = Tuning {
        reserve: 100_000,
        compact_from: u64::MAX,
        ..SMALL
    };
    let store = open_with(&disk, tuning).unwrap();
    let before = disk.written();
    let mut at = put(&store, "lease", 500, Expect::Absent, Durability::Lazy).unwrap();
    for _ in 0..1000 {
        at = put(&store, "lease", 500, Expect::At(at), Durability::Lazy).unwrap();
    }
    create(&store, "a", 1).unwrap();
    assert!(disk.written() - before < 1000);
    let crashed = disk.crash();
    drop(store);
    let store = open_with(&crashed, tuning).unwrap();
    assert_eq!(
        block_on(store.get("lease")).unwrap().unwrap().revision,
        at,
        "it went with the durable write"
    );
}

#[test]
fn lazy_writes_reach_the_disk_by_themselves() {
    let disk = Simulated::new(1);
    let tuning = Tuning {
        lazy_delay: Duration::from_millis(1),
        ..SMALL
    };
    let store = open_with(&disk, tuning).unwrap();
    put(&store, "lease", 5, Expect::Absent, Durability::Lazy).unwrap();
    // Each is a disk of its own; the store's is not touched by looking at it.
    let mut tries = 0;
    while keys(&open(&disk.peek())).is_empty() {
        tries += 1;
        assert!(tries < 100_000);
        std::thread::yield_now();
    }
}

#[test]
fn a_failed_sync_ends_the_store_and_nothing_unsynced_was_shown() {
    let disk = Simulated::new(1);
    let store = open(&disk);
    create(&store, "a", 1).unwrap();
    disk.arm(Some(Fault::Sync { nth: 1 }));
    assert!(matches!(create(&store, "b", 1), Err(Error::Unavailable(_))));
    assert_eq!(block_on(store.failed()).to_string(), "the disk did not take it");
    assert_eq!(keys(&store), ["a"]);
    assert!(matches!(create(&store, "c", 1), Err(Error::Unavailable(_))));
    assert!(matches!(
        block_on(store.delete(&"a".into(), Revision(2))),
        Err(Error::Unavailable(_))
    ));
}

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_recovers() {
    let disk = Simulated::new(1);
    let tuning = Tuning {
        compact_from: u64::MAX,
        ..TUNING
    };
    let store = open_with(&disk, tuning).unwrap();
    disk.limit(disk.used());
    let mut written = Vec::new();
    let refused = loop {
        let key = format!("k{:04}", written.len());
        match create(&store, &key, 2000) {
            Ok(revision) => written.push((key, revision)),
            Err(error) => break error,
        }
        assert!(written.len() < 1000);
    };
    assert!(matches!(refused, Error::Full(_)));
    assert!(written.len() > 400);
    assert!(matches!(
        put(&store, "lazy", 2000, Expect::Absent, Durability::Lazy),
        Err(Error::Full(_))
    ));
    let names: Vec<String> = written.iter().map(|(key, _)| key.clone()).collect();
    assert_eq!(keys(&store), names);
    let end = written.last().unwrap().1;
    assert_eq!(revision(&store), end, "a refused write takes no revision");
    // What is full can be emptied.
    let (key, at) = &written[0];
    block_on(store.delete(&(&**key).into(), *at)).unwrap();
    let crashed = disk.crash();
    let again = open_with(&crashed, tuning).unwrap();
    assert_eq!(keys(&again), names[1..]);
    disk.limit(u64::MAX);
    assert!(
        create(&store, "more", 2000).is_err(),
        "the power went off under this one"
    );
    crashed.limit(u64::MAX);
    create(&again, "more", 2000).unwrap();
    assert_eq!(keys(&again).len(), names.len());
}

#[test]
fn a_write_that_finds_no_space_leaves_nothing_behind() {
    let disk = Simulated::new(3);
    let store = open(&disk);
    create(&store, "a", 10).unwrap();
    let before = revision(&store);
    disk.limit(disk.used());
    assert!(matches!(create(&store, "large", 5000), Err(Error::Full(_))));
    assert_eq!(revision(&store), before);
    disk.limit(u64::MAX);
    create(&store, "b", 10).unwrap();
    let crashed = disk.crash();
    drop(store);
    assert_eq!(keys(&open(&crashed)), ["a", "b"]);
}

#[test]
fn a_long_log_becomes_a_snapshot_and_old_files_go() {
    let disk = Simulated::new(5);
    let store = open(&disk);
    let mut at = create(&store, "a", 100).unwrap();
    for n in 0..500 {
        at = put(&store, "a", 100, Expect::At(at), Durability::Durable).unwrap();
        if n % 100 == 0 {
            create(&store, &format!("b{n}"), 10).unwrap();
        }
    }
    store.close();
    let names = disk.names().unwrap();
    assert!(names.iter().any(|n| n.starts_with("snapshot.")), "{names:?}");
    assert!(names.len() <= 6, "{names:?}");
    let store = open(&disk);
    assert_eq!(keys(&store).len(), 6);
    assert_eq!(block_on(store.get("a")).unwrap().unwrap().revision, at);
    assert_eq!(block_on(store.get("a")).unwrap().unwrap().created, Revision(2));
}

#[test]
fn damage_to_what_was_acknowledged_is_refused() {
    let tuning = Tuning {
        compact_from: u64::MAX,
        ..SMALL
    };
    let disk = Simulated::new(1);
    let store = open_with(&disk, tuning).unwrap();
    for n in 0..10 {
        create(&store, &format!("k{n}"), 100).unwrap();
    }
    store.close();
    for at in [3, 20, 4096 + 40, 4096 + 400] {
        let damaged = disk.peek();
        assert!(damaged.corrupt("log.1", at));
        let refused = open_with(&damaged, tuning);
        assert!(
            matches!(refused, Err(OpenError::Damaged { .. } | OpenError::Newer { .. })),
            "{at}"
        );
    }
    let newer = disk.peek();
    newer.corrupt("log.1", 16);
    assert!(matches!(
        open_with(&newer, tuning),
        Err(OpenError::Newer { version: 33, .. })
    ));
    let lost = disk.peek();
    lost.rename("log.1", "log.2").unwrap();
    assert!(matches!(open_with(&lost, tuning), Err(OpenError::Missing(_))));
    assert_eq!(keys(&open_with(&disk, tuning).unwrap()).len(), 10);
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let disk = Simulated::new(5);
    let store = open(&disk);
    for n in 0..100 {
        create(&store, &format!("k{n}"), 100).unwrap();
    }
    store.close();
    let snapshot = disk
        .names()
        .unwrap()
        .into_iter()
        .find(|n| n.starts_with("snapshot."))
        .unwrap();
    for at in [0, 20, 45, 60, 500] {
        let damaged = disk.peek();
        assert!(damaged.corrupt(&snapshot, at));
        assert!(
            matches!(open_with(&damaged, SMALL), Err(OpenError::Damaged { .. })),
            "{at}"
        );
    }
    let cut = disk.peek();
    cut.cut(&snapshot, 600);
    assert!(matches!(open_with(&cut, SMALL), Err(OpenError::Damaged { .. })));
}

#[derive(Debug, Clone)]
enum Step {
    /// Writes of several callers at once; keys, sizes, laziness.
    Put(Vec<(u8, u16, bool)>),
    Delete(u8),
    CleanStop,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let one = (0u8..12, prop_oneof![0u16..300, 0u16..3000], any::<bool>());
    prop_oneof![
        12 => proptest::collection::vec(one, 1..6).prop_map(Step::Put),
        3 => (0u8..12).prop_map(Step::Delete),
        1 => Just(Step::CleanStop),
        1 => Just(Step::Crash),
    ]
}

/// What may be there after a crash.
#[derive(Debug, Default, Clone)]
struct Model {
    /// What each key was last durably; `None` is absent.
    durable: BTreeMap<String, Option<Revision>>,
    /// What else it may be: lazily written since, or sent and not answered.
    perhaps: BTreeMap<String, Vec<Option<Revision>>>,
    /// The newest revision that anybody was shown.
    shown: Revision,
}

impl Model {
    fn durable(&mut self, key: &str, now: Option<Revision>) {
        // A durable write takes all lazy ones before it along, of other keys too.
        self.settle(now.unwrap_or(self.shown));
        self.perhaps.remove(key);
        self.durable.insert(key.into(), now);
    }

    /// Everything up to `revision` is on the disk.
    fn settle(&mut self, revision: Revision) {
        for (key, values) in &mut self.perhaps {
            if let Some(at) = values.iter().rposition(|v| v.is_some_and(|v| v <= revision)) {
                self.durable.insert(key.clone(), values[at]);
                values.drain(..=at);
            }
        }
    }

    fn check(&self, store: &Embedded) {
        let listing = block_on(store.list("", Page::default())).unwrap();
        let found: BTreeMap<&str, Revision> = listing.entries.iter().map(|e| (&*e.key, e.revision)).collect();
        for entry in &listing.entries {
            let size = entry.value.len();
            assert_eq!(entry.value, vec![b'v'; size]);
        }
        for n in 0..12 {
            let key = format!("k{n}");
            let now = found.get(&*key).copied();
            let durable = self.durable.get(&key).copied().flatten();
            let perhaps = self.perhaps.get(&key).map(Vec::as_slice).unwrap_or_default();
            // A revision that was never answered can be any above those shown.
            let unanswered =
                perhaps.contains(&Some(Revision(u64::MAX))) && now.is_some_and(|n| n > durable.unwrap_or_default());
            assert!(
                now == durable || perhaps.contains(&now) || unanswered,
                "{key}: {now:?} {self:?}"
            );
        }
        assert!(listing.revision >= self.shown);
    }
}

fn crash_campaign(seed: u64, steps: Vec<Step>, power: Vec<u64>) {
    let mut disk = Simulated::new(seed);
    let mut power = power.into_iter();
    let mut model = Model::default();
    disk.arm(power.next().map(|at| Fault::PowerOff { at }));
    // The power may go off in the first start already.
    let mut store = reopen(&mut disk, &mut power);
    for step in steps {
        let alive = match step {
            Step::Put(writes) => put_all(&store, &mut model, writes),
            Step::Delete(key) => {
                let key = format!("k{key}");
                match block_on(store.get(&key)).unwrap() {
                    None => true,
                    Some(entry) => match block_on(store.delete(&(&*key).into(), entry.revision)) {
                        Ok(at) => {
                            model.shown = at;
                            model.durable(&key, None);
                            model.settle(at);
                            true
                        }
                        Err(Error::Unavailable(_)) => {
                            model.perhaps.entry(key).or_default().push(None);
                            false
                        }
                        Err(error) => panic!("{error}"),
                    },
                }
            }
            Step::CleanStop => {
                let before = revision(&store);
                store.close();
                let clean = block_on(async { futures::FutureExt::now_or_never(store.failed()).is_none() });
                if clean {
                    model.settle(before);
                }
                drop(store);
                if !clean {
                    disk = disk.crash();
                }
                // A disk that is still on loses nothing of a clean stop; one that goes off while we open does not either.
                store = reopen(&mut disk, &mut power);
                if clean {
                    assert!(revision(&store) >= before);
                }
                model.check(&store);
                model.forget_doubts(&store);
                continue;
            }
            Step::Crash => false,
        };
        if alive {
            model.check(&store);
        } else {
            disk = disk.crash();
            drop(store);
            store = reopen(&mut disk, &mut power);
            model.check(&store);
            model.forget_doubts(&store);
        }
    }
}

impl Model {
    /// After a restart what is there is durable.
    fn forget_doubts(&mut self, store: &Embedded) {
        let listing = block_on(store.list("", Page::default())).unwrap();
        self.perhaps.clear();
        self.durable = listing
            .entries
            .iter()
            .map(|e| (e.key.to_string(), Some(e.revision)))
            .collect();
        self.shown = listing.revision;
    }
}

/// Several callers at once; false: the power is off.
fn put_all(store: &Embedded, model: &mut Model, writes: Vec<(u8, u16, bool)>) -> bool {
    let mut seen = Vec::new();
    let mut jobs = Vec::new();
    for (key, size, lazy) in writes {
        let key = format!("k{key}");
        if seen.contains(&key) {
            continue;
        }
        seen.push(key.clone());
        let expect = match block_on(store.get(&key)).unwrap() {
            Some(entry) => Expect::At(entry.revision),
            None => Expect::Absent,
        };
        let durability = if lazy { Durability::Lazy } else { Durability::Durable };
        let value = Bytes::from(vec![b'v'; size.into()]);
        let name: Key = (&*key).into();
        jobs.push(async move { (key, lazy, store.put(&name, value, expect, durability.into()).await) });
    }
    let mut results = block_on(futures::future::join_all(jobs));
    results.sort_by_key(|(_, _, result)| result.as_ref().map_or(u64::MAX, |r| r.0));
    let mut alive = true;
    for (key, lazy, result) in results {
        match result {
            Ok(at) => {
                assert!(at > model.shown, "{at} was shown before");
                model.shown = at;
                match lazy {
                    false => model.durable(&key, Some(at)),
                    true => model.perhaps.entry(key).or_default().push(Some(at)),
                }
            }
            Err(Error::Unavailable(_)) => {
                alive = false;
                model.perhaps.entry(key).or_default().push(Some(Revision(u64::MAX)));
            }
            Err(error) => panic!("{error}"),
        }
    }
    alive
}

/// Opens; each time the power goes off meanwhile, again.
fn reopen(disk: &mut Simulated, power: &mut impl Iterator<Item = u64>) -> Embedded {
    loop {
        match open_with(disk, SMALL) {
            Ok(store) => return store,
            Err(OpenError::Io(_)) if disk.is_off() => {
                *disk = disk.crash();
                disk.arm(power.next().map(|at| Fault::PowerOff { at }));
            }
            Err(error) => panic!("{error} {:?}", disk.names()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_is_lost_with_the_power_what_was_acknowledged_is_there(
        seed in any::<u64>(),
        steps in proptest::collection::vec(step(), 1..60),
        power in proptest::collection::vec(1u64..120, 0..6),
    ) {
        crash_campaign(seed, steps, power);
    }

    #[test]
    fn a_log_cut_anywhere_is_a_beginning_of_what_was_written(cut in 0usize..6000, count in 1usize..12) {
        let tuning = Tuning { compact_from: u64::MAX, ..SMALL };
        let disk = Simulated::new(1);
        let store = open_with(&disk, tuning).unwrap();
        let names: Vec<String> = (0..count).map(|n| format!("k{n:02}")).collect();
        for name in &names {
            create(&store, name, 100).unwrap();
        }
        store.close();
        disk.cut("log.1", cut);
        match open_with(&disk, tuning) {
            Ok(store) => {
                let found = keys(&store);
                prop_assert_eq!(&found[..], &names[..found.len()]);
                create(&store, "more", 100).unwrap();
                store.close();
                prop_assert_eq!(keys(&open_with(&disk, tuning).unwrap()).len(), found.len() + 1);
            }
            Err(error) => prop_assert!(cut < 4096, "{error}"),
        }
    }

    #[test]
    fn a_changed_byte_is_found_or_was_in_the_last_frame(at in 0usize..6000) {
        let tuning = Tuning { compact_from: u64::MAX, ..SMALL };
        let disk = Simulated::new(1);
        let store = open_with(&disk, tuning).unwrap();
        for n in 0..10 {
            create(&store, &format!("k{n}"), 100).unwrap();
        }
        store.close();
        if disk.corrupt("log.1", at) {
            match open_with(&disk, tuning) {
                // The padding of a header or a frame, the space that is not used, or the note of a clean stop.
                Ok(store) => prop_assert_eq!(keys(&store).len(), 10),
                Err(OpenError::Damaged { .. } | OpenError::Newer { .. }) => {}
                Err(error) => prop_assert!(false, "{error}"),
            }
        }
    }
}
