//! Does who grants hold what he grants? Pure: rules against rules, after
//! component-helpers/auth/rbac/validation/policy_comparator.go (1.36).

use std::sync::Arc;

use super::rules::{Rule, url_matches};

/// The parts of `granted` that no rule of `held` covers, each a rule about one thing; empty when all is held.
pub fn missing(held: &[Rule], granted: &[Rule]) -> Vec<Rule> {
    granted
        .iter()
        .flat_map(atoms)
        .filter(|atom| !held.iter().any(|rule| covers(rule, atom)))
        .collect()
}

/// `missing` joined for people: atoms that differ in their verbs only become one rule.
pub(super) fn compact(atoms: Vec<Rule>) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for atom in atoms {
        let same = |rule: &&mut Rule| {
            rule.api_groups == atom.api_groups
                && rule.resources == atom.resources
                && rule.resource_names == atom.resource_names
                && rule.urls == atom.urls
                // Upstream joins rules of one resource only, never paths.
                && atom.urls.is_empty()
        };
        match rules.iter_mut().find(same) {
            Some(rule) => rule.verbs.extend(atom.verbs),
            None => rules.push(atom),
        }
    }
    rules
}

/// One rule per group × resource × name × verb, and per path × verb.
fn atoms(rule: &Rule) -> Vec<Rule> {
    let one = |value: &Arc<str>| vec![value.clone()];
    let mut atoms = Vec::new();
    for group in &rule.api_groups {
        for resource in &rule.resources {
            for verb in &rule.verbs {
                let atom = Rule {
                    api_groups: one(group),
                    resources: one(resource),
                    verbs: one(verb),
                    ..Rule::default()
                };
                if rule.resource_names.is_empty() {
                    atoms.push(atom);
                    continue;
                }
                atoms.extend(rule.resource_names.iter().map(|name| Rule {
                    resource_names: one(name),
                    ..atom.clone()
                }));
            }
        }
    }
    for url in &rule.urls {
        atoms.extend(rule.verbs.iter().map(|verb| Rule {
            urls: one(url),
            verbs: one(verb),
            ..Rule::default()
        }));
    }
    atoms
}

fn covers(held: &Rule, atom: &Rule) -> bool {
    let all = |have: &[Arc<str>], want: &[Arc<str>]| {
        have.iter().any(|h| &**h == "*") || want.iter().all(|w| have.contains(w))
    };
    all(&held.verbs, &atom.verbs)
        && all(&held.api_groups, &atom.api_groups)
        && atom.resources.iter().all(|want| {
            held.resources.iter().any(|have| {
                &**have == "*"
                    || have == want
                    // `*/scale` holds `deployments/scale`.
                    || matches!((have.split_once('/'), want.split_once('/')),
                        (Some(("*", have)), Some((_, want))) if have == want)
            })
        })
        && (held.resource_names.is_empty()
            || (!atom.resource_names.is_empty() && atom.resource_names.iter().all(|n| held.resource_names.contains(n))))
        && atom
            .urls
            .iter()
            .all(|want| held.urls.iter().any(|have| url_matches(have, want)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Target;
    use super::*;

    fn words(from: &'static [&'static str], least: usize) -> impl Strategy<Value = Vec<Arc<str>>> {
        proptest::sample::subsequence(from.to_vec(), least..=from.len())
            .prop_map(|words| words.into_iter().map(Arc::from).collect())
    }
    fn rule() -> impl Strategy<Value = Rule> {
        (
            words(&["", "apps", "*"], 1),
            words(&["pods", "pods/log", "*/log", "*"], 1),
            words(&["a", "b"], 0),
            words(&["get", "list", "*"], 1),
        )
            .prop_map(|(api_groups, resources, resource_names, verbs)| Rule {
                api_groups,
                resources,
                resource_names,
                verbs,
                ..Rule::default()
            })
    }

    proptest! {
        #[test]
        fn what_is_covered_allows_nothing_more(held in proptest::collection::vec(rule(), 0..4), granted in rule()) {
            prop_assume!(missing(&held, std::slice::from_ref(&granted)).is_empty());
            for group in ["", "apps", "other"] {
                for (resource, subresource) in [("pods", ""), ("pods", "log"), ("jobs", "log"), ("jobs", "")] {
                    for name in ["a", "b", "c", ""] {
                        for verb in ["get", "list", "delete"] {
                            let target = Target::Resource {
                                group, version: "v1", resource, subresource, namespace: "", name, fields: None,
                            };
                            if granted.allows(verb, &target) {
                                prop_assert!(held.iter().any(|r| r.allows(verb, &target)), "{verb} {target:?}");
                            }
                        }
                    }
                }
            }
        }

        #[test]
        fn everybody_holds_what_he_holds(rules in proptest::collection::vec(rule(), 0..4)) {
            prop_assert!(missing(&rules, &rules).is_empty());
        }
    }

    #[test]
    fn what_is_missing_is_joined_by_verb() {
        let list = |text: &str| text.split(' ').map(Arc::from).collect::<Vec<Arc<str>>>();
        let granted = Rule {
            api_groups: list("apps"),
            resources: list("deployments"),
            verbs: list("get list delete"),
            ..Rule::default()
        };
        let held = Rule {
            verbs: list("list"),
            ..granted.clone()
        };
        let missing = compact(missing(&[held], &[granted]));
        assert_eq!(missing.len(), 1);
        assert_eq!(
            missing[0].to_string(),
            r#"{APIGroups:["apps"], Resources:["deployments"], Verbs:["get" "delete"]}"#
        );
    }
}
