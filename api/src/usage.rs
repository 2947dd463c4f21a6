//! What objects use of a quota, and what pods ask for and may use, read from their trees: the API server charges by it,
//! and the controller counts anew by it. After k8s.io/component-helpers/resource and pkg/quota/v1 (1.36).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::quantity::Quantity;

fn items(list: Option<&Value>) -> impl Iterator<Item = &Value> {
    list.and_then(Value::as_array).into_iter().flatten()
}

fn at<'a>(object: &'a Map<String, Value>, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(object.get(*first)?, |value, name| value.get(name))
}

fn text_at<'a>(object: &'a Map<String, Value>, path: &[&str]) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or_default()
}

/// As quotas name the number of any resource's objects.
pub fn counted_as(group: &str, plural: &str) -> String {
    if group.is_empty() {
        format!("count/{plural}")
    } else {
        format!("count/{plural}.{group}")
    }
}

/// By resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// Which of two lists of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What it asks for.
    Requests,
    /// What it may use.
    Limits,
}

impl Side {
    /// As its list is called.
    pub fn word(self) -> &'static str {
        match self {
            Side::Requests => "requests",
            Side::Limits => "limits",
        }
    }
}

/// A list of quantities; what does not read is refused by validation before anybody adds it up.
pub fn amounts(list: &Value) -> Amounts {
    let list = list.as_object().into_iter().flatten();
    list.filter_map(|(name, value)| Some((name.clone(), Quantity::parse(&text(value)).ok()?)))
        .collect()
}

/// Quantities may be written as numbers.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Of one container.
pub fn of_container(container: &Value, side: Side) -> Amounts {
    amounts(&container["resources"][side.word()])
}

/// The pod's total: its containers and sidecars together, or at least what its init containers need before them; what
/// the pod says for itself replaces that; and its overhead.
pub fn of_pod(spec: &Value, side: Side) -> Amounts {
    let mut total = Amounts::new();
    for container in items(spec.get("containers")) {
        add(&mut total, &of_container(container, side));
    }
    let (mut sidecars, mut init) = (Amounts::new(), Amounts::new());
    for container in items(spec.get("initContainers")) {
        let own = of_container(container, side);
        if container["restartPolicy"] == "Always" {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut init, &sidecars);
        } else {
            let mut with = own;
            add(&mut with, &sidecars);
            raise(&mut init, &with);
        }
    }
    raise(&mut total, &init);
    total.extend(amounts(&spec["resources"][side.word()]));
    let overhead = amounts(&spec["overhead"]);
    match side {
        Side::Requests => add(&mut total, &overhead),
        // Overhead belongs to limits only where there are any.
        Side::Limits => {
            for (name, amount) in overhead {
                if let Some(limit) = total.get_mut(&name) {
                    *limit += amount;
                }
            }
        }
    }
    total
}

/// Adds each amount.
pub fn add(to: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        *to.entry(name.clone()).or_insert(Quantity::ZERO) += *amount;
    }
}

fn raise(to: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let have = to.entry(name.clone()).or_insert(*amount);
        if *have < *amount {
            *have = *amount;
        }
    }
}

/// `cpu=1,memory=1Gi`.
pub fn spell(amounts: &Amounts) -> String {
    let list: Vec<String> = amounts
        .iter()
        .map(|(name, amount)| format!("{name}={amount}"))
        .collect();
    list.join(",")
}

/// Whether objects of this resource can use what is called so.
pub fn may_count(group: &str, plural: &str, name: &str) -> bool {
    if name == counted_as(group, plural) {
        return true;
    }
    match (group, plural) {
        ("", "pods") => !name.contains('/') || name.starts_with("requests.") || name.starts_with("limits."),
        ("", "persistentvolumeclaims") => name.contains("storage") || name == "persistentvolumeclaims",
        ("", "services") => name.starts_with("services"),
        ("", resource) => name == resource,
        _ => false,
    }
}

