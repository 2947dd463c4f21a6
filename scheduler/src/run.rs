//! The loop: whenever there is news, decide for every pod that waits, and let many writes run at once.

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
use crate::cycle::{Decision, Nowhere, decide};
use crate::feed::{self, News, Shared, State};
use crate::metrics::Attempt;
use crate::pod::Pod;
use crate::rules::Profile;
use crate::volumes::{self, Choice};

/// Decisions made under one hold of the lock.
const BATCH: usize = 64;

/// The part ended early.
#[derive(Debug, thiserror::Error)]
#[error("the scheduler ended")]
pub struct Error(#[from] tasks::Error);

/// Schedules until `stop`.
pub async fn run(config: Config, clients: Arc<dyn Clients>, stop: CancellationToken) -> Result<(), Error> {
    let concurrent = config.concurrent_binds;
    let client = clients.own();
    let informers = Informers::new(client.clone());
    let shared = Arc::new(Shared::new(&config));
    let storage = feed::storage(&shared, &informers);
    let volumes = volumes::Writer::new(client.clone(), storage);
    let binders: Vec<Binder> = (config.profiles.iter())
        .map(|profile| Recorder::new(client.clone(), profile.name.to_string(), ""))
        .map(|events| Binder::new(client.clone(), events, volumes.clone()))
        .collect();
    feed::start(&shared, &informers);
    let mut tasks = Tasks::under(&stop);
    let watches = informers.clone();
    tasks.spawn("watch", |stop| watches.run(stop));
    tasks.spawn("decide", move |stop| async move {
        // A pod placed before every bound pod is known could overfill its node.
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = informers.synced() => {}
        }
        info!("ready");
        let scheduler = Scheduler { shared, binders };
        scheduler.decide_all(concurrent, stop).await;
        Ok::<(), std::convert::Infallible>(())
    });
    tasks.run(stop.cancelled()).await?;
    Ok(())
}

struct Scheduler {
    shared: Arc<Shared>,
    /// One for each profile, in their order: events are told under its name.
    binders: Vec<Binder>,
}

/// What is to be written for one pod.
struct Task {
    pod: Arc<Pod>,
    profile: Arc<Profile>,
    since: Instant,
    step: Step,
}

enum Step {
    Bind { node: Arc<str>, choices: Vec<Choice> },
    Refuse(Nowhere),
}

/// What became of a write.
struct Outcome {
    pod: Arc<Pod>,
    profile: Arc<Profile>,
    since: Instant,
    binding: bool,
    result: Result<(), bind::Error>,
}

