//! The certificates that pods trust the API server by, in a ConfigMap of every namespace.

use std::collections::BTreeMap;
use std::sync::Arc;

use daemon::informer::{Change, Lister};
use daemon::{Next, Queue};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Key, enqueue_each};
use crate::{Error, is_conflict, is_gone, is_terminating};

const NAME: &str = "kube-root-ca.crt";
const FILE: &str = "ca.crt";

pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let Some(roots) = context.config.root_ca.clone() else {
        stop.cancelled().await;
        return Ok(());
    };
    let queue = Queue::new();
    let namespaces = context.all::<Namespace>();
    // Of all ConfigMaps only those of this name are watched.
    let maps: Lister<ConfigMap> = context.informers.of(daemon::Options {
        fields: format!("metadata.name={NAME}"),
        ..Default::default()
    });
    enqueue_each(&namespaces, &queue);
    let into = queue.clone();
    maps.on_change(move |change| match change {
        Change::Applied { new: map, .. } | Change::Deleted { old: map } => into.add(Key::new("", &map.namespace)),
    });
    namespaces.synced().await;
    maps.synced().await;
    let client = context.client.clone();
    let listers = Arc::new((namespaces, maps, roots));
    context
        .work(queue, stop, move |key| reconcile(client.clone(), listers.clone(), key))
        .await
}

fn wanted(namespace: &str, roots: &str) -> ConfigMap {
    let why = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints \
        such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions \
        of Kubernetes clusters.";
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(namespace.to_owned()),
            annotations: Some([("kubernetes.io/description".to_owned(), why.to_owned())].into()),
            ..Default::default()
        },
        data: Some(BTreeMap::from([(FILE.to_owned(), roots.to_owned())])),
        ..Default::default()
    }
}

async fn reconcile(
    client: kube::Client,
    listers: Arc<(Lister<Namespace>, Lister<ConfigMap>, String)>,
    key: Key,
) -> Result<Next, Error> {
    let (namespaces, maps, roots) = &*listers;
    if namespaces.get("", &key.name).is_none_or(|namespace| namespace.deleting) {
        return Ok(Next::Done);
    }
    let wanted = wanted(&key.name, roots);
    let api: Api<ConfigMap> = Api::namespaced(client, &key.name);
    let answer = match maps.get(&key.name, NAME) {
        None => api.create(&PostParams::default(), &wanted).await,
        Some(map) => {
            let map = map.typed()?;
            if map.data == wanted.data {
                return Ok(Next::Done);
            }
            let mut changed = (*map).clone();
            changed.data = wanted.data;
            api.replace(NAME, &PostParams::default(), &changed).await
        }
    };
    match answer {
        // Whatever was in the way comes back with the change that it was.
        Err(error) if is_conflict(&error) || is_terminating(&error) || is_gone(&error) => Ok(Next::Done),
        answer => answer.map(|_| Next::Done).map_err(Error::from),
    }
}
