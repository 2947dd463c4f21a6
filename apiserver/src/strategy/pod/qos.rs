//! The quality of service class: how a pod's requests and limits stand to each other.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use serde_json::{Map, Value};

use super::super::field::Field;
use super::super::resources::quantity;

/// `Guaranteed`, `Burstable` or `BestEffort` (component-helpers, ComputePodQOS).
pub(super) fn class(spec: &Field) -> &'static str {
    let whole = spec.get("resources");
    let lists = [spec.get("containers"), spec.get("initContainers")];
    let mut sums = Sums::default();
    if whole.get("requests").is_empty() && whole.get("limits").is_empty() {
        for resources in lists
            .iter()
            .flat_map(|list| list.array())
            .map(|container| container.get("resources"))
        {
            sums.add(resources);
        }
    } else {
        sums.add(whole.value());
    }
    let Sums {
        requests,
        limits,
        unlimited,
    } = sums;
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if !unlimited && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// Requests and limits of cpu and memory, added up.
#[derive(Default)]
struct Sums<'v> {
    requests: BTreeMap<&'v str, Quantity>,
    limits: BTreeMap<&'v str, Quantity>,
    /// Some container has no limit for one of the two.
    unlimited: bool,
}

impl<'v> Sums<'v> {
    fn add(&mut self, resources: Option<&'v Value>) {
        let list = |name: &str| resources.and_then(|r| r.get(name)).and_then(Value::as_object);
        add(list("requests"), &mut self.requests);
        self.unlimited |= add(list("limits"), &mut self.limits) < 2;
    }
}

/// Adds a list to the sums; how many of the two were in it.
fn add<'v>(list: Option<&'v Map<String, Value>>, sums: &mut BTreeMap<&'v str, Quantity>) -> usize {
    let mut found = 0;
    for (name, amount) in list
        .into_iter()
        .flatten()
        .filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory"))
    {
        if let Some(amount) = quantity(&Field::at(Some(amount), "")).filter(|amount| *amount > Quantity::ZERO) {
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
            (
                json!([{"limits": {"cpu": "1", "memory": "1"}, "requests": {"cpu": "500m", "memory": "1"}}]),
                "Burstable",
            ),
            (
                json!([{"requests": {"a.b/c": "1"}, "limits": {"a.b/c": "1"}}]),
                "BestEffort",
            ),
        ] {
            let containers: Vec<_> = resources
                .as_array()
                .expect("list")
                .iter()
                .map(|r| json!({ "resources": r }))
                .collect();
            let spec = json!({ "containers": containers });
            assert_eq!(class(&Field::at(Some(&spec), "spec")), want, "{resources}");
        }
    }
}
