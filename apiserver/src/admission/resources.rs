//! What a pod asks for and may use, added up over its tree. Pure. After k8s.io/component-helpers/resource (1.36).

use std::collections::BTreeMap;

use api::quantity::Quantity;
use serde_json::Value;

use super::items;

/// By resource name.
pub(super) type Amounts = BTreeMap<String, Quantity>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Requests,
    Limits,
}

impl Side {
    pub(super) fn word(self) -> &'static str {
        match self {
            Side::Requests => "requests",
            Side::Limits => "limits",
        }
    }
}

/// A list of quantities; what does not read is refused by validation before anybody adds it up.
pub(super) fn amounts(list: &Value) -> Amounts {
    let list = list.as_object().into_iter().flatten();
    list.filter_map(|(name, value)| Some((name.clone(), Quantity::parse(&text(value)).ok()?)))
        .collect()
}

/// Quantities may be written as numbers.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub(super) fn of_container(container: &Value, side: Side) -> Amounts {
    amounts(&container["resources"][side.word()])
}

/// The pod's total: its containers and sidecars together, or at least what its init containers need before them; what
/// the pod says for itself replaces that; and its overhead.
pub(super) fn of_pod(spec: &Value, side: Side) -> Amounts {
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

pub(super) fn add(to: &mut Amounts, other: &Amounts) {
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
pub(super) fn spell(amounts: &Amounts) -> String {
    let list: Vec<String> = amounts
        .iter()
        .map(|(name, amount)| format!("{name}={amount}"))
        .collect();
    list.join(",")
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
