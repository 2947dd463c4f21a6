//! One pod's life on this node: wants come in by mail, the runtime is looked at, the plan is performed, the status told.
//!
//! A worker is the only one that changes its pod's sandboxes, containers and status. What it holds is back-off and timers;
//! everything else is read anew each time, so a worker that starts in the middle of a pod's life carries on with it.
//!
//! Long because the states of one life are read together.

use std::{collections::HashMap, sync::Arc, time::Duration};

use daemon::informer::Entry;
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use kube::api::{Api, DeleteParams, Preconditions};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    admit::{self, Offer},
    backoff::Backoff,
    observed::{Observed, Seen, State, observe},
    perform::{Done, ips, perform},
    plan::{self, Facts, Finished, Plan, Sandbox},
    probes::{Target, Was},
    resize::{self, Allocation, Answer, Told},
    shared::{Inbox, Shared},
    statics::is_static,
    status::{self, Fate, View, Waiting},
    sync::{Stuck, definition, grace},
    translate::Subject,
};
use crate::runtime::{self, label};

#[derive(Debug)]
enum Life {
    /// Not looked at yet.
    New,
    Syncing,
    Terminating(Why),
    /// Containers and sandboxes have stopped and the API knows.
    Terminated(Why),
}

#[derive(Debug, Clone)]
enum Why {
    /// The API asked for it.
    Deleted,
    /// Its containers ended by themselves.
    Finished(Finished),
    Killed {
        reason: String,
        message: String,
    },
    Rejected {
        reason: String,
        message: String,
    },
    /// The API does not know it.
    Orphan,
}

impl Why {
    fn fate(&self) -> Fate {
        match self.clone() {
            Why::Deleted | Why::Orphan => Fate::Lives,
            Why::Finished(how) => Fate::Finished(how),
            Why::Killed { reason, message } => Fate::Killed { reason, message },
            Why::Rejected { reason, message } => Fate::Rejected { reason, message },
        }
    }
}

/// What follows a step.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// Nothing but mail, or this time.
    Wait(Option<Instant>),
    /// As before.
    Same,
    Again,
    Over,
}

#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    uid: String,
    inbox: Arc<Inbox>,
    life: Life,
    entry: Option<Arc<Entry<Pod>>>,
    gone: bool,
    backoff: Backoff,
    waiting: Waiting,
    /// Container runs whose back-off was told to the events already.
    told: HashMap<String, String>,
    /// Ended containers that the runtime may still show as running, and how often it did.
    exiting: HashMap<String, u32>,
    words: HashMap<String, String>,
    /// When containers ended. At the look before they had not, whatever the wall clock says.
    ends: HashMap<String, Instant>,
    looked: Option<Instant>,
    refresh: Option<Instant>,
    /// How long an evicted pod may take to end.
    evicted: Option<Duration>,
    /// The volumes are to be looked at, whatever else there is to do.
    stale: bool,
    failures: u32,
    /// What the API was told last, and the revision that this made: newer than the entry until its echo comes.
    written: Option<(u64, PodStatus)>,
    deleted: bool,
    resize: Told,
}

impl Worker {
    pub fn new(shared: Arc<Shared>, uid: String, inbox: Arc<Inbox>) -> Self {
        Worker {
            shared,
            uid,
            inbox,
            life: Life::New,
            entry: None,
            gone: false,
            backoff: Backoff::new(Duration::from_secs(10), Duration::from_secs(300)),
            waiting: Waiting::new(),
            told: HashMap::new(),
            exiting: HashMap::new(),
            words: HashMap::new(),
            ends: HashMap::new(),
            looked: None,
            refresh: None,
            evicted: None,
            stale: true,
            failures: 0,
            written: None,
            deleted: false,
            resize: Told::default(),
        }
    }

