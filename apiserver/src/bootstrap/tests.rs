use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;

fn parameters() -> Parameters {
    Parameters {
        now: "2026-11-21T00:00:00Z".parse().unwrap(),
        advertise_address: "192.0.2.1".parse().unwrap(),
        port: 6443,
        service_cidrs: vec!["10.96.0.0/16".into()],
        service_address: "10.96.0.1".parse().unwrap(),
        client_ca: Some("<certificate>".into()),
        front_proxy_ca: Some("<certificate>".into()),
        front_proxy: FrontProxy::default(),
    }
}

/// Lists whose order means nothing, sorted; what the facts leave out, left out.
fn normal(mut object: Value) -> Value {
    for field in ["apiVersion", "kind", "status"] {
        object.as_object_mut().unwrap().remove(field);
    }
    for rule in object["rules"].as_array_mut().into_iter().flatten() {
        for list in rule.as_object_mut().unwrap().values_mut() {
            let list = list.as_array_mut().unwrap();
            list.sort_by_key(Value::to_string);
        }
    }
    if let Some(rules) = object["rules"].as_array_mut() {
        rules.sort_by_key(Value::to_string);
    } else {
        object.as_object_mut().unwrap().remove("rules");
    }
    object
}

fn key(object: &Value) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text("namespace"), text("name"))
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "where the facts are is told by the environment"
)]
fn a_cluster_is_born_with_what_upstreams_is() {
    let Ok(facts) = std::env::var("KUBERNETES_FACTS") else {
        println!("skipped: KUBERNETES_FACTS is not set");
        return;
    };
    let wanted = wanted(&parameters());
    // A controller publishes kube-root-ca.crt.
    let others = |name: &str| name.ends_with("/kube-root-ca.crt");
    for plural in [
        "clusterroles",
        "clusterrolebindings",
        "roles",
        "rolebindings",
        "namespaces",
        "priorityclasses",
        "servicecidrs",
        "services",
        "configmaps",
    ] {
        let path = std::path::Path::new(&facts)
            .join("bootstrap")
            .join(format!("{plural}.json"));
        let list: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let upstream: BTreeMap<String, Value> = list
            .into_iter()
            .map(|object| (key(&object), normal(object)))
            .filter(|(name, _)| !others(name))
            .collect();
        let ours: BTreeMap<String, Value> = wanted
            .iter()
            .filter(|wanted| wanted.plural == plural)
            .map(|wanted| (key(&wanted.object), normal(wanted.object.clone())))
            // Upstream leaves metrics.k8s.io to another program, which brings this role; others gather its rules.
            .filter(|(name, _)| name != "/system:aggregated-metrics-reader")
            .map(|(name, mut object)| {
                let gathers = ["/admin", "/edit", "/view"].contains(&name.as_str());
                if let Some(rules) = object
                    .get_mut("rules")
                    .and_then(Value::as_array_mut)
                    .filter(|_| gathers)
                {
                    rules.retain(|rule| rule["apiGroups"] != json!(["metrics.k8s.io"]));
                }
                (name, object)
            })
            .collect();
        assert_eq!(
            ours.keys().collect::<Vec<_>>(),
            upstream.keys().collect::<Vec<_>>(),
            "{plural}"
        );
        for (name, object) in &ours {
            assert_eq!(object, &upstream[name], "{plural} {name}");
        }
    }
}

#[test]
fn the_nodes_rules_are_found_by_the_roles_name() {
    let rules = rbac::rules_of("system:node");
    assert!(rules.iter().any(|rule| rule.resources.iter().any(|r| &**r == "nodes")));
    assert!(rbac::rules_of("nobody").is_empty());
}

#[test]
fn the_table_knows_short_words_for_verbs() {
    let view = rbac::rules_of("system:aggregate-to-view");
    assert_eq!(json!(view[0].verbs), json!(["get", "list", "watch"]));
}
