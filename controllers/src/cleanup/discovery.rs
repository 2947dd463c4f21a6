//! Which resources the server has.

use daemon::informer::Resource;
use http::{Request, header};
use serde::Deserialize;

use crate::Error;

/// A resource that is served, and what can be done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    pub resource: Resource,
    pub namespaced: bool,
    verbs: Vec<String>,
    /// The versions in which it is served as well: owner references may name any.
    versions: Vec<String>,
}

impl Served {
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|have| have == verb)
    }

    /// Whether an `apiVersion` and kind mean this resource.
    pub fn is(&self, api_version: &str, kind: &str) -> bool {
        if self.resource.kind != kind {
            return false;
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.resource.group == group && self.versions.iter().any(|have| have == version)
    }
}

/// Everything that is served, each resource in its group's preferred version, and the groups that did not answer.
#[derive(Debug, Default)]
pub struct Catalog {
    pub served: Vec<Served>,
    pub stale: Vec<String>,
}

/// Asks the server. An aggregated API that is down is named, not an error.
pub async fn discover(client: &kube::Client) -> Result<Catalog, Error> {
    let mut catalog = Catalog::default();
    for path in ["/api", "/apis"] {
        let request = Request::get(path)
            .header(
                header::ACCEPT,
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            )
            .body(Vec::new())
            .expect("a literal path makes a URI");
        let groups: Groups = client.request(request).await?;
        groups.items.into_iter().for_each(|group| catalog.add(group));
    }
    Ok(catalog)
}

#[derive(Deserialize)]
struct Groups {
    items: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    metadata: Named,
    #[serde(default)]
    versions: Vec<Version>,
}

#[derive(Deserialize, Default)]
struct Named {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Version {
    version: String,
    #[serde(default)]
    resources: Vec<Listed>,
    #[serde(default)]
    freshness: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    resource: String,
    #[serde(default)]
    response_kind: Kind,
    scope: String,
    #[serde(default)]
    verbs: Vec<String>,
}

#[derive(Deserialize, Default)]
struct Kind {
    #[serde(default)]
    kind: String,
}

impl Catalog {
    /// The versions of a group come in order of preference.
    fn add(&mut self, group: Group) {
        let name = group.metadata.name;
        for version in group.versions {
            if version.freshness.as_deref() == Some("Stale") {
                self.stale.push(format!("{name}/{}", version.version));
            }
            for listed in version.resources {
                let same = |have: &&mut Served| have.resource.group == name && have.resource.plural == listed.resource;
                if let Some(have) = self.served.iter_mut().find(same) {
                    have.versions.push(version.version.clone());
                    continue;
                }
                self.served.push(Served {
                    resource: Resource {
                        group: name.clone().into(),
                        version: version.version.clone().into(),
                        plural: listed.resource.into(),
                        kind: listed.response_kind.kind.into(),
                    },
                    namespaced: listed.scope == "Namespaced",
                    verbs: listed.verbs,
                    versions: vec![version.version.clone()],
                });
            }
        }
    }

    /// What can be listed, watched and deleted, without what is only another face of something else.
    pub fn collectable(&self) -> impl Iterator<Item = &Served> {
        let verbs = ["delete", "list", "watch"];
        // Events have no dependents and no owners, and there are many.
        let served = self.served.iter().filter(|served| served.resource.plural != "events");
        served.filter(move |served| verbs.iter().all(|verb| served.can(verb)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_resource_is_listed_once_in_the_preferred_version() {
        let mut catalog = Catalog::default();
        let resource = |name: &str, verbs: &[&str]| json!({"resource": name, "responseKind": {"kind": "Thing"}, "scope": "Namespaced", "verbs": verbs});
        let all = ["delete", "list", "watch"];
        let group = json!({"metadata": {"name": "g"}, "versions": [
            {"version": "v2", "resources": [resource("things", &all), resource("reviews", &["create"])]},
            {"version": "v1", "freshness": "Stale", "resources": [resource("things", &all)]},
        ]});
        catalog.add(serde_json::from_value(group).unwrap());
        assert_eq!(catalog.stale, ["g/v1"]);
        let things: Vec<_> = catalog.collectable().collect();
        assert_eq!(things.len(), 1);
        assert_eq!(things[0].resource.version, "v2");
        assert!(things[0].is("g/v1", "Thing") && things[0].is("g/v2", "Thing") && !things[0].is("g/v3", "Thing"));
    }
}
