//! The quality of service class: how a pod's requests and limits stand to each other.

use std::collections::BTreeMap;

use api::quantity::Quantity;

use super::super::field::Field;
use super::super::resources::quantity;

/// `Guaranteed`, `Burstable` or `BestEffort` (component-helpers, ComputePodQOS).
pub(super) fn class(spec: &Field) -> &'static str {
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    let mut guaranteed = true;
    let mut judge = |resources: &Field| {
        add(&resources.get("requests"), &mut requests);
        let limited = add(&resources.get("limits"), &mut limits);
        guaranteed &= limited == 2;
    };
    let whole = spec.get("resources");
    if whole.get("requests").is_empty() && whole.get("limits").is_empty() {
        for kind in ["containers", "initContainers"] {
            for container in spec.get(kind).items() {
                judge(&container.get("resources"));
            }
        }
    } else {
        judge(&whole);
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if guaranteed && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// Adds cpu and memory to the sums; how many of the two were there.
fn add<'v>(list: &Field<'v, '_>, sums: &mut BTreeMap<&'v str, Quantity>) -> usize {
    let mut found = 0;
    for (name, amount) in list.entries().filter(|(name, _)| matches!(*name, "cpu" | "memory")) {
        if let Some(amount) = quantity(&amount).filter(|amount| *amount > Quantity::ZERO) {
            *sums.entry(name).or_insert(Quantity::ZERO) += amount;
            found += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_class_follows_requests_and_limits() {
        let full = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1000m", "memory": "1Gi"}});
        for (resources, want) in [
            (json!([{}]), "BestEffort"),
            (json!([full]), "Guaranteed"),
            (json!([full, {}]), "Burstable"),
            (json!([{"requests": {"cpu": "1"}}]), "Burstable"),
            (json!([{"limits": {"cpu": "1", "memory": "1"}, "requests": {"cpu": "500m", "memory": "1"}}]), "Burstable"),
            (json!([{"requests": {"a.b/c": "1"}, "limits": {"a.b/c": "1"}}]), "BestEffort"),
        ] {
            let containers: Vec<_> =
                resources.as_array().expect("list").iter().map(|r| json!({ "resources": r })).collect();
            let spec = json!({ "containers": containers });
            assert_eq!(class(&Field::at(Some(&spec), "spec")), want, "{resources}");
        }
    }
}
