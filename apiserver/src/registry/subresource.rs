//! Subresources that are projections of their row: scale, binding, eviction. Status, finalize, ephemeralcontainers and
//! the like are plain updates with another [`Context::subresource`], which the strategy judges.

use serde_json::{Map, Value, json};

use super::remove::{Delete, Removed};
use super::write::{self, Context, Gate, Stored};
use super::{Registry, Row, from_store};
use crate::cache::Filter;
use crate::object::Object;
use crate::status::{About, Cause, Details, Errors, Status};
use crate::store::{self, Expect};
use crate::strategy::meta;

const PODS_BINDING: About<'_> = About {
    group: "",
    resource: "pods/binding",
};

/// The `autoscaling/v1` Scale of a workload.
pub fn scale_of(object: &Object) -> Object {
    let mut metadata = Map::new();
    for name in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.at(&["metadata", name]) {
            metadata.insert(name.into(), value.clone());
        }
    }
    let number = |path: &[&str]| object.at(path).and_then(Value::as_i64).unwrap_or(0);
    let mut spec = Map::new();
    // Upstream's Scale omits zero.
    if number(&["spec", "replicas"]) != 0 {
        spec.insert("replicas".into(), number(&["spec", "replicas"]).into());
    }
    let mut status = Map::from_iter([("replicas".to_owned(), Value::from(number(&["status", "replicas"])))]);
    let selector = selector_text(object.at(&["spec", "selector"]));
    if !selector.is_empty() {
        status.insert("selector".into(), selector.into());
    }
    Object(Map::from_iter([
        ("apiVersion".to_owned(), json!("autoscaling/v1")),
        ("kind".to_owned(), json!("Scale")),
        ("metadata".to_owned(), Value::Object(metadata)),
        ("spec".to_owned(), Value::Object(spec)),
        ("status".to_owned(), Value::Object(status)),
    ]))
}

/// A LabelSelector, or the plain map that a ReplicationController has, in its string form.
fn selector_text(selector: Option<&Value>) -> String {
    let Some(Value::Object(selector)) = selector else {
        return String::new();
    };
    let is_plain = !selector.contains_key("matchLabels") && !selector.contains_key("matchExpressions");
    let labels = if is_plain {
        Some(selector)
    } else {
        selector.get("matchLabels").and_then(Value::as_object)
    };
    let mut terms: Vec<(String, String)> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), format!("{key}={}", value.as_str().unwrap_or(""))))
        .collect();
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    for expression in expressions.into_iter().flatten() {
        let text = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or("");
        let mut values: Vec<&str> = expression
            .get("values")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        values.sort_unstable();
        let (key, values) = (text("key"), values.join(","));
        let term = match text("operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        };
        terms.push((key.to_owned(), term));
    }
    terms.sort();
    terms.into_iter().map(|(_, term)| term).collect::<Vec<_>>().join(",")
}

/// The workload with the replicas that `scale` asks for. `old` is the workload as it is.
pub fn scaled(row: &Row, name: &str, old: &Object, scale: &Object) -> Result<Object, Status> {
    let about = About {
        group: "autoscaling",
        resource: "Scale",
    };
    let mut errors = Errors::default();
    let replicas = match scale.at(&["spec", "replicas"]) {
        None => 0,
        Some(value) => value.as_i64().unwrap_or(-1),
    };
    if replicas < 0 {
        let why = "must be greater than or equal to 0";
        errors.invalid("spec.replicas", &Value::from(replicas), why);
    }
    if !errors.is_empty() {
        return Err(Status::invalid(about.group, about.resource, name, errors));
    }
    if !scale.resource_version().is_empty() && scale.resource_version() != old.resource_version() {
        return Err(Status::conflict(row.about(), name, write::STALE));
    }
    let mut new = old.clone();
    if !scale.uid().is_empty() {
        new.metadata_mut().insert("uid".into(), scale.uid().into());
    }
    new.entry("spec").insert("replicas".into(), replicas.into());
    Ok(new)
}