    /// Until the pod has left this node, or `stop`: then everything stays as it is.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut wake = None;
        loop {
            let step = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                step = self.step() => step,
            };
            match step {
                Ok(Next::Over) => break,
                Ok(Next::Again) => continue,
                Ok(Next::Same) => {}
                Ok(Next::Wait(until)) => wake = until,
                Err(error) => {
                    self.failures += 1;
                    tracing::warn!(uid = self.uid, error = daemon::chain(&*error), "pod step failed");
                    wake = Some(Instant::now() + retry(self.failures));
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.inbox.arrived() => {}
                () = sleep_until(wake) => {}
            }
        }
        self.shared.post.close(&self.uid);
        self.shared.images.forget(&self.uid);
    }

    async fn step(&mut self) -> Result<Next, daemon::BoxError> {
        let news = self.inbox.take();
        let own_echo = news.entry.as_ref().is_some_and(|e| {
            self.written
                .as_ref()
                .is_some_and(|(revision, _)| e.revision == *revision)
        });
        let quiet = own_echo
            && !(news.look || news.volumes || news.gone || news.evict.is_some())
            && news.exited.is_empty()
            && matches!(self.life, Life::Syncing);
        // The definition, the labels or an object that a volume shows may have changed.
        self.stale |= news.volumes || (news.entry.is_some() && !own_echo);
        self.gone |= news.gone;
        self.entry = news.entry.or(self.entry.take());
        for id in news.exited {
            self.exiting.insert(id, 0);
        }
        if quiet {
            return Ok(Next::Same);
        }
        let pod = self.entry.as_ref().map(|e| e.typed()).transpose()?;
        self.transition(pod.as_deref());
        if let Some(eviction) = news.evict
            && matches!(self.life, Life::New | Life::Syncing)
        {
            if let Some(pod) = &pod {
                self.shared.event(pod, None, true, "Evicted", &eviction.message);
            }
            self.evicted = eviction.grace;
            self.life = Life::Terminating(Why::Killed {
                reason: "Evicted".to_owned(),
                message: eviction.message,
            });
        }
        if let (Life::Syncing, Some(pod)) = (&self.life, &pod) {
            self.consider_resize(pod)?;
        }
        let pod = pod.map(|pod| match self.shared.allocations.get(&self.uid) {
            Some(allocation) => Arc::new(allocation.apply(&pod)),
            None => pod,
        });
        match &self.life {
            Life::New | Life::Syncing => match pod {
                Some(pod) => self.sync(&pod).await,
                None => Ok(Next::Wait(None)),
            },
            Life::Terminating(why) => {
                let why = why.clone();
                self.terminate(pod.as_deref(), why).await
            }
            Life::Terminated(why) => {
                let why = why.clone();
                self.leave(pod.as_deref(), why).await
            }
        }
    }

    /// Grants what the definition wishes for, if there is room, or says why not.
    fn consider_resize(&mut self, pod: &Pod) -> std::io::Result<()> {
        let shared = &self.shared;
        let Some(mut allocation) = shared.allocations.get(&self.uid) else {
            return shared.allocations.put(&self.uid, Allocation::of(pod));
        };
        let others = shared.others(&self.uid);
        let others: Vec<&Pod> = others.iter().collect();
        let offer = shared.node.borrow().offer.clone();
        let pending = match resize::answer(pod, &allocation, &others, &offer) {
            Answer::Nothing => None,
            Answer::Granted => {
                allocation.grant(pod);
                let text = format!("Pod resize started: {}", allocation.shown(pod));
                shared.allocations.put(&self.uid, allocation)?;
                shared.event(pod, None, false, "ResizeStarted", &text);
                shared.weigh();
                shared.room();
                None
            }
            Answer::Deferred(why) => Some(("Deferred".to_owned(), why)),
            Answer::Infeasible(why) => Some(("Infeasible".to_owned(), why)),
        };
        shared.allocations.defer(
            &self.uid,
            pending.as_ref().is_some_and(|(reason, _)| reason == "Deferred"),
        );
        if let Some((reason, why)) = pending.as_ref().filter(|_| pending != self.resize.pending) {
            shared.event(pod, None, true, &format!("Resize{reason}"), why);
        }
        self.resize.pending = pending;
        Ok(())
    }

    fn transition(&mut self, pod: Option<&Pod>) {
        let deleting = pod.is_some_and(|p| p.metadata.deletion_timestamp.is_some());
        let life = std::mem::replace(&mut self.life, Life::New);
        self.life = match life {
            Life::New | Life::Syncing if pod.is_none() => Life::Terminating(Why::Orphan),
            Life::New | Life::Syncing if self.gone || deleting => Life::Terminating(Why::Deleted),
            Life::New => match pod.and_then(|p| p.status.as_ref()?.phase.as_deref()) {
                Some("Succeeded") => Life::Terminating(Why::Finished(Finished::Succeeded)),
                Some("Failed") => {
                    let status = pod.and_then(|p| p.status.as_ref());
                    let text = |t: Option<&String>| t.cloned().unwrap_or_default();
                    match status.and_then(|s| s.reason.clone()) {
                        Some(reason) => Life::Terminating(Why::Killed {
                            reason,
                            message: text(status.and_then(|s| s.message.as_ref())),
                        }),
                        None => Life::Terminating(Why::Finished(Finished::Failed)),
                    }
                }
                _ => Life::New,
            },
            other => other,
        };
    }

    async fn look(&mut self) -> Result<Observed, runtime::Error> {
        let wall = i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
        let now = Instant::now();
        let mut observed = observe(&*self.shared.runtime, &self.uid, wall).await?;
        self.date(&mut observed);
        self.looked = Some(now);
        let ids = observed
            .sandboxes
            .iter()
            .map(|s| s.id.as_str())
            .chain(observed.containers.iter().map(|c| c.id.as_str()));
        self.shared.post.owns(&self.uid, ids);
        self.exiting.retain(|id, looks| {
            *looks += 1;
            *looks < 10 && observed.containers.iter().any(|c| c.id == *id && c.running())
        });
        Ok(observed)
    }

    fn date(&mut self, observed: &mut Observed) {
        for seen in &mut observed.containers {
            if let State::Exited(exit) = &mut seen.state {
                let bound = self.looked.map_or(exit.at, |looked| exit.at.max(looked));
                exit.at = *self.ends.entry(seen.id.clone()).or_insert(bound);
            }
        }
        self.ends
            .retain(|id, _| observed.containers.iter().any(|c| c.id == *id));
    }

    /// CRI may show an ended container as running for a moment: look again soon, then less soon.
    fn exiting_wake(&self) -> Option<Instant> {
        let looks = self.exiting.values().min()?;
        Some(Instant::now() + Duration::from_millis(15) * (1 << looks.min(&8)))
    }

    async fn sync(&mut self, pod: &Pod) -> Result<Next, daemon::BoxError> {
        let shared = self.shared.clone();
        let subject = Subject::new(&shared.config, pod);
        let mut observed = self.look().await?;
        if matches!(self.life, Life::New) {
            if observed.is_empty()
                && let Some(rejection) = self.rejection(pod).await?
            {
                let admit::Rejection { reason, message } = rejection;
                shared.event(pod, None, true, &reason, &message);
                self.life = Life::Terminating(Why::Rejected { reason, message });
                return Ok(Next::Again);
            }
            self.life = Life::Syncing;
            if shared.allocations.get(&self.uid).is_none() {
                shared.allocations.put(&self.uid, Allocation::of(pod))?;
            }
        }
        let deadline = deadline(pod);
        if deadline.is_some_and(|d| d <= Instant::now()) {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            shared.event(pod, None, false, "DeadlineExceeded", &message);
            self.life = Life::Terminating(Why::Killed {
                reason: "DeadlineExceeded".to_owned(),
                message,
            });
            return Ok(Next::Again);
        }
        self.probe(&subject, &observed);
        let plan = self.plan(pod, &observed);
        if let Some(how) = plan.finished {
            self.life = Life::Terminating(Why::Finished(how));
            return Ok(Next::Again);
        }
        self.note_waits(&subject, &plan, &observed);
        let busy = !plan.update.is_empty()
            || !plan.start.is_empty()
            || !plan.stop.is_empty()
            || matches!(plan.sandbox, Sandbox::Create { .. });
        let mut retry = None;
        if busy || self.stale || self.refresh.is_some_and(|at| at <= Instant::now()) {
            // What is true so far is told while the work goes on.
            let (told, done) = tokio::join!(
                write(&shared, pod, &observed, self.telling(Fate::Lives, false)),
                perform(&shared, &subject, &plan, &observed, &self.inbox)
            );
            retry = self.account(&subject, done)?;
            self.written = told?.or(self.written.take());
            observed = self.look().await?;
            self.probe(&subject, &observed);
            let after = self.plan(pod, &observed);
            if after.finished.is_some() || !after.stop.is_empty() {
                return Ok(Next::Again);
            }
            self.note_waits(&subject, &after, &observed);
            retry = [retry, after.wake()].into_iter().flatten().min();
            if retry.is_none() && !after.start.is_empty() {
                // One thing led to another: an init container that ended at once, a container that did.
                return Ok(Next::Again);
            }
        }
        self.remove_old(&plan).await;
        self.hear(&subject, &observed);
        let told = write(&shared, pod, &observed, self.telling(Fate::Lives, false)).await?;
        self.written = told.or(self.written.take());
        let wakes = [retry, plan.wake(), deadline, self.refresh, self.exiting_wake()];
        Ok(Next::Wait(wakes.into_iter().flatten().min()))
    }

    fn telling(&self, fate: Fate, terminating: bool) -> Telling<'_> {
        Telling {
            waiting: &self.waiting,
            words: &self.words,
            fate,
            terminating,
            resize: &self.resize,
            written: self.written.as_ref(),
            revision: self.entry.as_ref().map_or(0, |e| e.revision),
        }
    }

    fn plan(&self, pod: &Pod, observed: &Observed) -> Plan {
        let health = self.shared.probes.health(&self.uid);
        let allocation = self.shared.allocations.get(&self.uid);
        plan::plan(&Facts {
            pod,
            observed,
            backoff: &self.backoff,
            health: &health,
            allocation: allocation.as_ref(),
            now: Instant::now(),
        })
    }

    /// Whether the node refuses the pod. The scheduler may have seen labels that this node's own watch has not brought yet,
    /// so a refusal for labels is asked of the API again before it is believed.
    async fn rejection(&self, pod: &Pod) -> Result<Option<admit::Rejection>, daemon::BoxError> {
        let offer = self.shared.node.borrow().offer.clone();
        match self.judge(pod, &offer) {
            Some(rejection) if rejection.reason == admit::AFFINITY => {
                let nodes: Api<Node> = Api::all(self.shared.client.clone());
                let node = nodes.get(&self.shared.config.node_name).await?;
                let labels = node.metadata.labels.unwrap_or_default();
                Ok(self.judge(pod, &Offer { labels, ..offer }))
            }
            judged => Ok(judged),
        }
    }

    fn judge(&self, pod: &Pod, offer: &Offer) -> Option<admit::Rejection> {
        let all = self.shared.others(&self.uid);
        let others: Vec<&Pod> = all.iter().collect();
        admit::admit(pod, &others, offer)
    }

    fn probe(&self, subject: &Subject<'_>, observed: &Observed) {
        let running: Vec<_> = observed.containers.iter().filter(|c| c.running()).collect();
        let ids: Vec<&str> = running.iter().map(|c| c.id.as_str()).collect();
        self.shared.probes.keep(&self.uid, &ids);
        let host = super::translate::host_network(subject.spec());
        let ips = if host {
            self.shared.node.borrow().host_ips.clone()
        } else {
            ips(observed)
        };
        for seen in running {
            let Some((container, _)) = definition(subject.pod, &seen.name) else {
                continue;
            };
            let probed = container.liveness_probe.is_some()
                || container.readiness_probe.is_some()
                || container.startup_probe.is_some();
            if probed {
                let wall = i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
                let age = Duration::from_nanos(u64::try_from(wall - seen.started).unwrap_or(0));
                let now = Instant::now();
                self.shared.probes.watch(Target {
                    uid: self.uid.clone(),
                    id: seen.id.clone(),
                    container,
                    pod_ip: ips.first().cloned(),
                    since: now.checked_sub(age).unwrap_or(now),
                    was: was(subject.pod, &seen.id),
                });
            }
        }
    }

    /// Puts back-offs into the waiting states and, once per ended run, into the events.
    fn note_waits(&mut self, subject: &Subject<'_>, plan: &Plan, observed: &Observed) {
        self.waiting.retain(|_, (reason, _)| reason != "CrashLoopBackOff");
        for wait in &plan.wait {
            let text = format!(
                "back-off {} restarting failed container={} pod={}",
                super::images::go_duration(wait.delay).replace("m0s", "m"),
                wait.name,
                subject.display()
            );
            self.waiting
                .insert(wait.name.clone(), ("CrashLoopBackOff".to_owned(), text));
            let run = observed.latest(&wait.name).map(|s| s.id.clone()).unwrap_or_default();
            if self.told.insert(wait.name.clone(), run.clone()).as_deref() != Some(run.as_str()) {
                let text = format!(
                    "Back-off restarting failed container {} in pod {}",
                    wait.name,
                    subject.display()
                );
                self.shared.event(subject.pod, Some(&wait.name), true, "BackOff", &text);
            }
        }
    }

    /// Takes in what the performing found out; when to try again what failed.
    fn account(&mut self, subject: &Subject<'_>, done: Done) -> std::io::Result<Option<Instant>> {
        let now = Instant::now();
        let started = done
            .started
            .iter()
            .filter(|(_, r)| r.is_ok())
            .map(|(s, _)| s.name.as_str());
        self.applied(subject, &done.updated, started)?;
        if let Some(prepared) = done.volumes {
            self.refresh = prepared.refresh;
            self.stale = false;
        }
        let mut failed = done.held;
        let mut retry_at: Option<Instant> = None;
        for (start, result) in done.started {
            if let Some(exit) = start.after {
                self.backoff.next(&start.name, exit, now);
            }
            match result {
                Ok(()) => {
                    self.waiting.remove(&start.name);
                }
                Err(Stuck { reason, message, retry }) => {
                    match retry {
                        Some(at) => retry_at = Some(retry_at.map_or(at, |r| r.min(at))),
                        None => failed = true,
                    }
                    self.waiting.insert(start.name, (reason, message));
                }
            }
        }
        if !failed {
            self.failures = 0;
        } else {
            self.failures += 1;
            let at = now + retry(self.failures);
            retry_at = Some(retry_at.map_or(at, |r| r.min(at)));
        }
        Ok(retry_at)
    }

    /// Writes down which containers have what they were granted.
    fn applied<'a>(
        &mut self,
        subject: &Subject<'_>,
        updated: &'a [(String, Result<(), String>)],
        started: impl Iterator<Item = &'a str>,
    ) -> std::io::Result<()> {
        let shared = &self.shared;
        let Some(before) = shared.allocations.get(&self.uid) else {
            return Ok(());
        };
        let mut after = before.clone();
        let done = updated.iter().filter(|(_, r)| r.is_ok()).map(|(name, _)| name.as_str());
        for name in done.chain(started) {
            after.apply_one(name);
        }
        let error = updated.iter().find_map(|(_, r)| r.as_ref().err().cloned());
        let complete = after.applied == after.granted;
        self.resize.progress = match error {
            Some(error) => {
                if self.resize.progress.as_ref() != Some(&error) {
                    shared.event(subject.pod, None, true, "ResizeError", &error);
                }
                Some(error)
            }
            None => None,
        };
        if after == before {
            return Ok(());
        }
        if complete {
            let text = format!("Pod resize completed: {}", after.shown(subject.pod));
            shared.event(subject.pod, None, false, "ResizeCompleted", &text);
        }
        shared.allocations.put(&self.uid, after)
    }

    async fn remove_old(&self, plan: &Plan) {
        let runtime = &self.shared.runtime;
        let containers = join_all(plan.remove.iter().map(|id| runtime.remove_container(id))).await;
        let sandboxes = join_all(plan.remove_sandboxes.iter().map(|id| async move {
            runtime.stop_sandbox(id).await?;
            runtime.remove_sandbox(id).await
        }))
        .await;
        for error in containers.into_iter().chain(sandboxes).filter_map(Result::err) {
            tracing::debug!(%error, "removing what is left of earlier runs failed; it is tried at the next look");
        }
    }

    /// Reads the last words of containers that ended, once each.
    fn hear(&mut self, subject: &Subject<'_>, observed: &Observed) {
        let ended = observed.containers.iter().filter(|c| c.exit().is_some());
        for seen in ended.clone() {
            if !self.words.contains_key(&seen.id) {
                let words = self.shared.last_words(subject, seen);
                self.words.insert(seen.id.clone(), words);
            }
        }
        let ids: Vec<&String> = ended.map(|s| &s.id).collect();
        self.words.retain(|id, _| ids.contains(&id));
    }

    async fn terminate(&mut self, pod: Option<&Pod>, why: Why) -> Result<Next, daemon::BoxError> {
        let shared = self.shared.clone();
        let observed = self.look().await?;
        self.shared.probes.keep(&self.uid, &[]);
        let running: Vec<&Seen> = observed.containers.iter().filter(|c| c.running()).collect();
        let seconds = match pod {
            Some(pod) if self.gone => pod
                .metadata
                .deletion_grace_period_seconds
                .map_or(grace(pod, None), |s| s.max(0).unsigned_abs()),
            Some(pod) => grace(pod, None),
            None => running
                .iter()
                .filter_map(|s| s.annotation(label::GRACE)?.parse().ok())
                .max()
                .unwrap_or(30),
        };
        // At least a second, so that a process may say goodbye.
        let bound = self.evicted.map(|most| most.as_secs().max(1));
        let seconds = bound.map_or(seconds, |most| seconds.min(most));
        let end = Instant::now() + Duration::from_secs(seconds);
        let all_ips = ips(&observed);
        let ip = all_ips.first().map(String::as_str);
        let sidecar = |name: &str| {
            let inits = pod.and_then(|p| p.spec.as_ref()).map(plan::inits).unwrap_or_default();
            inits.iter().position(|c| c.name == name && plan::is_sidecar(c))
        };
        let (mut last, first): (Vec<&Seen>, Vec<&Seen>) =
            running.iter().copied().partition(|s| sidecar(&s.name).is_some());
        last.sort_by_key(|s| std::cmp::Reverse(sidecar(&s.name)));
        let text = |name: &str| format!("Stopping container {name}");
        let stops = async {
            let left = || end.saturating_duration_since(Instant::now());
            join_all(first.iter().map(|s| {
                let why = text(&s.name);
                let shared = &shared;
                async move { shared.stop(pod, s, left(), &why, ip).await }
            }))
            .await;
            // Sidecars serve the others to the end, and go in the reverse of the order in which they came.
            for seen in &last {
                shared.stop(pod, seen, left(), &text(&seen.name), ip).await;
            }
        };
        let hurry = hurry(&self.inbox, seconds);
        tokio::select! {
            biased;
            () = stops => {}
            // A second, shorter deletion: what still runs has that long.
            shorter = hurry => {
                let left = Duration::from_secs(shorter);
                join_all(running.iter().map(|s| {
                    let shared = &shared;
                    async move { shared.runtime.stop_container(&s.id, left.max(Duration::from_secs(1))).await }
                }))
                .await;
            }
        }
        for sandbox in &observed.sandboxes {
            self.shared.runtime.stop_sandbox(&sandbox.id).await?;
        }
        let observed = self.look().await?;
        if observed.any_running() {
            return Err("containers still run after they were stopped".into());
        }
        if let Some(pod) = pod {
            let subject = Subject::new(&shared.config, pod);
            self.hear(&subject, &observed);
            self.waiting.clear();
            // What the API was told of an ended pod is final.
            if !self.gone && !api::pod::is_terminal(pod) {
                match write(&shared, pod, &observed, self.telling(why.fate(), true)).await {
                    Ok(told) => self.written = told.or(self.written.take()),
                    // Deleted by force meanwhile: there is nobody to tell.
                    Err(kube::Error::Api(error)) if error.code == 404 || error.code == 409 => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        self.free()?;
        self.life = Life::Terminated(why);
        Ok(Next::Again)
    }

    /// What belongs to the pod besides containers and logs.
    fn free(&self) -> Result<(), daemon::BoxError> {
        self.shared.allocations.forget(&self.uid);
        self.shared.volumes.remove(&self.uid)?;
        if self.shared.config.cgroups_per_qos {
            self.shared.cgroups.remove_pod(&self.uid)?;
        }
        Ok(())
    }

    async fn leave(&mut self, pod: Option<&Pod>, why: Why) -> Result<Next, daemon::BoxError> {
        let deleting = pod.is_some_and(|p| p.metadata.deletion_timestamp.is_some());
        let orphan = matches!(why, Why::Orphan);
        if deleting && !self.gone && !self.deleted {
            self.delete(pod).await?;
            self.deleted = true;
        }
        if !(deleting || self.gone || orphan) {
            self.shared.room();
            // Ended, and kept by the API: its logs stay readable.
            return Ok(Next::Wait(None));
        }
        let observed = self.look().await?;
        let runtime = &self.shared.runtime;
        for id in observed.containers.iter().map(|c| &c.id) {
            runtime.remove_container(id).await?;
        }
        for id in observed.sandboxes.iter().map(|s| &s.id) {
            runtime.remove_sandbox(id).await?;
        }
        self.remove_logs(pod, &observed)?;
        self.free()?;
        // With finalizers the API keeps it a while longer; then its last mail comes.
        if self.gone || orphan {
            Ok(Next::Over)
        } else {
            Ok(Next::Wait(None))
        }
    }

    async fn delete(&self, pod: Option<&Pod>) -> Result<(), kube::Error> {
        let Some(pod) = pod else { return Ok(()) };
        let subject = Subject::new(&self.shared.config, pod);
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), subject.namespace);
        let uid = Some(self.uid.clone());
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid,
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match api.delete(subject.name, &params).await {
            Ok(_) => Ok(()),
            // Gone already, or another pod of the same name is there.
            Err(kube::Error::Api(error)) if error.code == 404 || error.code == 409 => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn remove_logs(&self, pod: Option<&Pod>, observed: &Observed) -> std::io::Result<()> {
        let dir = match pod {
            Some(pod) => {
                let subject = Subject::new(&self.shared.config, pod);
                self.shared
                    .config
                    .pod_logs(subject.namespace, subject.name, subject.uid)
            }
            None => {
                let suffix = format!("_{}", self.uid);
                let Ok(entries) = std::fs::read_dir(&self.shared.config.logs_dir) else {
                    return Ok(());
                };
                let found = entries
                    .flatten()
                    .find(|e| e.file_name().to_string_lossy().ends_with(&suffix));
                let Some(found) = found.filter(|_| !observed.any_running()) else {
                    return Ok(());
                };
                found.path()
            }
        };
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// What a status is made of besides the pod and the runtime's state.
#[derive(Debug)]
struct Telling<'a> {
    waiting: &'a Waiting,
    words: &'a HashMap<String, String>,
    fate: Fate,
    terminating: bool,
    resize: &'a Told,
    /// As in the worker.
    written: Option<&'a (u64, PodStatus)>,
    revision: u64,
}

async fn write(
    shared: &Shared,
    pod: &Pod,
    observed: &Observed,
    telling: Telling<'_>,
) -> Result<Option<(u64, PodStatus)>, kube::Error> {
    let (host_ips, runtime) = {
        let node = shared.node.borrow();
        (node.host_ips.clone(), node.runtime_name.clone())
    };
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let health = shared.probes.health(uid);
    // A static pod is told of through its mirror, which has a status and revisions of its own.
    let mirror = if is_static(pod) {
        match shared.mirror(pod) {
            Some(mirror) => Some(mirror),
            None => return Ok(None),
        }
    } else {
        None
    };
    let told_to = mirror.as_ref().and_then(|m| m.typed().ok());
    let shown = told_to.as_deref().unwrap_or(pod);
    let revision = mirror.as_ref().map_or(telling.revision, |m| m.revision);
    let ahead = telling
        .written
        .filter(|(written, _)| *written > revision)
        .map(|(_, status)| status);
    let old = ahead.cloned().or_else(|| shown.status.clone()).unwrap_or_default();
    let allocation = shared.allocations.get(uid);
    let mut told = telling.resize.clone();
    let under_way = allocation.as_ref().is_some_and(|a| a.under_way(observed));
    if under_way && told.progress.is_none() {
        told.progress = Some(String::new());
    }
    let view = View {
        pod,
        old: &old,
        observed,
        health: &health,
        waiting: telling.waiting,
        fate: &telling.fate,
        host_ips: &host_ips,
        messages: telling.words,
        terminating: telling.terminating,
        runtime: &runtime,
        resize: &told,
        allocation: allocation.as_ref(),
        now: Timestamp::now(),
    };
    let mut next = status::status(&view);
    if mirror.is_some() {
        next.observed_generation = shown.metadata.generation;
    }
    let revision = status::write(&shared.client, shown, &old, &next).await?;
    Ok(revision.and_then(|r| r.parse().ok()).map(|revision| (revision, next)))
}

/// Returns with the new period when a deletion allows less time than the one under way.
async fn hurry(inbox: &Inbox, seconds: u64) -> u64 {
    let mut seen = inbox.watch();
    loop {
        let shorter = inbox.peek(|news| {
            if news.gone {
                return Some(0);
            }
            let pod = news.entry.as_ref().filter(|e| e.deleting)?.typed().ok()?;
            pod.metadata
                .deletion_grace_period_seconds
                .and_then(|s| u64::try_from(s).ok())
        });
        if let Some(shorter) = shorter.filter(|s| *s < seconds) {
            return shorter;
        }
        // The sender lives in the box, which is borrowed here.
        seen.changed().await.expect("the box is still there");
    }
}

fn was(pod: &Pod, id: &str) -> Option<Was> {
    let status = pod.status.as_ref()?;
    let all = status
        .container_statuses
        .iter()
        .chain(&status.init_container_statuses)
        .flatten();
    let same = |full: &String| full.split_once("://").is_some_and(|(_, bare)| bare == id);
    let had = all.into_iter().find(|s| s.container_id.as_ref().is_some_and(same))?;
    Some(Was {
        started: had.started == Some(true),
        ready: had.ready,
    })
}

/// On the clock that timers run on.
fn deadline(pod: &Pod) -> Option<Instant> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    let started = pod.status.as_ref()?.start_time.as_ref()?.0;
    let left = seconds - Timestamp::now().duration_since(started).as_secs();
    Some(Instant::now() + Duration::from_secs(u64::try_from(left).unwrap_or(0)))
}

fn retry(failures: u32) -> Duration {
    Duration::from_millis(500)
        .saturating_mul(1 << failures.min(5))
        .min(Duration::from_secs(10))
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
