//! Asks running containers how they are: startup, liveness and readiness probes of all pods on one timer.
//!
//! One task waits for the earliest probe due and runs it beside the others; verdicts are kept per container and told to the pod.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, time::DelayQueue};

use super::{
    hooks::slashed,
    net::{self, Get},
    plan::Health,
};
use crate::runtime::{Error, Runtime};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Startup => "startup",
            Kind::Liveness => "liveness",
            Kind::Readiness => "readiness",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }
}

/// A running container to be probed.
#[derive(Debug, Clone)]
pub struct Target {
    pub uid: String,
    pub id: String,
    pub container: Container,
    pub pod_ip: Option<String>,
    pub since: Instant,
    /// What the API was told of this very container before: a node agent that starts anew does not make pods unready.
    pub was: Option<Was>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Was {
    pub started: bool,
    pub ready: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Good,
    /// Good, with something to tell.
    Warned(String),
    Bad(String),
    /// The probe itself could not be made; says nothing about the container.
    Unknown(String),
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Probes {
    inner: Arc<Inner>,
}

type Unhealthy = dyn Fn(&Target, &'static str, String) + Send + Sync;

struct Inner {
    runtime: Arc<dyn Runtime>,
    state: Mutex<State>,
    wake: Notify,
    changed: Box<dyn Fn(&str) + Send + Sync>,
    unhealthy: Box<Unhealthy>,
}

#[derive(Default)]
struct State {
    by_id: HashMap<String, Probed>,
    /// Not yet on the timer.
    new: Vec<(String, Kind, Instant)>,
}

struct Probed {
    target: Arc<Target>,
    health: Health,
    /// Consecutive answers of one sort: (good, how many).
    runs: HashMap<Kind, (bool, i32)>,
    /// Wait for the startup probe.
    parked: Vec<Kind>,
}

impl std::fmt::Debug for Probes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Probes")
    }
}

fn probe(container: &Container, kind: Kind) -> Option<&Probe> {
    match kind {
        Kind::Startup => container.startup_probe.as_ref(),
        Kind::Liveness => container.liveness_probe.as_ref(),
        Kind::Readiness => container.readiness_probe.as_ref(),
    }
}

fn seconds(value: Option<i32>, default: i32) -> Duration {
    Duration::from_secs(u64::try_from(value.unwrap_or(default).max(0)).unwrap_or(0))
}

impl Probes {
    /// `changed` is told the pod whose verdicts changed, `unhealthy` reason and text for its events.
    pub fn new(
        runtime: Arc<dyn Runtime>,
        changed: impl Fn(&str) + Send + Sync + 'static,
        unhealthy: impl Fn(&Target, &'static str, String) + Send + Sync + 'static,
    ) -> Self {
        let inner = Inner {
            runtime,
            state: Mutex::default(),
            wake: Notify::new(),
            changed: Box::new(changed),
            unhealthy: Box::new(unhealthy),
        };
        Probes { inner: Arc::new(inner) }
    }

    /// Begins to probe a container, once. Containers without probes need not be told.
    pub fn watch(&self, target: Target) {
        let mut state = self.inner.lock();
        if state.by_id.contains_key(&target.id) {
            return;
        }
        let has = |kind| probe(&target.container, kind).is_some();
        let was = target.was.unwrap_or(Was {
            started: false,
            ready: false,
        });
        let health = Health {
            started: has(Kind::Startup).then_some(was.started),
            ready: was.ready || (!has(Kind::Readiness) && !has(Kind::Startup)),
            failed: None,
        };
        for kind in [Kind::Startup, Kind::Liveness, Kind::Readiness] {
            if let Some(probe) = probe(&target.container, kind) {
                let first = target.since + seconds(probe.initial_delay_seconds, 0);
                state.new.push((target.id.clone(), kind, first));
            }
        }
        let id = target.id.clone();
        state.by_id.insert(
            id,
            Probed {
                target: Arc::new(target),
                health,
                runs: HashMap::new(),
                parked: Vec::new(),
            },
        );
        drop(state);
        self.inner.wake.notify_one();
    }

    /// Stops probing whatever of the pod is not among these containers.
    pub fn keep(&self, uid: &str, ids: &[&str]) {
        self.inner
            .lock()
            .by_id
            .retain(|id, p| p.target.uid != uid || ids.contains(&id.as_str()));
    }

    /// Verdicts on the containers of a pod that are probed.
    pub fn health(&self, uid: &str) -> HashMap<String, Health> {
        let state = self.inner.lock();
        let own = state.by_id.iter().filter(|(_, p)| p.target.uid == uid);
        own.map(|(id, p)| (id.clone(), p.health.clone())).collect()
    }

    pub async fn run(self, stop: CancellationToken) {
        let mut due: DelayQueue<(String, Kind)> = DelayQueue::new();
        let mut running: FuturesUnordered<BoxFuture<'static, (String, Kind, Answer)>> = FuturesUnordered::new();
        loop {
            for (id, kind, at) in std::mem::take(&mut self.inner.lock().new) {
                due.insert_at((id, kind), at);
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.inner.wake.notified() => {}
                Some((id, kind, answer)) = running.next(), if !running.is_empty() => {
                    if let Some(next) = self.inner.judge(&id, kind, answer) {
                        due.insert((id, kind), next);
                    }
                }
                Some(item) = due.next(), if !due.is_empty() => {
                    let (id, kind) = item.into_inner();
                    match self.inner.turn(&id, kind) {
                        Turn::Probe(target) => {
                            running.push(once(self.inner.runtime.clone(), target, id, kind).boxed());
                        }
                        Turn::Gone => {}
                    }
                }
            }
        }
    }
}

enum Turn {
    Probe(Arc<Target>),
    /// Not to be asked any more, or not before something else happens.
    Gone,
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    fn turn(&self, id: &str, kind: Kind) -> Turn {
        let mut state = self.lock();
        let Some(probed) = state.by_id.get_mut(id) else {
            return Turn::Gone;
        };
        if probed.health.failed.is_some() {
            return Turn::Gone;
        }
        match (kind, probed.health.started) {
            (Kind::Startup, Some(true)) => Turn::Gone,
            (Kind::Liveness | Kind::Readiness, Some(false)) => {
                probed.parked.push(kind);
                Turn::Gone
            }
            _ => Turn::Probe(probed.target.clone()),
        }
    }