impl Registry {
    /// A change that the server itself makes to a part of an object: no strategy, no admission, the same
    /// compare-and-swap loop.
    pub async fn amend(
        &self,
        row: &Row,
        context: &Context<'_>,
        name: &str,
        mut change: impl FnMut(&mut Object) -> Result<(), Status> + Send,
    ) -> Result<Stored, Status> {
        let key = row.cache()?.key(context.namespace, name);
        loop {
            let Some(entry) = self.store.get(&key).await.map_err(from_store)? else {
                return Err(Status::not_found(row.about(), name));
            };
            let mut object = row.decode(&entry)?;
            change(&mut object)?;
            let value = row.encode(&mut object);
            let done = |revision| Stored {
                value: value.clone(),
                revision: Some(revision),
                created: false,
            };
            if context.dry_run || value == entry.value {
                return Ok(done(entry.revision));
            }
            let expect = Expect::At(entry.revision);
            match self
                .store
                .put(&key, value.clone(), expect, write::options(row, context.namespace))
                .await
            {
                Ok(revision) => return Ok(done(revision)),
                Err(store::Error::Conflict { .. }) => {}
                Err(error) => return Err(from_store(error)),
            }
        }
    }

    /// Assigns a pod to the node that `binding` names.
    pub async fn bind(&self, row: &Row, context: &Context<'_>, name: &str, binding: &Object) -> Result<(), Status> {
        let node = binding.str_at(&["target", "name"]).to_owned();
        let mut errors = Errors::default();
        let kind = binding.str_at(&["target", "kind"]);
        if !matches!(kind, "" | "Node") {
            errors.unsupported("target.kind", &Value::from(kind), &["Node", "<empty>"]);
        }
        if node.is_empty() {
            errors.required("target.name", "");
        }
        if !errors.is_empty() {
            return Err(Status::invalid("", "Binding", binding.name(), errors));
        }
        let refused = |why: String| Err(Status::conflict(PODS_BINDING, name, &why));
        let entries = |field: &str| binding.at(&["metadata", field]).and_then(Value::as_object).cloned();
        let (annotations, labels) = (entries("annotations"), entries("labels"));
        self.amend(row, context, name, |pod| {
            if !binding.uid().is_empty() && binding.uid() != pod.uid() {
                let why = "Precondition failed: UID in precondition";
                return refused(format!("{why}: {}, UID in object meta: {}", binding.uid(), pod.uid()));
            }
            if !binding.resource_version().is_empty() && binding.resource_version() != pod.resource_version() {
                return refused(write::STALE.into());
            }
            if pod.is_deleting() {
                return refused(format!("pod {name} is being deleted, cannot be assigned to a host"));
            }
            let bound = pod.str_at(&["spec", "nodeName"]);
            if !bound.is_empty() {
                return refused(format!("pod {name} is already assigned to node {bound:?}"));
            }
            let gates = pod.at(&["spec", "schedulingGates"]).and_then(Value::as_array);
            if gates.is_some_and(|list| !list.is_empty()) {
                return refused(format!("pod {name} has non-empty .spec.schedulingGates"));
            }
            pod.entry("spec").insert("nodeName".into(), node.as_str().into());
            for (field, values) in [("annotations", &annotations), ("labels", &labels)] {
                if let Some(values) = values {
                    let slot = pod.metadata_mut().entry(field).or_insert_with(|| json!({}));
                    if let Value::Object(slot) = slot {
                        slot.extend(values.clone());
                    }
                }
            }
            let time = meta::seconds(context.now);
            set_condition(
                pod,
                json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": time, "lastProbeTime": null}),
            );
            Ok(())
        })
        .await
        .map(drop)
    }

