//! LimitRanger: what containers, pods and claims of a namespace get where they say nothing, and what they must keep to.
//! After plugin/pkg/admission/limitranger (1.36).

use api::quantity::Quantity;
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::sources::Source;
use super::{Admit, Attributes, Operation, items};
use crate::object::Object;
use crate::status::Status;
use api::usage::{self as resources, Amounts, Side};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

#[derive(Debug)]
pub(super) struct LimitRanger {
    pub(super) ranges: Source,
}

impl LimitRanger {
    /// The limits of all ranges of the namespace.
    fn limits(&self, namespace: &str) -> Vec<Value> {
        let ranges = self.ranges.list(namespace);
        ranges
            .iter()
            .flat_map(|item| {
                let range = item.object();
                items(range.at(&["spec", "limits"])).cloned().collect::<Vec<_>>()
            })
            .collect()
    }
}

impl Admit for LimitRanger {
    fn mutate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: &'a mut Object,
        _old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        if attributes.is("", "pods") && attributes.operation == Operation::Create {
            let limits = self.limits(attributes.namespace);
            let told = fill(new.entry("spec"), &limits);
            if !told.is_empty() {
                let annotations = new.metadata_mut().entry("annotations").or_insert_with(|| json!({}));
                annotations[ANNOTATION] = format!("LimitRanger plugin set: {}", told.join("; ")).into();
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: Option<&'a Object>,
        _old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let errors = match new {
            Some(object) if attributes.is("", "pods") && attributes.operation == Operation::Create => {
                check_pod(object, &self.limits(attributes.namespace))
            }
            Some(object) if attributes.is("", "persistentvolumeclaims") => {
                check_claim(object, &self.limits(attributes.namespace))
            }
            _ => Vec::new(),
        };
        Box::pin(std::future::ready(match errors.as_slice() {
            [] => Ok(()),
            [one] => Err(attributes.forbidden(new, one)),
            many => Err(attributes.forbidden(new, &format!("[{}]", many.join(", ")))),
        }))
    }
}

/// Gives containers their defaults. Returns what was given to whom.
fn fill(spec: &mut Map<String, Value>, limits: &[Value]) -> Vec<String> {
    let of_containers = limits.iter().filter(|limit| limit["type"] == "Container");
    let (mut requests, mut maxima) = (Map::new(), Map::new());
    for limit in of_containers {
        for (into, from) in [(&mut requests, "defaultRequest"), (&mut maxima, "default")] {
            for (name, value) in limit[from].as_object().into_iter().flatten() {
                into.insert(name.clone(), value.clone());
            }
        }
    }
    let mut told = Vec::new();
    for (list, word) in [("containers", "container"), ("initContainers", "init container")] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            for (side, defaults) in [("requests", &requests), ("limits", &maxima)] {
                let given = set(container, side, defaults);
                if !given.is_empty() {
                    let what = side.trim_end_matches('s');
                    told.push(format!("{} {what} for {word} {name}", given.join(", ")));
                }
            }
        }
    }
    told
}

fn set(container: &mut Value, side: &str, defaults: &Map<String, Value>) -> Vec<String> {
    let missing: Vec<(String, Value)> = defaults
        .iter()
        .filter(|(name, _)| container["resources"][side][name.as_str()].is_null())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let mut given = Vec::new();
    for (name, value) in missing {
        // Indexing makes what is missing on the way.
        if container["resources"][side].is_null() {
            container["resources"][side] = json!({});
        }
        container["resources"][side][&name] = value;
        given.push(name);
    }
    given
}

/// What one thing asks for and may use, against the bounds of one limit.
fn check(limit: &Value, kind: &str, requests: &Amounts, maxima: &Amounts) -> Vec<String> {
    let mut errors = Vec::new();
    for (name, least) in resources::amounts(&limit["min"]) {
        let bound = format!("minimum {name} usage per {kind} is {least}");
        match (requests.get(&name), maxima.get(&name)) {
            (None, _) => errors.push(format!("{bound}.  No request is specified")),
            (Some(request), _) if *request < least => errors.push(format!("{bound}, but request is {request}")),
            (_, Some(limit)) if *limit < least => errors.push(format!("{bound}, but limit is {limit}")),
            _ => {}
        }
    }
    for (name, most) in resources::amounts(&limit["max"]) {
        let bound = format!("maximum {name} usage per {kind} is {most}");
        match (requests.get(&name), maxima.get(&name)) {
            (_, None) => errors.push(format!("{bound}.  No limit is specified")),
            (_, Some(limit)) if *limit > most => errors.push(format!("{bound}, but limit is {limit}")),
            (Some(request), _) if *request > most => errors.push(format!("{bound}, but request is {request}")),
            _ => {}
        }
    }
    for (name, ratio) in resources::amounts(&limit["maxLimitRequestRatio"]) {
        let bound = format!("{name} max limit to request ratio per {kind} is {ratio}");
        let is_some = |amount: Option<&Quantity>| amount.is_some_and(|amount| *amount != Quantity::ZERO);
        match (requests.get(&name), maxima.get(&name)) {
            (request, _) if !is_some(request) => {
                errors.push(format!("{bound}, but no request is specified or request is 0"));
            }
            (_, limit) if !is_some(limit) => {
                errors.push(format!("{bound}, but no limit is specified or limit is 0"));
            }
            (Some(request), Some(limit)) => {
                let observed = limit.as_f64() / request.as_f64();
                if observed > ratio.as_f64() {
                    errors.push(format!("{bound}, but provided ratio is {observed:.6}"));
                }
            }
            _ => {}
        }
    }
    errors
}

