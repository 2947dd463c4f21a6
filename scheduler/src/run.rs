//! The loop: whenever there is news, decide for every pod that waits, and let many bindings run at once.

use std::sync::Arc;

use daemon::clients::Clients;
use daemon::events::Recorder;
use daemon::informer::Informers;
use daemon::tasks::{self, Tasks};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::bind::{self, Binder};
use crate::cluster::Cluster;
use crate::config::Config;
use crate::cycle::{Decision, decide};
use crate::feed::{self, Shared};
use crate::pod::Pod;
use crate::rules::Rules;
use crate::volumes::{self, Choice};

/// Decisions made under one hold of the lock.
const BATCH: usize = 64;

/// The part ended early.
#[derive(Debug, thiserror::Error)]
#[error("the scheduler ended")]
pub struct Error(#[from] tasks::Error);

/// Schedules until `stop`.
pub async fn run(config: Config, clients: Arc<dyn Clients>, stop: CancellationToken) -> Result<(), Error> {
    let Config {
        scheduler_name,
        concurrent_binds,
    } = config;
    let client = clients.own();
    let informers = Informers::new(client.clone());
    let events = Recorder::new(client.clone(), scheduler_name.clone(), "");
    let shared = Arc::new(Shared::new(Rules::default(), scheduler_name));
    let storage = feed::storage(&shared, &informers);
    let (pods, nodes) = feed::start(&shared, &informers);
    let mut tasks = Tasks::under(&stop);
    tasks.spawn("watch", |stop| informers.run(stop));
    tasks.spawn("decide", move |stop| async move {
        // A pod placed before every bound pod is known could overfill its node.
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = async { nodes.synced().await; pods.synced().await; storage.synced().await } => {}
        }
        info!("ready");
        let volumes = volumes::Writer::new(client.clone(), storage);
        let binder = Binder::new(client, events, volumes);
        decide_all(&shared, &binder, concurrent_binds, stop).await;
        Ok::<(), std::convert::Infallible>(())
    });
    tasks.run(stop.cancelled()).await?;
    Ok(())
}

/// What became of a write: the pod, and whether it must come again.
type Outcome = (Arc<Pod>, Result<(), bind::Error>);

async fn decide_all(shared: &Shared, binder: &Binder, concurrent: usize, stop: CancellationToken) {
    let mut writes: FuturesUnordered<BoxFuture<'_, Outcome>> = FuturesUnordered::new();
    let mut turn = 0;
    loop {
        while writes.len() < concurrent {
            let decisions = decide_batch(shared, &mut turn, BATCH.min(concurrent - writes.len()));
            if decisions.is_empty() {
                break;
            }
            writes.extend(
                decisions
                    .into_iter()
                    .map(|(pod, decision, choices)| perform(binder, pod, decision, choices)),
            );
        }
        let due = shared.lock().queue.due().filter(|_| writes.len() < concurrent);
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some((pod, outcome)) = writes.next() => settle(shared, &pod, outcome),
            () = shared.news.notified() => {}
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
    }
    // Bindings that are under way are waited for: the next scheduler would decide them again.
    while let Some((pod, outcome)) = writes.next().await {
        settle(shared, &pod, outcome);
    }
}

fn decide_batch(shared: &Shared, turn: &mut usize, size: usize) -> Vec<(Arc<Pod>, Decision, Vec<Choice>)> {
    let mut state = shared.lock();
    let now = Instant::now();
    let mut decisions = Vec::new();
    while decisions.len() < size {
        let Some(pod) = state.queue.next(now) else { break };
        let decision = decide(&pod, &state.cluster, shared.rules(), *turn);
        *turn = turn.wrapping_add(1);
        let mut choices = Vec::new();
        if let Decision::Place(node) = &decision {
            choices = reserve(&mut state.cluster, &pod, node);
        }
        match &decision {
            Decision::Place(node) => state.cluster.place(pod.clone(), node.clone(), true),
            Decision::Nowhere(_) => state.queue.park(&pod.uid, now),
        }
        decisions.push((pod, decision, choices));
    }
    decisions
}

fn reserve(cluster: &mut Cluster, pod: &Pod, node: &str) -> Vec<Choice> {
    let Some(source) = cluster.storage.clone().filter(|_| !pod.claims.is_empty()) else {
        return Vec::new();
    };
    let mut promises = std::mem::take(&mut cluster.promises);
    let choices = cluster.node(node).map(|node| {
        let place = (&*node.name, &node.labels);
        volumes::reserve(pod, place, &*source, &mut promises)
    });
    cluster.promises = promises;
    choices.unwrap_or_default()
}

fn perform(binder: &Binder, pod: Arc<Pod>, decision: Decision, choices: Vec<Choice>) -> BoxFuture<'_, Outcome> {
    Box::pin(async move {
        match decision {
            Decision::Place(node) => {
                let outcome = binder.place(&pod, &node, &choices).await;
                (pod, outcome)
            }
            Decision::Nowhere(message) => {
                if let Err(error) = binder.refuse(&pod, &message).await {
                    warn!(pod = %pod.key(), error = %error, "the pod could not be told why it has no place");
                }
                (pod, Ok(()))
            }
        }
    })
}

fn settle(shared: &Shared, pod: &Pod, outcome: Result<(), bind::Error>) {
    let mut state = shared.lock();
    state.cluster.promises.forget(&pod.uid);
    let Err(error) = outcome else { return };
    if let Some(node) = state.cluster.forget(&pod.uid) {
        shared.wake(&mut state, &node);
    }
    match error {
        // A pod that still waits is told by the watch; resting keeps it from spinning until then.
        bind::Error::Overtaken => state.queue.retry(&pod.uid, Instant::now()),
        bind::Error::Volumes(cause) => {
            warn!(pod = %pod.key(), error = %daemon::chain(&cause), "a claim was not served");
            state.queue.retry(&pod.uid, Instant::now());
        }
        bind::Error::Api(cause) => {
            warn!(pod = %pod.key(), error = %cause, "binding failed");
            state.queue.retry(&pod.uid, Instant::now());
        }
    }
}
