use super::*;
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
        assert!(matches!(
            Embedded::open(Config::new(self.directory.path())),
            Err(OpenError::Locked(_))
        ));
        store.close();
        drop(Arc::into_inner(store).expect("the test let go of it"));
        self.store = Some(Arc::new(Embedded::open(Config::new(self.directory.path())).unwrap()));
        Some(self.store())
    }
}

conformance!(embedded, OnDisk::new());