    /// Counts an answer; when to ask again, if at all.
    fn judge(&self, id: &str, kind: Kind, answer: Answer) -> Option<Duration> {
        let mut told = None;
        let (target, next, changed) = {
            let mut state = self.lock();
            let probed = state.by_id.get_mut(id)?;
            let target = probed.target.clone();
            let spec = probe(&target.container, kind)?;
            let next = seconds(spec.period_seconds, 10).max(Duration::from_secs(1));
            let before = probed.health.clone();
            let good = match answer {
                Answer::Good => Some(true),
                Answer::Warned(why) => {
                    told = Some(("ProbeWarning", format!("{} probe warning: {why}", kind.title())));
                    Some(true)
                }
                Answer::Bad(why) => {
                    told = Some(("Unhealthy", format!("{} probe failed: {why}", kind.title())));
                    Some(false)
                }
                Answer::Unknown(why) => {
                    let title = kind.title();
                    told = Some((
                        "Unhealthy",
                        format!("{title} probe errored and resulted in unknown state: {why}"),
                    ));
                    None
                }
            };
            if let Some(good) = good {
                let run = probed.runs.entry(kind).or_insert((good, 0));
                *run = if run.0 == good { (good, run.1 + 1) } else { (good, 1) };
                let needed = if good {
                    spec.success_threshold.unwrap_or(1)
                } else {
                    spec.failure_threshold.unwrap_or(3)
                };
                if run.1 >= needed {
                    let grace = spec.termination_grace_period_seconds;
                    probed.verdict(kind, good, grace);
                }
            }
            let changed = probed.health != before;
            if probed.health.started == Some(true) && !probed.parked.is_empty() {
                // Nobody waits a period more for a container that has just come up.
                let parked = std::mem::take(&mut probed.parked);
                state
                    .new
                    .extend(parked.into_iter().map(|kind| (id.to_owned(), kind, Instant::now())));
                self.wake.notify_one();
            }
            (target, next, changed)
        };
        if let Some((reason, text)) = told {
            (self.unhealthy)(&target, reason, text);
        }
        if changed {
            (self.changed)(&target.uid);
        }
        Some(next)
    }
}

impl Probed {
    fn verdict(&mut self, kind: Kind, good: bool, grace: Option<i64>) {
        match (kind, good) {
            (Kind::Startup, true) => {
                self.health.started = Some(true);
                if self.target.container.readiness_probe.is_none() {
                    self.health.ready = true;
                }
            }
            (Kind::Liveness, true) => {}
            (Kind::Startup | Kind::Liveness, false) => self.health.failed = Some((kind.word(), grace)),
            (Kind::Readiness, good) => self.health.ready = good,
        }
    }
}

async fn once(runtime: Arc<dyn Runtime>, target: Arc<Target>, id: String, kind: Kind) -> (String, Kind, Answer) {
    let answer = ask(&*runtime, &target, kind).await;
    (id, kind, answer)
}

async fn ask(runtime: &dyn Runtime, target: &Target, kind: Kind) -> Answer {
    let Some(probe) = probe(&target.container, kind) else {
        return Answer::Good;
    };
    let timeout = seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1));
    let host = |own: Option<&String>| own.filter(|h| !h.is_empty()).cloned().or_else(|| target.pod_ip.clone());
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        let shown = command.join(" ");
        let asked = runtime.exec_sync(&target.id, command, timeout);
        return match tokio::time::timeout(timeout + Duration::from_secs(1), asked).await {
            Ok(Ok(answer)) if answer.exit_code == 0 => Answer::Good,
            Ok(Ok(answer)) => {
                let text = [answer.stdout, answer.stderr].concat();
                Answer::Bad(String::from_utf8_lossy(&text[..text.len().min(10 << 10)]).into_owned())
            }
            Ok(Err(Error::Timeout(_))) | Err(_) => Answer::Bad(format!(
                "command timed out: \"{shown}\" timed out after {}s",
                timeout.as_secs()
            )),
            // The container just ended: its exit tells the rest.
            Ok(Err(error)) => Answer::Unknown(error.to_string()),
        };
    }
    if let Some(get) = &probe.http_get {
        let Some(host) = host(get.host.as_ref()) else {
            return Answer::Unknown("the pod has no address".into());
        };
        let port = match net::port(&get.port, &target.container) {
            Ok(port) => port,
            Err(error) => return Answer::Unknown(error),
        };
        let headers = get
            .http_headers
            .iter()
            .flatten()
            .map(|h| (h.name.clone(), h.value.clone()))
            .collect();
        let https = get.scheme.as_deref() == Some("HTTPS");
        let get = Get {
            https,
            host,
            port,
            path: slashed(get.path.as_deref()),
            headers,
            agent: "kube-probe/1.36",
        };
        let asked = tokio::time::timeout(timeout, http(get, timeout)).await;
        return asked.unwrap_or_else(|_| Answer::Bad("context deadline exceeded".to_owned()));
    }
    if let Some(grpc) = &probe.grpc {
        let Some(host) = target.pod_ip.as_ref() else {
            return Answer::Unknown("the pod has no address".into());
        };
        let Ok(port) = u16::try_from(grpc.port) else {
            return Answer::Unknown(format!("invalid port number: {}", grpc.port));
        };
        let service = grpc.service.as_deref().unwrap_or("");
        return super::grpc::check(host, port, service, timeout)
            .await
            .map_or_else(Answer::Bad, |()| Answer::Good);
    }
    if let Some(tcp) = &probe.tcp_socket {
        let Some(host) = host(tcp.host.as_ref()) else {
            return Answer::Unknown("the pod has no address".into());
        };
        return match net::port(&tcp.port, &target.container) {
            Ok(port) => net::connect(&host, port, timeout)
                .await
                .map_or_else(Answer::Bad, |()| Answer::Good),
            Err(error) => Answer::Unknown(error),
        };
    }
    Answer::Unknown("missing probe handler".into())
}

