//! The pods of this node: entries of the API and hints of the runtime come in, calls to the runtime and statuses go out.
//! Nothing here knows how the runtime does things, and a pod's worker knows no other pod.
//! Invariant: one worker per UID, and only it changes that pod's sandboxes, containers and status.

pub mod admit;
pub mod backoff;
pub mod dns;
pub mod env;
pub mod grpc;
pub mod hooks;
pub mod images;
pub mod net;
pub mod observed;
mod perform;
pub mod plan;
pub mod probes;
pub mod resize;
pub mod shared;
pub mod statics;
pub mod status;
pub mod sync;
pub mod translate;
pub mod worker;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use daemon::informer::{Change, Entry};
use k8s_openapi::api::core::v1::Pod;
use tokio::{
    sync::{Notify, mpsc},
    task::{Id, JoinSet},
};
use tokio_util::sync::CancellationToken;

use self::{
    shared::{Post, Shared},
    worker::Worker,
};
use crate::runtime::{self, Hint, label};

/// A worker task ended by a panic twice within its life is still one pod's failure; this is for what concerns all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("nobody sends hints of the runtime any more")]
    Hints,
}

/// Pods that have no worker yet. As many as there are pods.
#[derive(Debug, Default)]
struct Arrivals {
    uids: Mutex<Vec<String>>,
    notify: Notify,
}

impl Arrivals {
    fn add(&self, uid: &str) {
        self.uids
            .lock()
            .expect("no holder of this lock panics")
            .push(uid.to_owned());
        self.notify.notify_one();
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.uids.lock().expect("no holder of this lock panics"))
    }
}

/// Runs the pods until `stop`, which leaves all of them running.
pub async fn run(
    shared: Arc<Shared>,
    mut hints: mpsc::Receiver<Hint>,
    images: Arc<Notify>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut node = shared.node.clone();
    tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        // An error means that the node's task is gone, which ends the part.
        known = node.wait_for(|n| n.known) => drop(known),
    }
    let arrivals = Arc::new(Arrivals::default());
    deliver(&shared, &arrivals);
    // Before anything is taken for an orphan.
    let mut statics = HashMap::new();
    let mut workers = Workers {
        shared: shared.clone(),
        set: JoinSet::new(),
        names: HashMap::new(),
        stop: stop.clone(),
    };
    // Until the API has told all pods, a container without one may just not be known yet.
    let mut synced = false;
    loop {
        workers.follow_files(&mut statics);
        for uid in arrivals.take() {
            workers.start(uid);
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = shared.pods.synced(), if !synced => {
                synced = true;
                workers.adopt_orphans().await;
            }
            () = arrivals.notify.notified() => {}
            () = shared.statics.changed.notified() => {}
            Some(ended) = workers.set.join_next_with_id(), if !workers.set.is_empty() => workers.ended(ended),
            hint = hints.recv() => match hint.ok_or(Error::Hints)? {
                Hint::Container { id, exited } => shared.post.container(&id, exited),
                Hint::Images => images.notify_one(),
                Hint::All => {
                    images.notify_one();
                    shared.post.look_all();
                    if synced {
                        workers.adopt_orphans().await;
                    }
                }
            },
        }
    }
    workers.set.shutdown().await;
    Ok(())
}

/// Puts what the API says into the boxes of the pods, from within the watch.
fn deliver(shared: &Arc<Shared>, arrivals: &Arc<Arrivals>) {
    let (post, arrivals) = (shared.post.clone(), arrivals.clone());
    let statics = shared.clone();
    shared.pods.on_change(move |change| match change {
        // A mirror is only where a static pod's status is told.
        Change::Applied { new, .. } if statics::mirrored(new).is_some() => {
            statics.statics.mirrored.notify_one();
            post.look(&statics::mirrored(new).unwrap_or_default());
        }
        Change::Deleted { old } if statics::mirrored(old).is_some() => statics.statics.mirrored.notify_one(),
        Change::Applied { old, new } => {
            if let Some(old) = old.filter(|o| o.uid != new.uid) {
                gone(&post, old);
            }
            let inbox = post.inbox(&new.uid).unwrap_or_else(|| {
                let inbox = post.open(&new.uid);
                arrivals.add(&new.uid);
                inbox
            });
            inbox.put(|news| news.entry = Some(new.clone()));
        }
        Change::Deleted { old } => gone(&post, old),
    });
}

