//! A service account `default` in every namespace.

use std::sync::Arc;

use daemon::informer::{Change, Lister};
use daemon::{Next, Queue};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Key, enqueue_each};
use crate::{Error, is_conflict, is_gone, is_terminating};

const NAME: &str = "default";

pub async fn start(context: Context, stop: CancellationToken) -> Result<(), Error> {
    let queue = Queue::new();
    let namespaces = context.all::<Namespace>();
    let accounts = context.all::<ServiceAccount>();
    enqueue_each(&namespaces, &queue);
    let into = queue.clone();
    accounts.on_change(move |change| {
        if let Change::Deleted { old } = change
            && &*old.name == NAME
        {
            into.add(Key::new("", &old.namespace));
        }
    });
    namespaces.synced().await;
    accounts.synced().await;
    let client = context.client.clone();
    let listers = Arc::new((namespaces, accounts));
    context
        .work(queue, stop, move |key| reconcile(client.clone(), listers.clone(), key))
        .await
}

async fn reconcile(
    client: kube::Client,
    listers: Arc<(Lister<Namespace>, Lister<ServiceAccount>)>,
    key: Key,
) -> Result<Next, Error> {
    let (namespaces, accounts) = &*listers;
    let wanted = namespaces
        .get("", &key.name)
        .is_some_and(|namespace| !namespace.deleting);
    if !wanted || accounts.get(&key.name, NAME).is_some() {
        return Ok(Next::Done);
    }
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(key.name.to_string()),
            ..Default::default()
        },
        ..Default::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(client, &key.name);
    match api.create(&PostParams::default(), &account).await {
        Err(error) if is_conflict(&error) || is_terminating(&error) || is_gone(&error) => Ok(Next::Done),
        answer => answer.map(|_| Next::Done).map_err(Error::from),
    }
}
