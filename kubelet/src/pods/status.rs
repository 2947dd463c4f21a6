//! From what the runtime has of a pod to what the API is told, and the telling. The only writer of pods' status.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, ContainerUser, HostIP, LinuxContainerUser, Pod, PodCondition, PodIP, PodSpec, PodStatus,
        VolumeMount, VolumeMountStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    observed::{Observed, Seen, State},
    plan::{Finished, Health, inits, is_sidecar},
    resize::{Allocation, Told},
};
use crate::resources::qos;

/// Why a container does not run: reason and message of its waiting state.
pub type Waiting = HashMap<String, (String, String)>;

/// How a pod stands as a whole, beyond its containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Lives,
    /// Ended by itself.
    Finished(Finished),
    /// Ended by this node, with reason and message of the pod.
    Killed {
        reason: String,
        message: String,
    },
    /// Never began here.
    Rejected {
        reason: String,
        message: String,
    },
}

#[derive(Debug)]
pub struct View<'a> {
    pub pod: &'a Pod,
    /// What the API has been told so far.
    pub old: &'a PodStatus,
    pub observed: &'a Observed,
    pub health: &'a HashMap<String, Health>,
    pub waiting: &'a Waiting,
    pub fate: &'a Fate,
    pub host_ips: &'a [String],
    /// Last words, by container identifier.
    pub messages: &'a HashMap<String, String>,
    /// The pod has been told to stop: what does not run will not.
    pub terminating: bool,
    pub runtime: &'a str,
    pub resize: &'a Told,
    pub allocation: Option<&'a Allocation>,
    pub now: Timestamp,
}