impl Scheduler {
    async fn decide_all(&self, concurrent: usize, stop: CancellationToken) {
        let mut writes: FuturesUnordered<BoxFuture<'_, Outcome>> = FuturesUnordered::new();
        let mut turn = 0;
        loop {
            while writes.len() < concurrent {
                let tasks = self.decide_batch(&mut turn, BATCH.min(concurrent - writes.len()));
                if tasks.is_empty() {
                    break;
                }
                writes.extend(tasks.into_iter().map(|task| self.perform(task)));
            }
            let due = self.shared.lock().queue.due().filter(|_| writes.len() < concurrent);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(outcome) = writes.next() => self.settle(outcome),
                () = self.shared.news.notified() => {}
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
        // Bindings that are under way are waited for: the next scheduler would decide them again.
        while let Some(outcome) = writes.next().await {
            self.settle(outcome);
        }
    }

    fn decide_batch(&self, turn: &mut usize, size: usize) -> Vec<Task> {
        let mut state = self.shared.lock();
        let mut tasks = Vec::new();
        while tasks.len() < size {
            let now = Instant::now();
            let Some(pod) = state.queue.next(now) else { break };
            let Some(profile) = self.shared.profile(&pod).cloned() else {
                continue;
            };
            let State { cluster, memo, .. } = &mut *state;
            let decision = decide(&pod, cluster, memo, &profile, *turn);
            *turn = turn.wrapping_add(1);
            self.shared.metrics.decided(now.elapsed());
            let step = match decision {
                Decision::Place(node) => {
                    let choices = reserve(&mut state.cluster, &pod, &node);
                    state.cluster.denominate(&pod.uid);
                    state.cluster.place(pod.clone(), &node, true);
                    Step::Bind { node, choices }
                }
                Decision::Nowhere(nowhere) => {
                    self.keep_waiting(&mut state, &pod, &nowhere, now);
                    Step::Refuse(nowhere)
                }
            };
            tasks.push(Task {
                pod,
                profile,
                since: now,
                step,
            });
        }
        if tasks.is_empty() && state.queue.sizes().active == 0 {
            state.memo.clear();
        }
        self.shared.metrics.pending(state.queue.sizes());
        self.shared.metrics.cache(state.cluster.known(), state.cluster.len());
        tasks
    }

    fn keep_waiting(&self, state: &mut State, pod: &Arc<Pod>, nowhere: &Nowhere, now: Instant) {
        state.queue.park(&pod.uid, nowhere.by, now);
        match &nowhere.room {
            Some(room) => {
                self.shared.metrics.preempted(room.victims.len());
                state.cluster.nominate(pod.clone(), &room.node);
                for other in &room.outranked {
                    state.cluster.denominate(&other.uid);
                    state.queue.wake_one(&other.uid, now);
                }
            }
            None if nowhere.give_up => {
                if let Some(node) = state.cluster.denominate(&pod.uid) {
                    self.shared.wake(state, &News::Node(node));
                }
            }
            None => {}
        }
    }

    fn binder(&self, profile: &Profile) -> &Binder {
        let at = self.shared.profiles.iter().position(|have| have.name == profile.name);
        &self.binders[at.expect("profiles are fixed at the start")]
    }

    fn perform(&self, task: Task) -> BoxFuture<'_, Outcome> {
        let Task {
            pod,
            profile,
            since,
            step,
        } = task;
        Box::pin(async move {
            let binder = self.binder(&profile);
            let (binding, result) = match step {
                Step::Bind { node, choices } => (true, binder.bind(&pod, &node, &choices).await),
                Step::Refuse(nowhere) => {
                    let room = match &nowhere.room {
                        Some(room) => binder.make_room(&pod, room).await,
                        None => Ok(()),
                    };
                    if let Err(error) = binder.refuse(&pod, &nowhere, "Unschedulable").await {
                        warn!(pod = %pod.key(), error = %error, "the pod could not be told why it has no place");
                    }
                    (false, room)
                }
            };
            Outcome {
                pod,
                profile,
                since,
                binding,
                result,
            }
        })
    }

    fn settle(&self, outcome: Outcome) {
        let Outcome {
            pod,
            profile,
            since,
            binding,
            result,
        } = outcome;
        let now = Instant::now();
        let mut state = self.shared.lock();
        let attempt = match (&result, binding) {
            (Ok(()), true) => Attempt::Scheduled,
            (Ok(()), false) => Attempt::Unschedulable,
            (Err(_), _) => Attempt::Error,
        };
        self.shared.metrics.attempt(&profile.name, attempt, now - since);
        state.cluster.promises.forget(&pod.uid);
        let error = match result {
            Ok(()) if binding => {
                // Its binding may have been seen before the answer came.
                let (attempts, waited) = state.queue.remove(&pod.uid).unwrap_or((1, since));
                self.shared.metrics.bound(attempts, now - waited, now - since);
                return;
            }
            Ok(()) => return,
            Err(error) => error,
        };
        if binding {
            if let Some(node) = state.cluster.forget(&pod.uid) {
                self.shared.wake(&mut state, &News::Freed(node, pod.clone()));
            }
        } else if let Some(node) = state.cluster.denominate(&pod.uid) {
            self.shared.wake(&mut state, &News::Node(node));
        }
        match error {
            // A pod that still waits is told by the watch; resting keeps it from spinning until then.
            bind::Error::Overtaken => {}
            bind::Error::Volumes(cause) => {
                warn!(pod = %pod.key(), error = %daemon::chain(&cause), "a claim was not served");
            }
            bind::Error::Api(cause) => warn!(pod = %pod.key(), error = %daemon::chain(&*cause), "a write failed"),
        }
        state.queue.retry(&pod.uid, now);
    }
}

/// What has to be written for the pod's claims on this node, promised to them from now on.
fn reserve(cluster: &mut Cluster, pod: &Pod, node: &str) -> Vec<Choice> {
    let Some(source) = cluster.storage.clone().filter(|_| !pod.claims.is_empty()) else {
        return Vec::new();
    };
    let mut promises = std::mem::take(&mut cluster.promises);
    let choices = cluster.node(node).map(|node| {
        let place = (&*node.name, &node.facts.labels);
        volumes::reserve(pod, place, &*source, &mut promises)
    });
    cluster.promises = promises;
    choices.unwrap_or_default()
}