    /// Deletes a pod where its disruption budget allows it.
    // Follows pkg/registry/core/pod/storage/eviction.go (1.36).
    pub async fn evict(
        &self,
        row: &Row,
        context: &Context<'_>,
        name: &str,
        options: &Delete,
        gate: &dyn Gate,
    ) -> Result<Removed, Status> {
        let pod = row.get(context.namespace, name, super::read::At::Fresh).await?.object();
        let over = matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed" | "Pending");
        if !over && !pod.is_deleting() {
            self.spend_budget(context, &pod).await?;
        }
        let mut options = options.clone();
        // The pod that was judged, and not another of its name.
        options.uid.get_or_insert_with(|| pod.uid().to_owned());
        let time = meta::seconds(context.now);
        let marked = self.amend(row, context, name, |now| {
            if now.uid() == pod.uid() {
                let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
                    "message": "Eviction API: evicting", "lastTransitionTime": time, "lastProbeTime": null});
                set_condition(now, condition);
            }
            Ok(())
        });
        let changed = marked.await?;
        // Who asked for the revision that was just left asked for this very pod.
        if options.resource_version.as_deref() == Some(pod.resource_version())
            && let Some(revision) = changed.revision.filter(|_| !context.dry_run)
        {
            options.resource_version = Some(revision.to_string());
        }
        self.delete(row, context, name, &options, gate).await
    }

    /// Takes one disruption from the budget that selects the pod, if one does and it is not free of it.
    async fn spend_budget(&self, context: &Context<'_>, pod: &Object) -> Result<(), Status> {
        let Some(budgets) = self.table().find("policy", "poddisruptionbudgets") else {
            return Ok(());
        };
        budgets.wait(super::read::At::Fresh).await?;
        let filter = Filter {
            namespace: Some(context.namespace.into()),
            ..Filter::default()
        };
        let labels = pod.at(&["metadata", "labels"]);
        let mut selecting = Vec::new();
        for item in budgets.cache()?.snapshot().list(&filter) {
            let budget = item.object();
            let selector = selector_text(budget.at(&["spec", "selector"]));
            let Ok(selector) = selector.parse::<api::selector::Labels>() else {
                continue;
            };
            if budget.at(&["spec", "selector"]).is_some()
                && selector.matches(|key| labels.and_then(|l| l.get(key)).and_then(Value::as_str))
            {
                selecting.push(budget);
            }
        }
        let budget = match selecting.as_slice() {
            [] => return Ok(()),
            [budget] => budget.name().to_owned(),
            _ => {
                return Err(Status::internal(
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                ));
            }
        };
        let context = Context {
            version: &budgets.versions[budgets.storage],
            ..*context
        };
        let time = meta::seconds(context.now);
        self.amend(&budgets, &context, &budget, |budget| {
            if is_free(budget, pod) {
                return Ok(());
            }
            spend(budget, pod.name(), &time)
        })
        .await
        .map(drop)
    }
}

/// Whether a pod that is not ready may go without being counted.
fn is_free(budget: &Object, pod: &Object) -> bool {
    let conditions = pod.at(&["status", "conditions"]).and_then(Value::as_array);
    let mut ready = conditions.into_iter().flatten();
    if ready.any(|condition| condition["type"] == "Ready" && condition["status"] == "True") {
        return false;
    }
    let number = |name: &str| budget.at(&["status", name]).and_then(Value::as_i64).unwrap_or(0);
    budget.str_at(&["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow"
        || number("desiredHealthy") > 0 && number("currentHealthy") >= number("desiredHealthy")
}

/// More evictions that nobody confirmed say that nobody counts.
const MOST_UNCONFIRMED: usize = 2000;

/// Takes one disruption from a budget, or says why there is none.
fn spend(budget: &mut Object, pod: &str, time: &str) -> Result<(), Status> {
    let number = |path: &[&str]| budget.at(path).and_then(Value::as_i64).unwrap_or(0);
    let name = budget.name();
    let refused = |cause: String, seconds: u32| {
        let why = "Cannot evict pod as it would violate the pod's disruption budget.";
        let mut status = Status::too_many_requests(why, seconds);
        status.details = Some(Box::new(Details {
            causes: vec![Cause {
                reason: "DisruptionBudget",
                message: cause,
                field: String::new(),
            }],
            retry_after_seconds: (seconds > 0).then_some(seconds),
            ..Details::default()
        }));
        Err(status)
    };
    let forbidden = |why: &str| {
        let about = About {
            group: "policy",
            resource: "poddisruptionbudget",
        };
        Err(Status::forbidden(about, name, why))
    };
    if number(&["status", "observedGeneration"]) < number(&["metadata", "generation"]) {
        let cause = format!("The disruption budget {name} is still being processed by the server.");
        return refused(cause, 10);
    }
    let allowed = number(&["status", "disruptionsAllowed"]);
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    let unconfirmed = budget.at(&["status", "disruptedPods"]).and_then(Value::as_object);
    if unconfirmed.is_some_and(|pods| pods.len() > MOST_UNCONFIRMED) {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        let conditions = budget.at(&["status", "conditions"]).and_then(Value::as_array);
        let mut conditions = conditions.into_iter().flatten();
        let failed = conditions.find(|it| it["type"] == "DisruptionAllowed" && it["reason"] == "SyncFailed");
        let cause = match failed {
            Some(failed) => format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {}",
                failed["message"].as_str().unwrap_or_default()
            ),
            None => format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                number(&["status", "desiredHealthy"]),
                number(&["status", "currentHealthy"])
            ),
        };
        return refused(cause, 0);
    }
    let generation = number(&["metadata", "generation"]);
    let status = budget.entry("status");
    status.insert("disruptionsAllowed".into(), (allowed - 1).into());
    let disrupted = status.entry("disruptedPods").or_insert_with(|| json!({}));
    if let Value::Object(disrupted) = disrupted {
        disrupted.insert(pod.to_owned(), time.into());
    }
    if allowed == 1 {
        set_condition(
            budget,
            json!({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
                "observedGeneration": generation, "lastTransitionTime": time}),
        );
    }
    Ok(())
}

