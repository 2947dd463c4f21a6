//! What to do about one wanted object, given what is there. Pure.
//! After pkg/registry/rbac/rest and component-helpers/auth/rbac/reconciliation (1.36).

use serde_json::{Map, Value, json};

use super::rbac::AUTOUPDATE;
use super::{Keep, Wanted};
use crate::authz::rbac::{BindingObject, GROUP, RoleObject};
use crate::authz::rules;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Nothing,
    Create(Value),
    Update(Value),
    /// A binding's role cannot be changed: it is deleted and made again.
    Replace(Value),
}

pub(super) fn plan(wanted: &Wanted, have: Option<&Value>) -> Step {
    let Some(have) = have else {
        return Step::Create(wanted.object.clone());
    };
    if wanted.group == GROUP {
        return reconcile_rbac(wanted, have);
    }
    match wanted.keep {
        Keep::Existence => Step::Nothing,
        Keep::Content => {
            let mut new = have.clone();
            for (field, value) in wanted.object.as_object().into_iter().flatten() {
                if field != "metadata" {
                    new[field] = value.clone();
                }
            }
            add_entries(&mut new, &wanted.object, "labels");
            if new == *have { Step::Nothing } else { Step::Update(new) }
        }
    }
}

fn reconcile_rbac(wanted: &Wanted, have: &Value) -> Step {
    if have["metadata"]["annotations"][AUTOUPDATE] == "false" {
        return Step::Nothing;
    }
    if !wanted.object["roleRef"].is_null() {
        return reconcile_binding(wanted, have);
    }
    let mut new = have.clone();
    add_entries(&mut new, &wanted.object, "labels");
    add_entries(&mut new, &wanted.object, "annotations");
    if wanted.object["aggregationRule"].is_null() {
        let role = |object: &Value| {
            serde_json::from_value::<RoleObject>(object.clone())
                .unwrap_or_default()
                .rules
        };
        let missing = rules::missing(&role(have), &role(&wanted.object));
        if !missing.is_empty() {
            push_all(&mut new, "rules", missing.iter().map(|rule| json!(rule)));
        }
    } else {
        let selectors = |object: &Value| {
            let list = &object["aggregationRule"]["clusterRoleSelectors"];
            list.as_array().cloned().unwrap_or_default()
        };
        let mut list = selectors(have);
        let missing = selectors(&wanted.object).into_iter().filter(|s| !list.contains(s));
        let missing: Vec<Value> = missing.collect();
        if !missing.is_empty() {
            list.extend(missing);
            new["aggregationRule"] = json!({"clusterRoleSelectors": list});
        }
    }
    if new == *have { Step::Nothing } else { Step::Update(new) }
}

fn reconcile_binding(wanted: &Wanted, have: &Value) -> Step {
    let binding = |object: &Value| serde_json::from_value::<BindingObject>(object.clone()).unwrap_or_default();
    let (held, asked) = (binding(have), binding(&wanted.object));
    if held.role_ref != asked.role_ref {
        let mut new = wanted.object.clone();
        // Subjects that a person added go over to the new binding.
        push_missing_subjects(&mut new, &asked, &held, have);
        return Step::Replace(new);
    }
    let mut new = have.clone();
    add_entries(&mut new, &wanted.object, "labels");
    add_entries(&mut new, &wanted.object, "annotations");
    push_missing_subjects(&mut new, &held, &asked, &wanted.object);
    if new == *have { Step::Nothing } else { Step::Update(new) }
}

/// The subjects of `from` (in its JSON form `source`) that `have` lacks.
fn push_missing_subjects(new: &mut Value, have: &BindingObject, from: &BindingObject, source: &Value) {
    let list = source["subjects"].as_array().cloned().unwrap_or_default();
    let missing = from
        .subjects
        .iter()
        .zip(list)
        .filter(|(s, _)| !have.subjects.contains(s));
    let missing: Vec<Value> = missing.map(|(_, value)| value).collect();
    if !missing.is_empty() {
        push_all(new, "subjects", missing);
    }
}

fn push_all(object: &mut Value, field: &str, values: impl IntoIterator<Item = Value>) {
    if !object[field].is_array() {
        object[field] = json!([]);
    }
    if let Some(list) = object[field].as_array_mut() {
        list.extend(values);
    }
}

/// What is there stays as it is: a person may have changed it.
fn add_entries(new: &mut Value, wanted: &Value, field: &str) {
    let Some(wanted) = wanted["metadata"][field].as_object() else {
        return;
    };
    let slot = &mut new["metadata"][field];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    for (key, value) in wanted {
        if slot[key].is_null() {
            slot[key] = value.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(rules: Value) -> Wanted {
        Wanted::new(
            GROUP,
            "clusterroles",
            json!({"metadata": {"name": "r", "annotations": {AUTOUPDATE: "true"}}, "rules": rules}),
        )
    }
    fn rule(verbs: &[&str]) -> Value {
        json!({"apiGroups": [""], "resources": ["pods"], "verbs": verbs})
    }

    #[test]
    fn a_role_gains_what_it_lacks_and_loses_nothing() {
        let wanted = role(json!([rule(&["get", "list"])]));
        assert_eq!(plan(&wanted, None), Step::Create(wanted.object.clone()));
        assert_eq!(plan(&wanted, Some(&wanted.object)), Step::Nothing);
        let mut have = role(json!([rule(&["get", "delete"])])).object;
        let Step::Update(new) = plan(&wanted, Some(&have)) else {
            panic!("an update")
        };
        assert_eq!(new["rules"], json!([rule(&["get", "delete"]), rule(&["list"])]));
        assert_eq!(plan(&wanted, Some(&new)), Step::Nothing);
        have["metadata"]["annotations"][AUTOUPDATE] = "false".into();
        assert_eq!(plan(&wanted, Some(&have)), Step::Nothing);
    }

    #[test]
    fn a_binding_gains_subjects_and_a_wrong_role_replaces_it() {
        let subject = |name: &str| json!({"kind": "User", "name": name});
        let binding = |role: &str, subjects: Value| {
            Wanted::new(
                GROUP,
                "clusterrolebindings",
                json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": role}, "subjects": subjects}),
            )
        };
        let wanted = binding("r", json!([subject("a")]));
        let have = binding("r", json!([subject("x")])).object;
        let Step::Update(new) = plan(&wanted, Some(&have)) else {
            panic!("an update")
        };
        assert_eq!(new["subjects"], json!([subject("x"), subject("a")]));
        let have = binding("other", json!([subject("x")])).object;
        let Step::Replace(new) = plan(&wanted, Some(&have)) else {
            panic!("a replacement")
        };
        assert_eq!(new["subjects"], json!([subject("a"), subject("x")]));
    }

    #[test]
    fn content_is_kept_where_it_is_ours_and_only_there() {
        let object = json!({"metadata": {"name": "c"}, "data": {"a": "1"}});
        let mut have = object.clone();
        have["data"] = json!({"a": "2"});
        have["metadata"]["uid"] = "u".into();
        assert_eq!(
            plan(&Wanted::new("", "configmaps", object.clone()), Some(&have)),
            Step::Nothing
        );
        let Step::Update(new) = plan(&Wanted::kept("", "configmaps", object.clone()), Some(&have)) else {
            panic!("an update")
        };
        assert_eq!((&new["data"], &new["metadata"]["uid"]), (&object["data"], &json!("u")));
    }
}