fn check_pod(pod: &Object, limits: &[Value]) -> Vec<String> {
    let Some(spec) = pod.at(&["spec"]) else {
        return Vec::new();
    };
    let mut errors = Vec::new();
    for limit in limits {
        match limit["type"].as_str() {
            Some("Container") => {
                for container in ["containers", "initContainers"]
                    .iter()
                    .flat_map(|list| items(spec.get(list)))
                {
                    let requests = resources::of_container(container, Side::Requests);
                    let maxima = resources::of_container(container, Side::Limits);
                    errors.extend(check(limit, "Container", &requests, &maxima));
                }
            }
            Some("Pod") => {
                let requests = resources::of_pod(spec, Side::Requests);
                let maxima = resources::of_pod(spec, Side::Limits);
                errors.extend(check(limit, "Pod", &requests, &maxima));
            }
            _ => {}
        }
    }
    errors
}

fn check_claim(claim: &Object, limits: &[Value]) -> Vec<String> {
    const KIND: &str = "PersistentVolumeClaim";
    let none = Value::Null;
    let requests = resources::amounts(claim.at(&["spec", "resources", "requests"]).unwrap_or(&none));
    let mut errors = Vec::new();
    for limit in limits.iter().filter(|limit| limit["type"] == KIND) {
        for (name, least) in resources::amounts(&limit["min"]) {
            if let Some(request) = requests.get(&name).filter(|request| **request < least) {
                errors.push(format!(
                    "minimum {name} usage per {KIND} is {least}, but request is {request}"
                ));
            }
        }
        for (name, most) in resources::amounts(&limit["max"]) {
            if let Some(request) = requests.get(&name).filter(|request| **request > most) {
                errors.push(format!(
                    "maximum {name} usage per {KIND} is {most}, but request is {request}"
                ));
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(requests: Value, limits: Value) -> Object {
        let container = json!({"name": "c", "resources": {"requests": requests, "limits": limits}});
        match json!({"spec": {"containers": [container]}}) {
            Value::Object(map) => Object(map),
            _ => unreachable!(),
        }
    }

    #[test]
    fn a_container_gets_what_it_does_not_say() {
        let limits =
            [json!({"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "500m"}})];
        let mut pod = pod(json!(null), json!({"cpu": "2"}));
        let told = fill(pod.entry("spec"), &limits);
        assert_eq!(told, ["cpu request for container c", "memory limit for container c"]);
        let container = &pod.at(&["spec", "containers"]).unwrap()[0];
        let want = json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "2", "memory": "1Gi"}});
        assert_eq!(container["resources"], want);
        assert!(
            fill(pod.entry("spec"), &limits).is_empty(),
            "a second run changes nothing"
        );
    }

    #[test]
    fn bounds_are_told_as_upstream_tells_them() {
        for (kind, limit, requests, limits, want) in [
            (
                "Container",
                json!({"min": {"cpu": "100m"}}),
                json!({"cpu": "50m"}),
                json!(null),
                "minimum cpu usage per Container is 100m, but request is 50m",
            ),
            (
                "Container",
                json!({"min": {"cpu": "100m"}}),
                json!(null),
                json!(null),
                "minimum cpu usage per Container is 100m.  No request is specified",
            ),
            (
                "Pod",
                json!({"max": {"memory": "1Gi"}}),
                json!(null),
                json!({"memory": "2Gi"}),
                "maximum memory usage per Pod is 1Gi, but limit is 2Gi",
            ),
            (
                "Container",
                json!({"max": {"cpu": "1"}}),
                json!(null),
                json!(null),
                "maximum cpu usage per Container is 1.  No limit is specified",
            ),
            (
                "Container",
                json!({"maxLimitRequestRatio": {"cpu": "2"}}),
                json!({"cpu": "1"}),
                json!({"cpu": "3"}),
                "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
            ),
            (
                "Container",
                json!({"min": {"cpu": "1"}, "max": {"cpu": "2"}}),
                json!({"cpu": "1"}),
                json!({"cpu": "2"}),
                "",
            ),
        ] {
            let mut limit = limit;
            limit["type"] = kind.into();
            let errors = check_pod(&pod(requests, limits), &[limit]);
            assert_eq!(errors.join(" | "), want);
        }
    }
}