/// Replaces the condition of the same type, or adds it; the time of the last transition stays where the status does.
fn set_condition(object: &mut Object, mut condition: Value) {
    let list = object.entry("status").entry("conditions").or_insert_with(|| json!([]));
    let Value::Array(list) = list else {
        *list = json!([condition]);
        return;
    };
    match list.iter_mut().find(|have| have["type"] == condition["type"]) {
        Some(have) => {
            if have["status"] == condition["status"] {
                condition["lastTransitionTime"] = have["lastTransitionTime"].clone();
            }
            *have = condition;
        }
        None => list.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        let Value::Object(map) = value else { panic!("an object") };
        Object(map)
    }

    #[test]
    fn a_budget_is_spent_one_by_one_and_then_says_what_it_needs() {
        let mut budget = object(json!({"metadata": {"name": "b", "generation": 2}, "spec": {},
            "status": {"observedGeneration": 2, "disruptionsAllowed": 1, "desiredHealthy": 2, "currentHealthy": 2}}));
        let time = "2026-01-01T00:00:00Z";
        spend(&mut budget, "p", time).unwrap();
        assert_eq!(budget.at(&["status", "disruptedPods", "p"]), Some(&json!(time)));
        assert_eq!(
            budget.at(&["status", "conditions"]).unwrap()[0]["reason"],
            "InsufficientPods"
        );
        let refused = spend(&mut budget, "q", time).unwrap_err();
        let cause = &refused.details.as_ref().unwrap().causes[0];
        assert_eq!(
            cause.message,
            "The disruption budget b needs 2 healthy pods and has 2 currently"
        );
        budget.metadata_mut().insert("generation".into(), json!(3));
        let refused = spend(&mut budget, "q", time).unwrap_err();
        assert_eq!(refused.details.unwrap().retry_after_seconds, Some(10));
    }

    #[test]
    fn an_unhealthy_pod_is_free_where_the_budget_says_so_or_can_do_without_it() {
        let budget = |policy: &str, healthy: i64| {
            object(json!({"spec": {"unhealthyPodEvictionPolicy": policy},
                "status": {"desiredHealthy": 2, "currentHealthy": healthy}}))
        };
        let pod = |ready: &str| object(json!({"status": {"conditions": [{"type": "Ready", "status": ready}]}}));
        assert!(is_free(&budget("AlwaysAllow", 0), &pod("False")));
        assert!(!is_free(&budget("AlwaysAllow", 9), &pod("True")));
        assert!(is_free(&budget("IfHealthyBudget", 2), &pod("False")));
        assert!(!is_free(&budget("", 1), &pod("False")));
    }

    #[test]
    fn a_scale_shows_replicas_and_the_selector_as_text() {
        let Value::Object(workload) = json!({
            "metadata": {"name": "web", "namespace": "a", "resourceVersion": "7", "labels": {"x": "y"}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}, "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["b", "a"]}, {"key": "old", "operator": "DoesNotExist"}]}},
            "status": {"replicas": 2},
        }) else {
            panic!("an object")
        };
        let scale = scale_of(&Object(workload));
        assert_eq!(scale.at(&["spec", "replicas"]), Some(&json!(3)));
        assert_eq!(scale.str_at(&["status", "selector"]), "app=web,!old,tier in (a,b)");
        assert_eq!(scale.at(&["metadata", "labels"]), None);
    }
}
