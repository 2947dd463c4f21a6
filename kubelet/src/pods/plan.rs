//! From what the API wants and what the runtime has to what is to be done next. Pure.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use tokio::time::Instant;

use super::{
    backoff::Backoff,
    observed::{Observed, Seen, State},
    resize::{Allocation, Step},
};
use crate::runtime::label;

/// What the prober has found out about a running container, by container identifier.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// None while there is no verdict yet.
    pub started: Option<bool>,
    pub ready: bool,
    /// A liveness or startup probe gave up on it: which, and the grace period that the probe asks for.
    pub failed: Option<(&'static str, Option<i64>)>,
}

#[derive(Debug)]
pub struct Facts<'a> {
    pub pod: &'a Pod,
    pub observed: &'a Observed,
    pub backoff: &'a Backoff,
    pub health: &'a HashMap<String, Health>,
    /// None: nobody may have wished for other resources.
    pub allocation: Option<&'a Allocation>,
    pub now: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sandbox {
    /// This one is ready.
    Keep(String),
    Create {
        attempt: u32,
    },
    /// Nothing is to be started any more, so none is needed.
    Unneeded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Init,
    Sidecar,
    Main,
    Ephemeral,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    pub name: String,
    pub role: Role,
    pub attempt: u32,
    /// When the run before this one ended, for the back-off.
    pub after: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    pub id: String,
    pub name: String,
    /// Text of the Killing event.
    pub why: String,
    pub grace: Option<i64>,
}

/// A container that may not start yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    pub name: String,
    pub until: Instant,
    pub delay: Duration,
}

/// How the pod ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    Succeeded,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub sandbox: Sandbox,
    pub stop: Vec<Stop>,
    /// Running containers that get other resources: identifier and name.
    pub update: Vec<(String, String)>,
    pub start: Vec<Start>,
    pub wait: Vec<Wait>,
    /// Dead containers that nothing is told of any more.
    pub remove: Vec<String>,
    pub remove_sandboxes: Vec<String>,
    pub finished: Option<Finished>,
}

impl Plan {
    pub fn wake(&self) -> Option<Instant> {
        self.wait.iter().map(|w| w.until).min()
    }
}

pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

pub fn inits(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

/// Whether a container that ended with this code is to run again. Rules and the container's own policy come before the pod's.
pub fn restarts(spec: &PodSpec, container: &Container, code: i32) -> bool {
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = rule.exit_codes.as_ref() else {
            continue;
        };
        let listed = codes.values.as_deref().unwrap_or_default().contains(&code);
        if rule.action == "Restart" && listed == (codes.operator == "In") {
            return true;
        }
    }
    match container.restart_policy.as_deref().or(spec.restart_policy.as_deref()) {
        Some("Never") => false,
        Some("OnFailure") => code != 0,
        _ => true,
    }
}

// An init container that succeeded is done whatever the policy says; `Always` of the pod means "until it succeeds".
fn init_restarts(spec: &PodSpec, container: &Container, code: i32) -> bool {
    code != 0 && restarts(spec, container, code)
}

