//! One round of work on a pod: what the plan says is done in its order, and what came of it is reported.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::future::join_all;

use super::{
    observed::Observed,
    plan::{self, Plan, Sandbox},
    shared::{Inbox, Shared},
    sync::{Stuck, definition, grace},
    translate::Subject,
};
use crate::volumes;

/// What came of one round of work.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) volumes: Option<volumes::Prepared>,
    /// By the containers' names.
    pub(super) updated: Vec<(String, Result<(), String>)>,
    pub(super) started: Vec<(plan::Start, Result<(), Stuck>)>,
    /// The pod as a whole could not go on.
    pub(super) held: bool,
}

/// Stops, prepares and starts in that order; what fails is told to the pod's events and keeps what depends on it waiting.
pub(super) async fn perform(
    shared: &Arc<Shared>,
    subject: &Subject<'_>,
    plan: &Plan,
    observed: &Observed,
    inbox: &Inbox,
) -> Done {
    let mut done = Done::default();
    let pod = subject.pod;
    let known = ips(observed);
    let ip = known.first().map(String::as_str);
    join_all(
        plan.stop
            .iter()
            .filter_map(|stop| observed.containers.iter().find(|c| c.id == stop.id).map(|s| (stop, s)))
            .map(|(stop, seen)| async move {
                let seconds = Duration::from_secs(grace(pod, stop.grace));
                shared.stop(Some(pod), seen, seconds, &stop.why, ip).await;
            }),
    )
    .await;
    let world = shared.world(subject.namespace, pod, known.clone());
    match shared.volumes.prepare(pod, &world).await {
        Ok(prepared) => done.volumes = Some(prepared),
        Err(error) => {
            shared.event(pod, None, true, "FailedMount", &error.to_string());
            done.held = true;
            return done;
        }
    }
    let (sandbox, attempt, addresses) = match &plan.sandbox {
        Sandbox::Unneeded => return done,
        Sandbox::Keep(id) => (id.clone(), observed.sandboxes.first().map_or(0, |s| s.attempt), known),
        Sandbox::Create { attempt } => {
            let made = match shared.make_cgroup(subject) {
                Ok(()) => shared.make_sandbox(subject, *attempt).await,
                Err(held) => Err(held),
            };
            let Ok(id) = made else {
                done.held = true;
                return done;
            };
            let status = shared.runtime.sandbox_status(&id).await;
            let network = status.ok().and_then(|s| s.network).unwrap_or_default();
            let all = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|a| a.ip));
            (id, *attempt, all.filter(|ip| !ip.is_empty()).collect())
        }
    };
    if !plan.update.is_empty() || !plan.start.is_empty() {
        let grown = shared.grow_cgroup(subject);
        for (id, name) in &plan.update {
            let result = match grown {
                Ok(()) => shared.update(subject, id, name).await,
                Err(_) => Err("the pod's cgroup cannot be changed".to_owned()),
            };
            done.held |= result.is_err();
            done.updated.push((name.clone(), result));
        }
    }
    let host = super::translate::host_network(subject.spec());
    let addresses = if host {
        shared.node.borrow().host_ips.clone()
    } else {
        addresses
    };
    let empty = HashMap::new();
    let volumes = done.volumes.as_ref().map_or(&empty, |v| &v.mounts);
    for start in &plan.start {
        let target = definition(pod, &start.name).and_then(|(_, target)| observed.latest(&target?));
        let starting = shared.start(subject, start, (&sandbox, attempt), &addresses, volumes, target);
        let result = tokio::select! {
            biased;
            result = starting => result,
            // A pull may take long, a pod that is to go does not wait for it.
            () = deleted(inbox) => break,
        };
        done.started.push((start.clone(), result));
    }
    let changed = plan
        .update
        .iter()
        .map(|(_, name)| name)
        .chain(plan.start.iter().map(|s| &s.name));
    if done.updated.iter().all(|(_, r)| r.is_ok()) && shared.resizing(subject, changed) {
        // What the containers gave back, the pod gives back.
        done.held |= shared.make_cgroup(subject).is_err();
    }
    done
}

/// Returns when the API wants the pod gone. The news stays in the box for the next step.
async fn deleted(inbox: &Inbox) {
    let mut seen = inbox.watch();
    loop {
        let going = inbox.peek(|news| news.gone || news.entry.as_ref().is_some_and(|e| e.deleting));
        if going {
            return;
        }
        // The sender lives in the box, which is borrowed here.
        seen.changed().await.expect("the box is still there");
    }
}

/// The addresses of the pod's sandbox, while it is ready.
pub(super) fn ips(observed: &Observed) -> Vec<String> {
    observed.current().map(|s| s.ips.clone()).unwrap_or_default()
}
