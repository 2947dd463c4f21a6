//! Cluster roles made of others are born with the union of all that their selectors choose. A controller keeps them so.
//! After pkg/controller/clusterroleaggregation (1.36).

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::Wanted;
use crate::authz::rbac::RoleObject;
use crate::authz::rules::Rule;

/// A cluster role as far as aggregation goes.
#[derive(Debug, Clone)]
struct Role {
    labels: HashMap<String, String>,
    rules: Vec<Rule>,
    /// Present in a union: its selectors.
    selectors: Option<Vec<Selector>>,
}

#[derive(Debug, Clone)]
struct Selector(api::selector::Labels);

impl Role {
    fn read(object: &Value) -> Role {
        let labels = object["metadata"]["labels"].as_object();
        let selectors = object["aggregationRule"]["clusterRoleSelectors"].as_array();
        Role {
            labels: labels
                .into_iter()
                .flatten()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect(),
            rules: serde_json::from_value::<RoleObject>(object.clone())
                .unwrap_or_default()
                .rules,
            selectors: (!object["aggregationRule"].is_null())
                .then(|| selectors.into_iter().flatten().filter_map(Selector::read).collect()),
        }
    }
}

impl Selector {
    /// `None`: it does not parse, and selects nothing.
    fn read(selector: &Value) -> Option<Selector> {
        let structured = serde_json::from_value(selector.clone()).ok()?;
        let labels = api::selector::Labels::from_structured(Some(&structured)).ok()?;
        Some(Selector(labels))
    }
    fn selects(&self, role: &Role) -> bool {
        self.0.matches(|key| role.labels.get(key).map(String::as_str))
    }
}

/// The rules that the union `name` should have: those of each role that it selects, by name, each once.
fn union(name: &str, selectors: &[Selector], roles: &BTreeMap<String, Role>) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for selector in selectors {
        for (other, role) in roles {
            if other == name || !selector.selects(role) {
                continue;
            }
            for rule in &role.rules {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    rules
}

/// The unions whose rules are not as they should be, with those that should be. A union of unions settles in some rounds.
fn outdated(roles: &mut BTreeMap<String, Role>) -> BTreeMap<String, Vec<Rule>> {
    let mut out = BTreeMap::new();
    // Each round settles one more level, and there are at most as many levels as roles.
    for _ in 0..roles.len() {
        let changed: Vec<(String, Vec<Rule>)> = roles
            .iter()
            .filter_map(|(name, role)| {
                let rules = union(name, role.selectors.as_ref()?, roles);
                (rules != role.rules).then(|| (name.clone(), rules))
            })
            .collect();
        if changed.is_empty() {
            break;
        }
        for (name, rules) in changed {
            if let Some(role) = roles.get_mut(&name) {
                role.rules.clone_from(&rules);
            }
            out.insert(name, rules);
        }
    }
    out
}

/// Gives the unions among `wanted` their rules, so that they are born whole.
pub(super) fn fill(wanted: &mut [Wanted]) {
    let mut roles: BTreeMap<String, Role> = wanted
        .iter()
        .filter(|wanted| wanted.plural == "clusterroles")
        .map(|wanted| (wanted.text("name").to_owned(), Role::read(&wanted.object)))
        .collect();
    let outdated = outdated(&mut roles);
    for wanted in wanted.iter_mut().filter(|wanted| wanted.plural == "clusterroles") {
        if let Some(rules) = outdated.get(wanted.text("name")) {
            wanted.object["rules"] = json!(rules);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, joins: Option<&str>, union: Option<&str>, verbs: &[&str]) -> (String, Role) {
        let mut object = json!({"metadata": {"name": name, "labels": {}},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]});
        if let Some(joins) = joins {
            object["metadata"]["labels"][joins] = "true".into();
        }
        if let Some(union) = union {
            object["rules"] = json!([]);
            object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {union: "true"}}]});
        }
        (name.to_owned(), Role::read(&object))
    }

    #[test]
    fn a_union_of_unions_holds_the_rules_of_all() {
        let mut roles = BTreeMap::from([
            role("admin", None, Some("to-admin"), &[]),
            role("view", Some("to-admin"), Some("to-view"), &[]),
            role("reader", Some("to-view"), None, &["get"]),
            role("writer", Some("to-admin"), None, &["update"]),
            role("stranger", None, None, &["delete"]),
        ]);
        let outdated_ = outdated(&mut roles);
        let verbs =
            |name: &str| -> Vec<String> { outdated_[name].iter().map(|rule| rule.verbs[0].to_string()).collect() };
        assert_eq!(verbs("view"), ["get"]);
        assert_eq!(verbs("admin"), ["get", "update"]);
        assert!(outdated(&mut roles).is_empty());
    }

    #[test]
    fn a_union_loses_what_left_it() {
        let (name, mut union) = role("view", None, Some("to-view"), &[]);
        union.rules = vec![Rule::all_resources()];
        let mut roles = BTreeMap::from([(name, union)]);
        assert_eq!(outdated(&mut roles)["view"], []);
    }
}
