//! Small rules about pods and nodes: DefaultTolerationSeconds, TaintNodesByCondition, PodTopologyLabels, RuntimeClass.
//! After plugin/pkg/admission/{defaulttolerationseconds,nodetaint,podtopologylabels,runtimeclass} (1.36).

use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::sources::Source;
use super::{Admit, Attributes, Operation, items};
use crate::object::Object;
use crate::status::Status;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const SECONDS: i64 = 300;

/// How long a pod stays on a node that is gone, where it does not say.
#[derive(Debug)]
pub(super) struct DefaultTolerationSeconds;

impl Admit for DefaultTolerationSeconds {
    fn mutate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: &'a mut Object,
        _old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        if attributes.is("", "pods") {
            tolerate(new.entry("spec"));
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

fn tolerate(spec: &mut Map<String, Value>) {
    let tolerates = |spec: &Map<String, Value>, taint: &str| {
        items(spec.get("tolerations")).any(|toleration| {
            let text = |field: &str| toleration[field].as_str().unwrap_or_default();
            matches!(text("effect"), "" | "NoExecute") && (text("key") == taint || text("key").is_empty())
        })
    };
    let missing: Vec<Value> = [NOT_READY, UNREACHABLE]
        .into_iter()
        .filter(|taint| !tolerates(spec, taint))
        .map(|key| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}))
        .collect();
    if missing.is_empty() {
        return;
    }
    match spec.get_mut("tolerations").and_then(Value::as_array_mut) {
        Some(list) => list.extend(missing),
        None => {
            spec.insert("tolerations".into(), missing.into());
        }
    }
}

/// A new node takes no pods before its kubelet has said that it is ready.
#[derive(Debug)]
pub(super) struct TaintNodesByCondition;

impl Admit for TaintNodesByCondition {
    fn mutate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: &'a mut Object,
        _old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        if attributes.is("", "nodes") && attributes.operation == Operation::Create {
            let spec = new.entry("spec");
            let is_there =
                items(spec.get("taints")).any(|taint| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule");
            if !is_there {
                let taint = json!({"key": NOT_READY, "effect": "NoSchedule"});
                match spec.get_mut("taints").and_then(Value::as_array_mut) {
                    Some(taints) => taints.push(taint),
                    None => {
                        spec.insert("taints".into(), json!([taint]));
                    }
                }
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A bound pod carries where its node stands.
#[derive(Debug)]
pub(super) struct PodTopologyLabels {
    pub(super) nodes: Source,
}

impl Admit for PodTopologyLabels {
    fn mutate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: &'a mut Object,
        _old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let (labels, node) = if attributes.is_any("", "pods") && attributes.subresource == "binding" {
                let node = new.str_at(&["target", "name"]).to_owned();
                (new, node)
            } else if attributes.is("", "pods") && attributes.operation == Operation::Create {
                let node = new.str_at(&["spec", "nodeName"]).to_owned();
                (new, node)
            } else {
                return Ok(());
            };
            if node.is_empty() {
                return Ok(());
            }
            // A node that is not there yet, as with a static pod's mirror, has no labels to give.
            let Some(node) = self.nodes.item("", &node).await? else {
                return Ok(());
            };
            for key in ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"] {
                if let Some(value) = node.label(key) {
                    let slot = labels.metadata_mut().entry("labels").or_insert_with(|| json!({}));
                    slot[key] = value.into();
                }
            }
            Ok(())
        })
    }
}

/// What a pod's runtime class adds to it.
#[derive(Debug)]
pub(super) struct RuntimeClass {
    pub(super) classes: Source,
}

impl RuntimeClass {
    async fn of(&self, attributes: &Attributes<'_>, pod: &Object) -> Result<Option<Object>, Status> {
        let name = pod.str_at(&["spec", "runtimeClassName"]);
        if name.is_empty() {
            return Ok(None);
        }
        match self.classes.get("", name).await? {
            Some(class) => Ok(Some(class)),
            None => {
                let why = format!("pod rejected: RuntimeClass {name:?} not found");
                Err(attributes.forbidden(Some(pod), &why))
            }
        }
    }
}