pub fn status(view: &View<'_>) -> PodStatus {
    let spec = view.pod.spec.as_ref().expect("a pod from the API has a spec");
    let old = view.old.clone();
    let begun = spec.containers.iter().any(|c| view.observed.latest(&c.name).is_some());
    let init_statuses: Vec<ContainerStatus> = inits(spec)
        .iter()
        .map(|c| container(view, c, old.init_container_statuses.as_deref(), true, begun))
        .collect();
    let statuses: Vec<ContainerStatus> = spec
        .containers
        .iter()
        .map(|c| container(view, c, old.container_statuses.as_deref(), false, begun))
        .collect();
    let ephemeral: Vec<ContainerStatus> = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .filter_map(|e| {
            serde_json::to_value(e)
                .ok()
                .and_then(|v| serde_json::from_value::<Container>(v).ok())
        })
        .map(|c| {
            let mut status = container(view, &c, old.ephemeral_container_statuses.as_deref(), false, begun);
            // Probes and readiness are not for those who only visit.
            (status.ready, status.started) = (false, None);
            (status.allocated_resources, status.resources) = (None, None);
            status
        })
        .collect();
    let phase = phase(view, spec, &init_statuses, &statuses);
    let mut next = PodStatus {
        phase: Some(phase.to_owned()),
        host_ip: view.host_ips.first().cloned(),
        host_ips: Some(view.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        start_time: old.start_time.clone().or(Some(Time(whole(view.now)))),
        qos_class: Some(qos::qos(view.pod).as_str().to_owned()),
        observed_generation: view.pod.metadata.generation.or(old.observed_generation),
        init_container_statuses: Some(init_statuses).filter(|s| !s.is_empty()),
        container_statuses: Some(statuses),
        ephemeral_container_statuses: Some(ephemeral).filter(|s| !s.is_empty()),
        reason: None,
        message: None,
        ..old
    };
    match view.fate {
        Fate::Lives | Fate::Finished(_) => {}
        Fate::Killed { reason, message } | Fate::Rejected { reason, message } => {
            next.reason = Some(reason.clone());
            next.message = Some(message.clone());
        }
    }
    if matches!(view.fate, Fate::Rejected { .. }) {
        next.container_statuses = None;
        next.init_container_statuses = None;
    }
    let ips: Vec<String> = match view.observed.current() {
        Some(_) if super::translate::host_network(spec) => view.host_ips.to_vec(),
        Some(sandbox) => sandbox.ips.clone(),
        // An ended pod keeps the address that it had: logs and people refer to it.
        None => next.pod_ips.iter().flatten().map(|p| p.ip.clone()).collect(),
    };
    next.pod_ip = ips.first().cloned();
    next.pod_ips = (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect());
    conditions(view, spec, &mut next);
    if let Fate::Killed { reason, message } = view.fate
        && reason == "Evicted"
    {
        disrupted(&mut next, message, Time(whole(view.now)));
    }
    bound_messages(&mut next, spec);
    next
}

/// All last words of a pod together.
const MOST_WORDS: usize = 12 << 10;

/// Each container may use its part of that; of longer words the beginning and the end are told.
fn bound_messages(next: &mut PodStatus, spec: &PodSpec) {
    let count = spec.containers.len() + inits(spec).len() + spec.ephemeral_containers.as_ref().map_or(0, Vec::len);
    let half = MOST_WORDS / count.max(1) / 2;
    let lists = [
        &mut next.container_statuses,
        &mut next.init_container_statuses,
        &mut next.ephemeral_container_statuses,
    ];
    let statuses = lists.into_iter().flatten().flatten();
    let states = statuses
        .flat_map(|s| [s.state.as_mut(), s.last_state.as_mut()])
        .flatten();
    for message in states.filter_map(|s| s.terminated.as_mut()?.message.as_mut()) {
        if message.len() > 2 * half {
            let head = (0..=half).rev().find(|&at| message.is_char_boundary(at)).unwrap_or(0);
            let from = message.len() - half;
            let tail = (from..=message.len())
                .find(|&at| message.is_char_boundary(at))
                .unwrap_or(from);
            *message = format!("{}{}", &message[..head], &message[tail..]);
        }
    }
}

fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn stamp(nanos: i64) -> Option<Time> {
    (nanos > 0)
        .then(|| Timestamp::from_second(nanos.div_euclid(1_000_000_000)).ok())
        .flatten()
        .map(Time)
}

fn container(
    view: &View<'_>,
    spec: &Container,
    old: Option<&[ContainerStatus]>,
    init: bool,
    begun: bool,
) -> ContainerStatus {
    let name = &spec.name;
    let old = old.and_then(|all| all.iter().find(|s| s.name == *name));
    let seen = view.observed.latest(name);
    let id = |seen: &Seen| format!("{}://{}", view.runtime, seen.id);
    let mut status = ContainerStatus {
        name: name.clone(),
        image: spec.image.clone().unwrap_or_default(),
        ready: false,
        started: Some(false),
        ..ContainerStatus::default()
    };
    let mut last = view
        .observed
        .previous(name)
        .and_then(|s| terminated(view, s))
        .or_else(|| {
            let had = old?.last_state.as_ref()?.terminated.clone();
            had.map(|t| ContainerState {
                terminated: Some(t),
                ..ContainerState::default()
            })
        });
    match seen {
        None => {
            let (reason, message) = match view.waiting.get(name) {
                Some((reason, message)) => (reason.clone(), Some(message.clone())),
                None if !init && begun => ("ContainerCreating".to_owned(), None),
                None => {
                    let inits = view.pod.spec.as_ref().is_some_and(|s| !inits(s).is_empty());
                    (
                        if inits { "PodInitializing" } else { "ContainerCreating" }.to_owned(),
                        None,
                    )
                }
            };
            status.state = Some(waiting(reason, message));
            status.restart_count = old.map_or(0, |o| o.restart_count);
            // The containers went before the pod was told of: what the API knows of them stays.
            if let Some(old) = old.filter(|_| view.terminating || !matches!(view.fate, Fate::Lives)) {
                if old.state.as_ref().is_some_and(|s| s.terminated.is_some()) {
                    return ContainerStatus {
                        ready: false,
                        started: Some(false),
                        ..old.clone()
                    };
                }
                if old.state.as_ref().is_some_and(|s| s.running.is_some()) {
                    status.container_id = old.container_id.clone();
                    status.image_id = old.image_id.clone();
                    status.state = Some(ContainerState {
                        terminated: Some(ContainerStateTerminated {
                            exit_code: 137,
                            reason: Some("ContainerStatusUnknown".to_owned()),
                            message: Some("The container could not be located when the pod was deleted.  The container used to be Running".to_owned()),
                            ..ContainerStateTerminated::default()
                        }),
                        ..ContainerState::default()
                    });
                }
            }
        }
        Some(seen) => {
            status.container_id = Some(id(seen));
            status.image = if seen.image.is_empty() || seen.image.starts_with("sha256:") {
                status.image
            } else {
                seen.image.clone()
            };
            status.image_id = if seen.image_ref.is_empty() {
                seen.image_id.clone()
            } else {
                seen.image_ref.clone()
            };
            status.restart_count = i32::try_from(seen.attempt).unwrap_or(i32::MAX);
            status.user = seen.user.as_ref().map(|u| ContainerUser {
                linux: Some(LinuxContainerUser {
                    uid: u.uid,
                    gid: u.gid,
                    supplemental_groups: Some(u.supplemental_groups.clone()),
                }),
            });
            match &seen.state {
                State::Running => {
                    let health = view.health.get(&seen.id);
                    let started = health.is_none_or(|h| h.started != Some(false));
                    status.started = Some(started);
                    status.ready = match (init, is_sidecar(spec)) {
                        (true, false) => false,
                        _ => health.is_none_or(|h| h.ready) && started,
                    };
                    let running = ContainerStateRunning {
                        started_at: stamp(seen.started),
                    };
                    status.state = Some(ContainerState {
                        running: Some(running),
                        ..ContainerState::default()
                    });
                }
                State::Exited(_) => {
                    let ended = terminated(view, seen);
                    match view.waiting.get(name).filter(|_| !view.terminating) {
                        Some((reason, message)) => {
                            status.state = Some(waiting(reason.clone(), Some(message.clone())));
                            last = ended;
                        }
                        None => status.state = ended,
                    }
                    let done = seen.exit().is_some_and(|e| e.code == 0);
                    status.ready = init && !is_sidecar(spec) && done;
                }
                State::Created | State::Unknown => {
                    let (reason, message) = match view.waiting.get(name) {
                        Some((reason, message)) => (reason.clone(), Some(message.clone())),
                        None => ("ContainerCreating".to_owned(), None),
                    };
                    status.state = Some(waiting(reason, message));
                }
            }
        }
    }
    status.last_state = Some(last.unwrap_or_default());
    if seen.is_some() {
        let granted = spec.resources.clone().unwrap_or_default();
        status.allocated_resources = granted.requests.clone();
        let applied = view.allocation.and_then(|a| a.applied.get(name)).cloned();
        status.resources = Some(applied.unwrap_or(granted));
    }
    status.volume_mounts = Some(
        spec.volume_mounts
            .iter()
            .flatten()
            .map(|m| mounted(seen, m))
            .collect::<Vec<_>>(),
    )
    .filter(|m| !m.is_empty());
    status
}

fn mounted(seen: Option<&Seen>, mount: &VolumeMount) -> VolumeMountStatus {
    let read_only = mount.read_only == Some(true);
    let recursive = seen.is_some_and(|s| {
        let here = s.mounts.iter().find(|m| m.container_path == mount.mount_path);
        here.is_some_and(|m| m.recursive_read_only)
    });
    VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: read_only.then_some(true),
        recursive_read_only: read_only.then(|| if recursive { "Enabled" } else { "Disabled" }.to_owned()),
        ..VolumeMountStatus::default()
    }
}