fn gone(post: &Post, entry: &Arc<Entry<Pod>>) {
    if let Some(inbox) = post.inbox(&entry.uid) {
        inbox.put(|news| news.gone = true);
    }
}

struct Workers {
    shared: Arc<Shared>,
    set: JoinSet<()>,
    names: HashMap<Id, String>,
    stop: CancellationToken,
}

impl Workers {
    fn start(&mut self, uid: String) {
        let inbox = self
            .shared
            .post
            .inbox(&uid)
            .unwrap_or_else(|| self.shared.post.open(&uid));
        let worker = Worker::new(self.shared.clone(), uid.clone(), inbox);
        let task = self.set.spawn(worker.run(self.stop.clone()));
        self.names.insert(task.id(), uid);
        self.shared.weigh();
    }

    /// Starts what the files define and lets go what they do not any more; `running` is what was started so.
    fn follow_files(&mut self, running: &mut HashMap<statics::Key, String>) {
        let wanted = self.shared.statics.wanted();
        let post = self.shared.post.clone();
        running.retain(|key, uid| {
            let Some(inbox) = post.inbox(uid) else { return false };
            if wanted.get(key).is_none_or(|entry| *entry.uid != *uid.as_str()) && !inbox.peek(|news| news.gone) {
                inbox.put(|news| news.gone = true);
            }
            true
        });
        for (key, entry) in wanted {
            // What a changed file defined before leaves first.
            if running.contains_key(&key) {
                continue;
            }
            post.open(&entry.uid).put(|news| news.entry = Some(entry.clone()));
            running.insert(key, entry.uid.to_string());
            self.start(entry.uid.to_string());
        }
    }

    fn ended(&mut self, ended: Result<(Id, ()), tokio::task::JoinError>) {
        match ended {
            Ok((id, ())) => {
                self.names.remove(&id);
                self.shared.weigh();
                self.shared.room();
            }
            // A panic is that pod's own failure: a new worker reads everything anew and carries on.
            Err(error) => {
                let Some(uid) = self.names.remove(&error.id()) else {
                    return;
                };
                tracing::error!(uid, %error, "a pod's worker failed and is started anew");
                let entry = self.shared.entries().into_iter().find(|e| *e.uid == *uid);
                let inbox = self.shared.post.open(&uid);
                inbox.put(|news| news.entry = entry);
                self.start(uid);
            }
        }
    }

    /// What runs here or has left something here, and is not known to the API, is stopped and taken away.
    async fn adopt_orphans(&mut self) {
        let left = match leftovers(&self.shared).await {
            Ok(left) => left,
            // The next gap in the events brings us here again.
            Err(error) => return tracing::debug!(%error, "looking for orphaned pods failed"),
        };
        for uid in left {
            if self.shared.post.inbox(&uid).is_none() {
                tracing::info!(uid, "a pod that the API does not know is taken away");
                self.start(uid);
            }
        }
    }
}

async fn leftovers(shared: &Shared) -> Result<HashSet<String>, runtime::Error> {
    let mut found = HashSet::new();
    for sandbox in shared.runtime.sandboxes(None).await? {
        found.extend(sandbox.labels.get(label::POD_UID).cloned());
    }
    for container in shared.runtime.containers(None).await? {
        found.extend(container.labels.get(label::POD_UID).cloned());
    }
    found.extend(shared.volumes.pods());
    if shared.config.cgroups_per_qos {
        found.extend(shared.cgroups.pods());
    }
    Ok(found)
}
