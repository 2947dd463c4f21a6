//! Tells when the node is what `up` promised: Ready, by the API's word. Told by watches; nothing is asked twice.

use daemon::informer::{Change, Informers, Options};
use daemon::tasks::Tasks;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node as NodeObject;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Node;

/// Watches this node's object and tells the board, until `stop`.
pub(crate) async fn tell(node: Node, stop: CancellationToken) -> anyhow::Result<()> {
    let clients = node
        .gateway
        .clients("system:node-status", &["system:masters", "system:authenticated"]);
    let informers = Informers::new(clients.own());
    let fields = format!("metadata.name={}", node.settings.node_name);
    let nodes = informers.of::<NodeObject>(Options {
        fields,
        ..Options::default()
    });
    let (news, mut state) = watch::channel(None);
    // What the object says of an earlier life of the node is no news.
    let began = Timestamp::now().as_second();
    nodes.on_change(move |change| {
        let Change::Applied { new, .. } = change else { return };
        if let Ok(object) = new.typed() {
            let ready = api::node::is_ready(&object) && told_since(&object, began);
            let message = reason(&object);
            // The receiver lives as long as the watch.
            let _ = news.send(Some((ready, message)));
        }
    });
    let mut tasks = Tasks::under(&stop);
    tasks.spawn("watch", |stop| informers.run(stop));
    tasks.spawn("tell", move |stop| async move {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return anyhow::Ok(()),
                changed = state.changed() => changed?,
            }
            let Some((ready, message)) = state.borrow_and_update().clone() else {
                continue;
            };
            if ready {
                node.board.done("node ready", &node.settings.node_name);
                node.board.ready();
            } else {
                node.board.trouble(message);
            }
        }
    });
    Ok(tasks.run(stop.cancelled()).await?)
}

/// Whether the node spoke of itself after `began`, in seconds since 1970.
fn told_since(object: &NodeObject, began: i64) -> bool {
    let conditions = object.status.as_ref().and_then(|status| status.conditions.as_deref());
    let heard = api::condition::find(conditions, "Ready").and_then(|condition| condition.last_heartbeat_time.as_ref());
    heard.is_some_and(|time| time.0.as_second() >= began)
}

/// Why the node is not ready, in its own words.
fn reason(object: &NodeObject) -> String {
    let conditions = object.status.as_ref().and_then(|status| status.conditions.as_deref());
    let ready = api::condition::find(conditions, "Ready");
    let message = ready.and_then(|condition| condition.message.clone());
    message.unwrap_or_else(|| "the node has not said yet how it is".to_owned())
}