fn waiting(reason: String, message: Option<String>) -> ContainerState {
    let waiting = ContainerStateWaiting {
        reason: Some(reason),
        message: message.filter(|m| !m.is_empty()),
    };
    ContainerState {
        waiting: Some(waiting),
        ..ContainerState::default()
    }
}

fn terminated(view: &View<'_>, seen: &Seen) -> Option<ContainerState> {
    let exit = seen.exit()?;
    let words = view.messages.get(&seen.id).map_or("", String::as_str);
    let said: Vec<&str> = [exit.message.as_str(), words]
        .into_iter()
        .filter(|m| !m.is_empty())
        .collect();
    let message = Some(said.join(": ")).filter(|m| !m.is_empty());
    let terminated = ContainerStateTerminated {
        container_id: Some(format!("{}://{}", view.runtime, seen.id)),
        exit_code: exit.code,
        finished_at: stamp(exit.finished),
        started_at: stamp(seen.started),
        reason: Some(exit.reason.clone()).filter(|r| !r.is_empty()),
        message,
        signal: None,
    };
    Some(ContainerState {
        terminated: Some(terminated),
        ..ContainerState::default()
    })
}

fn ended(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.state.as_ref()?.terminated.as_ref()
}

fn running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|s| s.running.is_some())
}

fn phase(
    view: &View<'_>,
    spec: &PodSpec,
    init_statuses: &[ContainerStatus],
    statuses: &[ContainerStatus],
) -> &'static str {
    match view.fate {
        Fate::Killed { .. } | Fate::Rejected { .. } | Fate::Finished(Finished::Failed) => return "Failed",
        Fate::Finished(Finished::Succeeded) => return "Succeeded",
        Fate::Lives => {}
    }
    if view.terminating && !statuses.iter().any(running) && statuses.iter().all(|s| ended(s).is_some()) {
        // A pod that was told to stop is over when its containers are, whatever its restart policy.
        return if statuses.iter().all(|s| ended(s).is_some_and(|t| t.exit_code == 0)) {
            "Succeeded"
        } else {
            "Failed"
        };
    }
    let begun = statuses
        .iter()
        .any(|s| running(s) || ended(s).is_some() || s.restart_count > 0);
    let initialized = inits(spec).iter().zip(init_statuses).all(|(c, s)| initialized(c, s)) || begun;
    let never_ran = |s: &ContainerStatus| {
        !running(s) && ended(s).is_none() && s.last_state.as_ref().is_none_or(|l| l.terminated.is_none())
    };
    if !initialized {
        return "Pending";
    }
    // One container that has never run keeps the pod pending, whatever the others do.
    if statuses.iter().any(never_ran) {
        "Pending"
    } else {
        "Running"
    }
}