impl Admit for RuntimeClass {
    fn mutate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: &'a mut Object,
        _old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if !attributes.is("", "pods") || attributes.operation != Operation::Create {
                return Ok(());
            }
            let Some(class) = self.of(attributes, new).await? else {
                return Ok(());
            };
            if let Some(overhead) = class.at(&["overhead", "podFixed"]) {
                let said = new.at(&["spec", "overhead"]);
                if said.is_some_and(|said| said != overhead) {
                    let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
                    return Err(attributes.forbidden(Some(new), why));
                }
                new.entry("spec").insert("overhead".into(), overhead.clone());
            }
            if let Err(why) = schedule(new.entry("spec"), class.at(&["scheduling"])) {
                return Err(attributes.forbidden(Some(new), &why));
            }
            Ok(())
        })
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: Option<&'a Object>,
        _old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let Some(pod) = new else { return Ok(()) };
            if !attributes.is("", "pods") || attributes.operation != Operation::Create {
                return Ok(());
            }
            let class = self.of(attributes, pod).await?;
            let given = class.as_ref().and_then(|class| class.at(&["overhead", "podFixed"]));
            if given.is_none() && pod.at(&["spec", "overhead"]).is_some() {
                let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
                return Err(attributes.forbidden(Some(pod), why));
            }
            Ok(())
        })
    }
}

fn schedule(spec: &mut Map<String, Value>, scheduling: Option<&Value>) -> Result<(), String> {
    let Some(scheduling) = scheduling else { return Ok(()) };
    if let Some(wanted) = scheduling["nodeSelector"].as_object().filter(|s| !s.is_empty()) {
        let slot = spec.entry("nodeSelector").or_insert_with(|| json!({}));
        for (key, value) in wanted {
            match slot.get(key) {
                Some(have) if have != value => {
                    return Err(format!(
                        "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                        value.as_str().unwrap_or_default(),
                        have.as_str().unwrap_or_default()
                    ));
                }
                _ => slot[key] = value.clone(),
            }
        }
    }
    let extra: Vec<Value> = items(scheduling.get("tolerations"))
        .filter(|wanted| !items(spec.get("tolerations")).any(|have| have == *wanted))
        .cloned()
        .collect();
    if !extra.is_empty() {
        match spec.get_mut("tolerations").and_then(Value::as_array_mut) {
            Some(list) => list.extend(extra),
            None => {
                spec.insert("tolerations".into(), extra.into());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(tolerations: Value, added: usize) {
        let mut spec = Map::new();
        spec.insert("tolerations".into(), tolerations.clone());
        tolerate(&mut spec);
        let after = items(spec.get("tolerations")).count();
        assert_eq!(after - items(Some(&tolerations)).count(), added, "{tolerations}");
        let before = spec.clone();
        tolerate(&mut spec);
        assert_eq!(spec, before, "a second run changes nothing");
    }

    #[test]
    fn a_pod_tolerates_a_lost_node_for_five_minutes_unless_it_says_otherwise() {
        check(json!(null), 2);
        check(json!([]), 2);
        check(json!([{"operator": "Exists"}]), 0);
        check(
            json!([{"key": NOT_READY, "effect": "NoExecute", "tolerationSeconds": 5}]),
            1,
        );
        check(json!([{"key": NOT_READY, "effect": "NoSchedule"}]), 2);
        check(json!([{"key": NOT_READY}, {"key": UNREACHABLE}]), 0);
    }

    #[test]
    fn a_runtime_class_adds_where_its_pods_may_run_and_contradicts_nobody() {
        let scheduling = json!({"nodeSelector": {"runtime": "kata"}, "tolerations": [{"key": "kata"}]});
        let mut spec = Map::new();
        schedule(&mut spec, Some(&scheduling)).unwrap();
        schedule(&mut spec, Some(&scheduling)).unwrap();
        assert_eq!(spec["nodeSelector"]["runtime"], "kata");
        assert_eq!(spec["tolerations"], json!([{"key": "kata"}]));
        spec["nodeSelector"]["runtime"] = "runc".into();
        assert!(
            schedule(&mut spec, Some(&scheduling))
                .unwrap_err()
                .starts_with("conflict:")
        );
    }
}
