//! What is served, against what an upstream server of 1.36 says of the same resources. Needs the facts about upstream in
//! the folder that `KUBERNETES_FACTS` names, and says so where it is not set.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::kit::Kit;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

#[allow(
    clippy::disallowed_methods,
    reason = "where the facts lie is the test's only configuration"
)]
fn facts() -> Option<PathBuf> {
    std::env::var("KUBERNETES_FACTS").ok().map(PathBuf::from)
}

/// `group/version/resource` with the value that describes it.
fn resources(document: &Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for group in document["items"].as_array().unwrap() {
        for version in group["versions"].as_array().unwrap() {
            for resource in version["resources"].as_array().unwrap() {
                let name = group["metadata"]["name"].as_str().unwrap_or("");
                let (version, plural) = (&version["version"], &resource["resource"]);
                found.push((
                    format!("{name}/{}/{}", version.as_str().unwrap(), plural.as_str().unwrap()),
                    resource.clone(),
                ));
            }
        }
    }
    found
}

#[tokio::test]
async fn what_is_served_is_described_as_upstream_does() {
    let Some(folder) = facts() else {
        println!("skipped: KUBERNETES_FACTS is not set");
        return;
    };
    let text = std::fs::read_to_string(folder.join("discovery-served-by-default.json")).unwrap();
    let upstream: Value = serde_json::from_str(&text).unwrap();
    let kit = Kit::new().await;
    let mut wrong = Vec::new();
    let read_only = |resource: &Value| resource["verbs"] == json!(["get", "list", "watch"]);
    for (path, key) in [("/api", "api"), ("/apis", "apis")] {
        let want = resources(&upstream[key]);
        for (name, have) in resources(&kit.get_as(path, AGGREGATED).await.expect(200)) {
            match want.iter().find(|(other, _)| *other == name) {
                Some((_, want)) if *want == have => {}
                // An empty list that is only there to be read.
                Some((_, want)) if read_only(&have) && want["responseKind"] == have["responseKind"] => {}
                Some((_, want)) => wrong.push(format!("{name}:\n  have {have}\n  want {want}")),
                None => wrong.push(format!("{name} is nothing that upstream serves")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