fn initialized(spec: &Container, status: &ContainerStatus) -> bool {
    if is_sidecar(spec) {
        running(status) && status.started == Some(true)
    } else {
        ended(status).is_some_and(|t| t.exit_code == 0)
    }
}

/// Conditions of this node agent that are there only while they are true.
const RESIZES: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// Controllers tell by this that the pod did not fail by itself.
fn disrupted(next: &mut PodStatus, message: &str, now: Time) {
    const KIND: &str = "DisruptionTarget";
    let conditions = next.conditions.get_or_insert_default();
    if conditions.iter().any(|c| c.type_ == KIND && c.status == "True") {
        return;
    }
    conditions.retain(|c| c.type_ != KIND);
    conditions.push(PodCondition {
        type_: KIND.to_owned(),
        status: "True".to_owned(),
        reason: Some("TerminationByKubelet".to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(now),
        ..PodCondition::default()
    });
}

fn conditions(view: &View<'_>, spec: &PodSpec, next: &mut PodStatus) {
    let done = next.phase.as_deref() == Some("Succeeded");
    let failed = next.phase.as_deref() == Some("Failed");
    let quoted = |names: &[&str]| format!("[{}]", names.join(" "));
    let empty = Vec::new();
    let statuses = next.container_statuses.as_ref().unwrap_or(&empty);
    let init_statuses = next.init_container_statuses.as_ref().unwrap_or(&empty);
    let begun = statuses.iter().any(|s| running(s) || ended(s).is_some());
    let raw: Vec<&str> = inits(spec)
        .iter()
        .filter(|c| {
            !init_statuses
                .iter()
                .any(|s| s.name == c.name && (initialized(c, s) || (begun && !is_sidecar(c))))
        })
        .map(|c| c.name.as_str())
        .collect();
    let unready: Vec<&str> = spec
        .containers
        .iter()
        .chain(inits(spec).iter().filter(|c| is_sidecar(c)))
        .filter(|c| {
            !statuses
                .iter()
                .chain(init_statuses)
                .any(|s| s.name == c.name && s.ready)
        })
        .map(|c| c.name.as_str())
        .collect();
    let yes = || ("True", String::new(), String::new());
    let no = |reason: &str, message: String| ("False", reason.to_owned(), message);
    let networked = view.observed.current().is_some();
    let initialized = if done {
        ("True", "PodCompleted".to_owned(), String::new())
    } else if raw.is_empty() {
        yes()
    } else {
        no(
            "ContainersNotInitialized",
            format!("containers with incomplete status: {}", quoted(&raw)),
        )
    };
    let containers_ready = if done {
        no("PodCompleted", String::new())
    } else if failed {
        no("PodFailed", String::new())
    } else if unready.is_empty() {
        yes()
    } else {
        no(
            "ContainersNotReady",
            format!("containers with unready status: {}", quoted(&unready)),
        )
    };
    let gates: Vec<String> = spec
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            let had = next.conditions.iter().flatten().find(|c| c.type_ == *kind);
            match had.map(|c| c.status.as_str()) {
                Some("True") => None,
                Some(status) => Some(format!(
                    "the status of pod readiness gate \"{kind}\" is not \"True\", but {status}"
                )),
                None => Some(format!(
                    "corresponding condition of pod readiness gate \"{kind}\" does not exist."
                )),
            }
        })
        .collect();
    let ready = match &containers_ready {
        ("True", ..) if !gates.is_empty() => no("ReadinessGatesNotReady", gates.join(", ")),
        other => other.clone(),
    };
    let generation = next.observed_generation;
    let list = next.conditions.get_or_insert_default();
    let mut set = |kind: &str, (status, reason, message): (&str, String, String)| {
        let now = Time(whole(view.now));
        let condition = PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason).filter(|r| !r.is_empty()),
            message: Some(message).filter(|m| !m.is_empty()),
            observed_generation: generation,
            ..PodCondition::default()
        };
        match list.iter_mut().find(|c| c.type_ == kind) {
            Some(had) => {
                let transition = if had.status == condition.status {
                    had.last_transition_time.clone()
                } else {
                    Some(now)
                };
                *had = PodCondition {
                    last_transition_time: transition,
                    last_probe_time: had.last_probe_time.clone(),
                    ..condition
                };
            }
            None => list.push(PodCondition {
                last_transition_time: Some(now),
                ..condition
            }),
        }
    };
    set(
        "PodReadyToStartContainers",
        if networked {
            yes()
        } else {
            ("False", String::new(), String::new())
        },
    );
    set("Initialized", initialized);
    set("Ready", ready);
    set("ContainersReady", containers_ready);
    let scheduled = ("True", String::new(), String::new());
    set("PodScheduled", scheduled);
    let Told { pending, progress } = view.resize;
    if let Some((reason, message)) = pending {
        set(RESIZES[0], ("True", reason.clone(), message.clone()));
    }
    if let Some(error) = progress {
        let reason = if error.is_empty() { "" } else { "Error" };
        set(RESIZES[1], ("True", reason.to_owned(), error.clone()));
    }
    let over = |kind: &str| (kind == RESIZES[0] && pending.is_none()) || (kind == RESIZES[1] && progress.is_none());
    list.retain(|c| !over(&c.type_));
}