/// What one object uses.
pub fn usage(group: &str, plural: &str, object: &Map<String, Value>) -> Amounts {
    let one = |amounts: &mut Amounts, name: String| {
        amounts.insert(name, Quantity::new(1, crate::quantity::Format::DecimalSi));
    };
    let mut amounts = Amounts::new();
    one(&mut amounts, counted_as(group, plural));
    match (group, plural) {
        ("", "pods") => {
            if is_over(object) {
                return amounts;
            }
            one(&mut amounts, plural.to_owned());
            let Some(spec) = at(object, &["spec"]) else {
                return amounts;
            };
            for (name, amount) in of_pod(spec, Side::Requests) {
                if matches!(&*name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-") {
                    amounts.insert(name.clone(), amount);
                }
                amounts.insert(format!("requests.{name}"), amount);
            }
            for (name, amount) in of_pod(spec, Side::Limits) {
                amounts.insert(format!("limits.{name}"), amount);
            }
        }
        ("", "services") => {
            one(&mut amounts, plural.to_owned());
            let kind = text_at(object, &["spec", "type"]);
            if matches!(kind, "NodePort" | "LoadBalancer") {
                let ports = items(at(object, &["spec", "ports"]));
                let count = ports
                    .filter(|port| kind == "NodePort" || !port["nodePort"].is_null())
                    .count();
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                let count = Quantity::new(count, crate::quantity::Format::DecimalSi);
                amounts.insert("services.nodeports".into(), count);
            }
            if kind == "LoadBalancer" {
                one(&mut amounts, "services.loadbalancers".into());
            }
        }
        ("", "persistentvolumeclaims") => {
            one(&mut amounts, plural.to_owned());
            let class = text_at(object, &["spec", "storageClassName"]);
            let prefix = format!("{class}.storageclass.storage.k8s.io/");
            if !class.is_empty() {
                one(&mut amounts, format!("{prefix}persistentvolumeclaims"));
            }
            if let Ok(size) = Quantity::parse(text_at(object, &["spec", "resources", "requests", "storage"])) {
                amounts.insert("requests.storage".into(), size);
                if !class.is_empty() {
                    amounts.insert(format!("{prefix}requests.storage"), size);
                }
            }
        }
        ("", "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas") => {
            one(&mut amounts, plural.to_owned());
        }
        _ => {}
    }
    amounts
}

/// A pod that will not run again uses nothing.
pub fn is_over(pod: &Map<String, Value>) -> bool {
    matches!(text_at(pod, &["status", "phase"]), "Failed" | "Succeeded")
}

/// A restriction of the objects that a quota counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    name: String,
    operator: String,
    values: Vec<String>,
}

/// The restrictions of a quota.
pub fn scopes(quota: &Map<String, Value>) -> Vec<Scope> {
    let plain = items(at(quota, &["spec", "scopes"]))
        .filter_map(Value::as_str)
        .map(|name| Scope {
            name: name.to_owned(),
            operator: "Exists".into(),
            values: Vec::new(),
        });
    let chosen = items(at(quota, &["spec", "scopeSelector", "matchExpressions"])).map(|expression| Scope {
        name: expression["scopeName"].as_str().unwrap_or_default().to_owned(),
        operator: expression["operator"].as_str().unwrap_or_default().to_owned(),
        values: items(expression.get("values"))
            .filter_map(|value| value.as_str().map(str::to_owned))
            .collect(),
    });
    plain.chain(chosen).collect()
}

impl Scope {
    /// Whether an object of a resource is of it.
    pub fn holds(&self, plural: &str, object: &Map<String, Value>) -> bool {
        // Scopes speak of pods; what is no pod has none.
        if plural != "pods" {
            return false;
        }
        let Some(spec) = at(object, &["spec"]) else {
            return false;
        };
        let best_effort = || {
            let silent = |container: &Value| {
                [Side::Requests, Side::Limits]
                    .iter()
                    .all(|side| of_container(container, *side).is_empty())
            };
            ["containers", "initContainers"]
                .iter()
                .flat_map(|list| items(spec.get(list)))
                .all(silent)
                && spec["resources"].is_null()
        };
        match &*self.name {
            "BestEffort" => best_effort(),
            "NotBestEffort" => !best_effort(),
            "Terminating" => spec["activeDeadlineSeconds"]
                .as_i64()
                .is_some_and(|seconds| seconds >= 0),
            "NotTerminating" => spec["activeDeadlineSeconds"].is_null(),
            "PriorityClass" => {
                let class = spec["priorityClassName"].as_str().unwrap_or_default();
                let is_one = self.values.iter().any(|value| value == class);
                match &*self.operator {
                    "In" => is_one,
                    "NotIn" => !is_one,
                    "Exists" => !class.is_empty(),
                    "DoesNotExist" => class.is_empty(),
                    _ => false,
                }
            }
            "CrossNamespacePodAffinity" => ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
                let affinity = &spec["affinity"][*kind];
                let required = items(affinity.get("requiredDuringSchedulingIgnoredDuringExecution"));
                let preferred = items(affinity.get("preferredDuringSchedulingIgnoredDuringExecution"));
                required
                    .chain(preferred.map(|term| &term["podAffinityTerm"]))
                    .any(|term| items(term.get("namespaces")).next().is_some() || !term["namespaceSelector"].is_null())
            }),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_needs_its_containers_or_the_largest_step_before_them() {
        let cpu = |amount: &str| json!({"resources": {"requests": {"cpu": amount}}});
        let mut sidecar = cpu("100m");
        sidecar["restartPolicy"] = "Always".into();
        let spec = json!({"containers": [cpu("200m"), cpu("300m")], "initContainers": [cpu("1"), sidecar, cpu("700m")],
            "overhead": {"cpu": "50m"}});
        assert_eq!(spell(&of_pod(&spec, Side::Requests)), "cpu=1050m");
        let spec = json!({"containers": [cpu("200m")], "resources": {"requests": {"cpu": "2"}}});
        assert_eq!(spell(&of_pod(&spec, Side::Requests)), "cpu=2");
        assert_eq!(spell(&of_pod(&spec, Side::Limits)), "");
    }
}