/// Follows redirections within the host, as far as a browser's patience goes.
async fn http(mut get: Get, timeout: Duration) -> Answer {
    for _ in 0..10 {
        let reply = match get.send(timeout).await {
            Ok(reply) => reply,
            Err(error) => return Answer::Bad(error),
        };
        match (reply.status, reply.location.as_deref().map(|to| get.redirected(to))) {
            (_, Some(Some(next))) => get = next,
            (_, Some(None)) | (300..=399, None) => {
                return Answer::Warned(format!("Probe terminated redirects, Response body: {}", reply.body));
            }
            (200..=299, None) => return Answer::Good,
            (status, None) => return Answer::Bad(format!("HTTP probe failed with statuscode: {status}")),
        }
    }
    Answer::Bad(format!("Get \"{}\": stopped after 10 redirects", get.url()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;
    use crate::runtime::{ContainerConfig, ContainerMetadata, SandboxConfig, fake::Fake};

    struct Case {
        fake: Arc<Fake>,
        probes: Probes,
        told: Arc<AtomicUsize>,
        _tasks: tokio::task::JoinSet<()>,
    }

    async fn probing(container: serde_json::Value) -> (Case, String) {
        let fake = Arc::new(Fake::default());
        let sandbox = fake.run_sandbox(SandboxConfig::default(), "").await.unwrap();
        let metadata = Some(ContainerMetadata {
            name: "c".into(),
            attempt: 0,
        });
        let config = ContainerConfig {
            metadata,
            ..ContainerConfig::default()
        };
        let id = fake
            .create_container(&sandbox, config, SandboxConfig::default())
            .await
            .unwrap();
        fake.start_container(&id).await.unwrap();
        let told = Arc::new(AtomicUsize::new(0));
        let counter = told.clone();
        let count = move |_: &Target, _: &str, _| {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        let probes = Probes::new(fake.clone(), |_| {}, count);
        let container = serde_json::from_value(container).unwrap();
        probes.watch(Target {
            uid: "u".into(),
            id: id.clone(),
            container,
            pod_ip: None,
            since: Instant::now(),
            was: None,
        });
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(probes.clone().run(CancellationToken::new()));
        (
            Case {
                fake,
                probes,
                told,
                _tasks: tasks,
            },
            id,
        )
    }

    async fn pass(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_liveness_probe_gives_up_after_its_threshold() {
        let probe = json!({"exec": {"command": ["true"]}, "periodSeconds": 5, "failureThreshold": 3});
        let (case, id) = probing(json!({"name": "c", "livenessProbe": probe})).await;
        pass(6).await;
        assert_eq!(
            case.probes.health("u")[&id],
            Health {
                started: None,
                ready: true,
                failed: None
            }
        );
        case.fake.answer_exec("c", 1, "no");
        pass(10).await;
        assert_eq!(case.probes.health("u")[&id].failed, None);
        pass(5).await;
        assert_eq!(case.probes.health("u")[&id].failed, Some(("liveness", None)));
        assert_eq!(case.told.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn readiness_follows_its_answers_in_both_directions() {
        let probe =
            json!({"exec": {"command": ["true"]}, "periodSeconds": 2, "failureThreshold": 1, "initialDelaySeconds": 4});
        let (case, id) = probing(json!({"name": "c", "readinessProbe": probe})).await;
        pass(3).await;
        assert!(!case.probes.health("u")[&id].ready);
        pass(2).await;
        assert!(case.probes.health("u")[&id].ready);
        case.fake.answer_exec("c", 1, "no");
        pass(2).await;
        assert!(!case.probes.health("u")[&id].ready);
    }

    #[tokio::test(start_paused = true)]
    async fn liveness_waits_for_startup() {
        let bad = json!({"exec": {"command": ["true"]}, "periodSeconds": 1, "failureThreshold": 1});
        let slow = json!({"exec": {"command": ["true"]}, "periodSeconds": 1, "failureThreshold": 30, "initialDelaySeconds": 10});
        let (case, id) = probing(json!({"name": "c", "livenessProbe": bad, "startupProbe": slow})).await;
        pass(9).await;
        assert_eq!(
            case.probes.health("u")[&id],
            Health {
                started: Some(false),
                ready: false,
                failed: None
            }
        );
        pass(2).await;
        assert_eq!(
            case.probes.health("u")[&id],
            Health {
                started: Some(true),
                ready: true,
                failed: None
            }
        );
    }
}