#[derive(Debug, Deserialize)]
struct Written {
    metadata: WrittenMeta,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenMeta {
    resource_version: Option<String>,
}

/// Tells the API where it knows otherwise. The new resource version, or none where nothing was to be told.
pub async fn write(
    client: &kube::Client,
    pod: &Pod,
    old: &PodStatus,
    next: &PodStatus,
) -> Result<Option<String>, kube::Error> {
    if old == next {
        return Ok(None);
    }
    let body = patch(pod, old, next);
    let (namespace, name) = (
        pod.metadata.namespace.as_deref().unwrap_or("default"),
        pod.metadata.name.as_deref().unwrap_or_default(),
    );
    let request = http::Request::patch(format!("/api/v1/namespaces/{namespace}/pods/{name}/status"))
        .header("content-type", "application/strategic-merge-patch+json")
        .body(body.to_string().into_bytes())
        .map_err(|e| kube::Error::Service(Box::new(e)))?;
    let written: Written = client.request(request).await?;
    Ok(written.metadata.resource_version)
}

/// A strategic merge patch: conditions that others own are not mentioned and stay, addresses that went are named.
fn patch(pod: &Pod, old: &PodStatus, next: &PodStatus) -> Value {
    let mut body = serde_json::to_value(next).expect("plain data has a JSON form");
    let had = serde_json::to_value(old).expect("plain data has a JSON form");
    let members = body.as_object_mut().expect("a struct is an object");
    let gone: BTreeMap<String, Value> = had
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| !members.contains_key(key.as_str()))
        .map(|(key, _)| (key.clone(), Value::Null))
        .collect();
    // Only what differs is sent: the rest may meanwhile have been changed by others.
    members.retain(|key, value| had.get(key.as_str()) != Some(value));
    if let Some(conditions) = members.get_mut("conditions").and_then(Value::as_array_mut) {
        let before = had
            .get("conditions")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let over = before.iter().filter(|b| {
            let kind = b["type"].as_str().unwrap_or_default();
            RESIZES.contains(&kind) && !conditions.iter().any(|c| c["type"] == kind)
        });
        let over: Vec<Value> = over.map(|b| json!({"$patch": "delete", "type": b["type"]})).collect();
        conditions.retain(|c| !before.contains(c));
        // Lists merge by type and members within: what a condition no longer says has to be taken back.
        for condition in conditions.iter_mut() {
            let had = before
                .iter()
                .find(|b| b["type"] == condition["type"])
                .and_then(Value::as_object);
            for key in had.into_iter().flat_map(|h| h.keys()) {
                if condition.get(key).is_none() {
                    condition[key.as_str()] = Value::Null;
                }
            }
        }
        conditions.extend(over);
    }
    for list in ["podIPs", "hostIPs"] {
        let Some(now) = members.get_mut(list).and_then(Value::as_array_mut) else {
            continue;
        };
        let stale = had.get(list).and_then(Value::as_array).into_iter().flatten();
        let stale: Vec<Value> = stale.filter(|ip| !now.contains(ip)).cloned().collect();
        now.extend(stale.into_iter().map(|ip| json!({"$patch": "delete", "ip": ip["ip"]})));
    }
    members.extend(gone);
    json!({"metadata": {"uid": pod.metadata.uid}, "status": body})
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
