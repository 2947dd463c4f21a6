//! An API server inside the test, and how a test looks at it.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use apiserver::assemble::Server;
use apiserver::config::Config;
use apiserver::identity::User;
use apiserver::server::internal;
use apiserver::store::Memory;
use daemon::informer::{Kind, Lister, Options};
use daemon::{Clients, Informers};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Longer than anything that a test waits for, on a paused clock or not.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A running API server. It ends with this value.
#[derive(Debug)]
pub struct Cluster {
    router: axum::Router,
    informers: Informers,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    /// Removed with the server.
    _key: tempfile::NamedTempFile,
}

/// Clients of one part, as in one process: each identity is fixed by who opened the connection.
#[derive(Debug, Clone)]
pub struct InMemory {
    router: axum::Router,
    user: User,
}

fn user(name: &str, groups: &[&str]) -> User {
    User {
        name: name.to_owned(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        ..User::default()
    }
}

impl Clients for InMemory {
    fn own(&self) -> kube::Client {
        kube::Client::new(internal(self.router.clone(), self.user.clone()), "default")
    }

    fn service_account(&self, namespace: &str, name: &str) -> kube::Client {
        let user = user(
            &format!("system:serviceaccount:{namespace}:{name}"),
            &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")],
        );
        kube::Client::new(internal(self.router.clone(), user), namespace)
    }
}

impl Cluster {
    /// A server that has what a cluster is born with.
    pub async fn start() -> Cluster {
        let key = tempfile::NamedTempFile::new().expect("a temporary file");
        let pair = rcgen::KeyPair::generate().expect("a key");
        std::fs::write(key.path(), pair.serialize_pem()).expect("the key is written");
        let config = Config::for_test(key.path().to_owned());
        let server = Server::new(config, Arc::new(Memory::default()))
            .await
            .expect("a server");
        let (router, ready) = (server.api().router(), server.ready());
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let token = stop.clone();
        tasks.spawn(async move {
            server.run(token).await.expect("the server runs until it is stopped");
        });
        tokio::select! {
            () = ready.cancelled() => {}
            ended = tasks.join_next() => panic!("the server ended early: {ended:?}"),
        }
        let admin = user("admin", &["system:masters"]);
        let informers = Informers::new(kube::Client::new(internal(router.clone(), admin), "default"));
        let (token, run) = (stop.clone(), informers.clone());
        tasks.spawn(async move {
            run.run(token).await.expect("the informers run until they are stopped");
        });
        Cluster {
            router,
            informers,
            stop,
            tasks,
            _key: key,
        }
    }

    /// A client that may do anything.
    pub fn client(&self) -> kube::Client {
        self.client_as("admin", &["system:masters"])
    }

    /// A client of a user.
    pub fn client_as(&self, name: &str, groups: &[&str]) -> kube::Client {
        kube::Client::new(internal(self.router.clone(), user(name, groups)), "default")
    }

    /// What a part is given, under its own identity.
    pub fn clients(&self, name: &str, groups: &[&str]) -> Arc<dyn Clients> {
        Arc::new(InMemory {
            router: self.router.clone(),
            user: user(name, groups),
        })
    }

    /// Runs a part beside the server. Its early end fails the test at the next wait.
    pub fn spawn<F, E>(&mut self, part: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Debug + Send + 'static,
    {
        let part = part(self.stop.clone());
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let end = part.await;
            assert!(stop.is_cancelled(), "a part ended early: {end:?}");
        });
    }

    /// What a test sees of a kind: everything, by a watch.
    pub fn lister<K: Kind>(&self) -> Lister<K> {
        self.informers.of(Options::default())
    }

    /// The same, once it shows what the server has.
    pub async fn listed<K: Kind>(&self) -> Lister<K> {
        let lister = self.lister();
        lister.synced().await;
        lister
    }

    /// Creates an object in a namespace, as the administrator.
    pub async fn create<K>(&self, object: K) -> K
    where
        K: k8s_openapi::Resource<Scope = NamespaceResourceScope> + Object,
    {
        let namespace = object
            .metadata()
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        let api: Api<K> = Api::namespaced(self.client(), &namespace);
        api.create(&PostParams::default(), &object)
            .await
            .expect("the object is accepted")
    }

    /// Creates an object in no namespace, as the administrator.
    pub async fn create_global<K>(&self, object: K) -> K
    where
        K: k8s_openapi::Resource<Scope = k8s_openapi::ClusterResourceScope> + Object,
    {
        let api: Api<K> = Api::all(self.client());
        api.create(&PostParams::default(), &object)
            .await
            .expect("the object is accepted")
    }

    /// Waits until what a lister of a kind shows satisfies `test`, and returns what that gave.
    pub async fn until<K: Kind, T>(&mut self, what: &str, mut test: impl FnMut(&Lister<K>) -> Option<T>) -> T {
        let lister = self.lister::<K>();
        lister.synced().await;
        let changed = Arc::new(Notify::new());
        let tell = changed.clone();
        lister.on_change(move |_| tell.notify_one());
        let wait = async {
            loop {
                if let Some(found) = test(&lister) {
                    return found;
                }
                changed.notified().await;
            }
        };
        tokio::select! {
            biased;
            found = tokio::time::timeout(PATIENCE, wait) => match found {
                Ok(found) => found,
                Err(_) => panic!("waited in vain until {what}; there are {}", dump(&lister)),
            },
            Some(ended) = self.tasks.join_next() => panic!("a task ended while waiting until {what}: {ended:?}"),
        }
    }

    /// Waits until one object satisfies `test`.
    pub async fn until_one<K: Kind>(
        &mut self,
        what: &str,
        namespace: &str,
        name: &str,
        test: impl Fn(&K) -> bool,
    ) -> Arc<K> {
        self.until(what, |lister: &Lister<K>| {
            let typed = lister
                .get(namespace, name)?
                .typed()
                .expect("the server's objects are readable");
            test(&typed).then_some(typed)
        })
        .await
    }

    /// Waits until an object is gone.
    pub async fn until_gone<K: Kind>(&mut self, namespace: &str, name: &str) {
        self.until(&format!("{name} is gone"), |lister: &Lister<K>| {
            lister.get(namespace, name).is_none().then_some(())
        })
        .await;
    }

    /// Lets virtual time pass, for tests that nothing happens.
    pub async fn pass(&mut self, time: Duration) {
        tokio::select! {
            biased;
            () = tokio::time::sleep(time) => {}
            Some(ended) = self.tasks.join_next() => panic!("a task ended: {ended:?}"),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// An object that a client can write.
pub trait Object: Kind + k8s_openapi::Metadata<Ty = ObjectMeta> + Clone + Debug + serde::Serialize {}

impl<K: Kind + k8s_openapi::Metadata<Ty = ObjectMeta> + Clone + Debug + serde::Serialize> Object for K {}

fn dump<K: Kind>(lister: &Lister<K>) -> String {
    let texts = lister
        .list()
        .into_iter()
        .map(|entry| String::from_utf8_lossy(&entry.bytes()).into_owned());
    texts.collect::<Vec<_>>().join("\n")
}