/// What a container's definition is recognised by: a change of these makes it another container. Upstream: pickFieldsToHash.
pub fn hash(container: &Container) -> String {
    let mut hash: u32 = 0x811c_9dc5;
    for byte in container
        .name
        .bytes()
        .chain([0])
        .chain(container.image.iter().flat_map(|i| i.bytes()))
    {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    format!("{hash:x}")
}

// Another node agent hashes otherwise, and its containers are to be adopted as they are: then the image decides.
fn changed(container: &Container, seen: &Seen) -> bool {
    seen.annotation(label::HASH) != Some(hash(container).as_str())
        && container.image.as_deref() != Some(seen.image.as_str())
}

pub fn plan(facts: &Facts<'_>) -> Plan {
    let spec = facts.pod.spec.as_ref().expect("a pod from the API has a spec");
    let mut plan = Plan {
        sandbox: Sandbox::Unneeded,
        stop: Vec::new(),
        update: Vec::new(),
        start: Vec::new(),
        wait: Vec::new(),
        remove: Vec::new(),
        remove_sandboxes: Vec::new(),
        finished: finished(facts, spec),
    };
    if plan.finished.is_some() {
        return plan;
    }
    match facts.observed.current() {
        Some(sandbox) => {
            plan.sandbox = Sandbox::Keep(sandbox.id.clone());
            let begun = spec
                .containers
                .iter()
                .any(|c| facts.observed.latest_in(&sandbox.id, &c.name).is_some());
            // They are for finding out what is wrong, which may be an init container that does not end.
            ephemeral(facts, spec, &mut plan);
            if start_inits(facts, spec, &sandbox.id, begun, &mut plan) {
                for container in &spec.containers {
                    consider(facts, spec, &sandbox.id, container, Role::Main, &mut plan);
                }
            }
        }
        None => {
            let attempt = facts.observed.sandboxes.first().map_or(0, |s| s.attempt + 1);
            plan.sandbox = Sandbox::Create { attempt };
            // Whatever still runs in a sandbox that is not ready has lost its network and goes first.
            for seen in facts.observed.containers.iter().filter(|c| c.running()) {
                let why = "Pod sandbox changed, it will be killed and re-created.".to_owned();
                plan.stop.push(Stop {
                    id: seen.id.clone(),
                    name: seen.name.clone(),
                    why,
                    grace: None,
                });
            }
            start_inits(facts, spec, "", false, &mut plan);
            if plan.start.is_empty() && inits(spec).is_empty() {
                for container in &spec.containers {
                    consider(facts, spec, "", container, Role::Main, &mut plan);
                }
            }
        }
    }
    tidy(facts.observed, &mut plan);
    plan
}

/// All containers have ended and none will run again.
fn finished(facts: &Facts<'_>, spec: &PodSpec) -> Option<Finished> {
    let observed = facts.observed;
    for container in inits(spec).iter().filter(|c| !is_sidecar(c)) {
        if let Some(exit) = observed.latest(&container.name).and_then(Seen::exit)
            && exit.code != 0
            && !init_restarts(spec, container, exit.code)
        {
            return Some(Finished::Failed);
        }
    }
    let mut all = Finished::Succeeded;
    for container in &spec.containers {
        let seen = observed.latest(&container.name)?;
        let exit = seen.exit()?;
        if restarts(spec, container, exit.code) || changed(container, seen) || resized(facts, container) {
            return None;
        }
        if exit.code != 0 {
            all = Finished::Failed;
        }
    }
    (!spec.containers.is_empty()).then_some(all)
}

/// Plans init containers in their order; true once the ordinary ones may run. `begun`: they did already in this sandbox.
fn start_inits(facts: &Facts<'_>, spec: &PodSpec, sandbox: &str, begun: bool, plan: &mut Plan) -> bool {
    for container in inits(spec) {
        let seen = facts.observed.latest_in(sandbox, &container.name);
        if is_sidecar(container) {
            consider(facts, spec, sandbox, container, Role::Sidecar, plan);
            let started =
                seen.is_some_and(|s| s.running() && facts.health.get(&s.id).is_none_or(|h| h.started != Some(false)));
            if !started && !begun {
                return false;
            }
            continue;
        }
        if begun || seen.and_then(Seen::exit).is_some_and(|e| e.code == 0) {
            continue;
        }
        consider(facts, spec, sandbox, container, Role::Init, plan);
        return false;
    }
    true
}

fn ephemeral(facts: &Facts<'_>, spec: &PodSpec, plan: &mut Plan) {
    for container in spec.ephemeral_containers.iter().flatten() {
        if facts.observed.latest(&container.name).is_none() {
            plan.start.push(Start {
                name: container.name.clone(),
                role: Role::Ephemeral,
                attempt: 0,
                after: None,
            });
        }
    }
}

/// Starts, stops or leaves one container whose turn it is.
fn consider(facts: &Facts<'_>, spec: &PodSpec, sandbox: &str, container: &Container, role: Role, plan: &mut Plan) {
    let name = &container.name;
    let start = |attempt, after| Start {
        name: name.clone(),
        role,
        attempt,
        after,
    };
    // Earlier runs may lie in an earlier sandbox; they count for the attempt and the restart policy.
    let Some(seen) = facts.observed.latest(name) else {
        return plan.start.push(start(0, None));
    };
    match &seen.state {
        State::Running if seen.sandbox != sandbox => plan.start.push(start(seen.attempt + 1, None)),
        State::Running => {
            if let Some(stop) = must_stop(facts, spec, container, role, seen) {
                plan.stop.push(stop);
            } else if facts.allocation.and_then(|a| a.step(container)) == Some(Step::Update) {
                plan.update.push((seen.id.clone(), name.clone()));
            }
        }
        State::Created | State::Unknown => plan.start.push(start(seen.attempt + 1, None)),
        State::Exited(exit) => {
            let again = match role {
                Role::Init => seen.sandbox != sandbox || init_restarts(spec, container, exit.code),
                Role::Sidecar | Role::Main => {
                    restarts(spec, container, exit.code) || changed(container, seen) || resized(facts, container)
                }
                Role::Ephemeral => false,
            };
            if !again {
                return;
            }
            match facts.backoff.until(name, exit.at) {
                Some((until, delay)) if until > facts.now => {
                    plan.wait.push(Wait {
                        name: name.clone(),
                        until,
                        delay,
                    });
                }
                _ => plan.start.push(start(seen.attempt + 1, Some(exit.at))),
            }
        }
    }
}

fn must_stop(facts: &Facts<'_>, spec: &PodSpec, container: &Container, role: Role, seen: &Seen) -> Option<Stop> {
    let stop = |why: String, grace| Stop {
        id: seen.id.clone(),
        name: seen.name.clone(),
        why,
        grace,
    };
    if role != Role::Init && changed(container, seen) {
        return Some(stop(
            format!("Container {} definition changed, will be restarted", container.name),
            None,
        ));
    }
    if role != Role::Init && resized(facts, container) {
        return Some(stop(
            format!("Container {} resize requires restart", container.name),
            None,
        ));
    }
    let (probe, grace) = facts.health.get(&seen.id).and_then(|h| h.failed)?;
    // A killed container ends with a code that is not 0.
    let again = if restarts(spec, container, 137) {
        ", will be restarted"
    } else {
        ""
    };
    Some(stop(
        format!("Container {} failed {probe} probe{again}", container.name),
        grace,
    ))
}

/// It was, or is to be, stopped for resources that it only takes when it starts.
fn resized(facts: &Facts<'_>, container: &Container) -> bool {
    facts.allocation.and_then(|a| a.step(container)) == Some(Step::Restart)
}

/// Keeps of each name the latest run and the one before it, and sandboxes that hold one of these.
fn tidy(observed: &Observed, plan: &mut Plan) {
    let mut runs: HashMap<&str, usize> = HashMap::new();
    let mut needed: Vec<&str> = Vec::new();
    for seen in &observed.containers {
        let run = runs.entry(&seen.name).or_default();
        *run += 1;
        if *run <= 2 || seen.running() {
            needed.push(&seen.sandbox);
        } else {
            plan.remove.push(seen.id.clone());
        }
    }
    let old = observed
        .sandboxes
        .iter()
        .skip(1)
        .filter(|s| !s.ready && !needed.contains(&s.id.as_str()));
    plan.remove_sandboxes.extend(old.map(|s| s.id.clone()));
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
